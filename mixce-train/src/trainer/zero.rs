//! AdamW's moments divided over the ranks: stage 1 of ZeRO.
//!
//! Rajbhandari et al., *ZeRO: memory optimizations toward training trillion parameter models*, SC 2020. Every rank has all weights and gradients,
//! and the moments of its shard. In a step, gradients are reduce-scattered during the backward pass, each rank updates its shard of the weights, and
//! an all-gather makes the weights whole. The update is elementwise and the gradient norm is summed in the order of one process, so the weights have
//! the bits of a run with all moments on every rank.
use std::sync::Arc;

use candle_core::{Device, Tensor};
use mixce_kernels::{SQUARES_CHUNK, chunk_squares};

use super::TrainStep;
use super::variables::Variables;
use crate::checkpoint::NamedTensors;
use crate::distributed::{Communicator, Shards};
use crate::error::{Error, Result};
use crate::optim::GradientNorms;
use crate::run_folder::device_name;

/// The shards of a model and the ranks that have them.
#[derive(Debug)]
pub(super) struct Sharding {
    shards: Shards,
    ranks: Arc<dyn Communicator>,
}

impl TrainStep {
    /// The same with AdamW's moments divided over the ranks of [`Self::with_ranks`], of which there are several.
    ///
    /// # Errors
    /// [`Error::Config`] on a device other than the CPU.
    pub fn with_sharded_optimizer(mut self) -> Result<Self> {
        let device = self.model.device();
        if !device.is_cpu() {
            return Err(Error::config(format!(
                "`config.shard_optimizer`: expected `cpu` as `config.device`, got `{}`",
                device_name(device)
            )));
        }
        let lengths = self.variables.iter().map(|(_, variable)| variable.elem_count());
        let shards = Shards::new(lengths, self.ranks.size());
        self.optimizer.restrict(shards.parts(self.ranks.rank()))?;
        self.sharding = Some(Sharding { shards, ranks: self.ranks.clone() });
        Ok(self)
    }

    /// AdamW's moments, whole on rank 0; on the others there may be none.
    pub(super) fn whole_moments(&self) -> Result<NamedTensors> {
        match &self.sharding {
            Some(sharding) => sharding.gather_moments(&self.optimizer.state(), &self.variables),
            None => Ok(self.optimizer.state()),
        }
    }
}

impl Sharding {
    pub(super) fn shards(&self) -> &Shards {
        &self.shards
    }

    /// The norms of gradients of which each rank has its shard.
    pub(super) fn norms(&self, gradients: &[Tensor]) -> Result<GradientNorms> {
        let mut own = Vec::new();
        for (gradient, part) in gradients.iter().zip(self.shards.parts(self.ranks.rank())) {
            let squares = gradient
                .flatten_all()
                .and_then(|flat| chunk_squares(&flat.narrow(0, part.start, part.len())?))
                .map_err(Error::tensor("gradient norm"))?;
            own.extend(squares.iter().flat_map(|square| square.to_le_bytes()));
        }
        let all = self.ranks.all_gather(own)?;
        let mut squares =
            all.iter().flat_map(|bytes| bytes.as_chunks().0).map(|bytes| f64::from_le_bytes(*bytes));
        let of_tensor = |gradient: &Tensor| {
            squares.by_ref().take(gradient.elem_count().div_ceil(SQUARES_CHUNK)).sum::<f64>()
        };
        Ok(GradientNorms::of_squares(gradients.iter().map(of_tensor).collect()))
    }

    /// The weights of all shards, on every rank.
    pub(super) fn gather_weights(&self, variables: &Variables) -> Result<()> {
        variables.edit(|weights| self.ranks.all_gather_shards(weights, &self.shards))
    }

    /// The moments of all shards on rank 0, in the shapes of their parameters.
    fn gather_moments(&self, state: &NamedTensors, variables: &Variables) -> Result<NamedTensors> {
        let mut whole = Vec::new();
        // The first moments of all parameters, then the second ones.
        for moments in state.chunks((state.len() / 2).max(1)) {
            let mut own = Vec::with_capacity(self.shards.shard(self.ranks.rank()).len());
            for (_, part) in moments {
                let values = part.flatten_all().and_then(|part| part.to_vec1::<f32>());
                own.extend(values.map_err(Error::tensor("optimizer moments"))?);
            }
            let all = self.ranks.gather_shards(&own, &self.shards)?;
            if self.ranks.rank() == 0 {
                let names = moments.iter().map(|(name, _)| name.as_str());
                whole.extend(divided(all, names, variables).map_err(Error::tensor("optimizer moments"))?);
            }
        }
        Ok(whole)
    }
}

/// Tensors of these names in the shapes of the variables, one after another in `values`, whose memory they share.
fn divided<'a>(
    values: Vec<f32>,
    names: impl Iterator<Item = &'a str>,
    variables: &Variables,
) -> candle_core::Result<NamedTensors> {
    let (mut start, count) = (0, values.len());
    let values = Tensor::from_vec(values, count, &Device::Cpu)?;
    let tensor = |(name, (_, variable)): (&str, (&str, &Tensor))| {
        let own = values.narrow(0, start, variable.elem_count())?.reshape(variable.shape())?;
        start += variable.elem_count();
        Ok((name.to_owned(), own))
    };
    names.zip(variables.iter()).map(tensor).collect()
}
