//! What the ranks of a run tell each other.
use candle_core::Tensor;

use super::sums::StepSums;
use super::{TrainStep, Trainer};
use crate::config::Selection;
use crate::distributed::{lead, require_same};
use crate::error::{Error, Result};

impl TrainStep {
    /// Sums of gradients over all ranks, in place; a sharded optimizer gets its shard.
    pub(super) fn sum_gradients(&self, gradients: &[Tensor]) -> Result<()> {
        let gradients: Vec<&Tensor> = gradients.iter().collect();
        match &self.sharding {
            Some(sharding) => sharding.reduce(&gradients),
            None => self.ranks.all_reduce(&gradients),
        }
    }

    /// Sums over all ranks of the loss of each microbatch, and of this rank's `sums` without the loss.
    ///
    /// # Errors
    /// On every rank alike: [`Error::Interrupted`] if one is `stopped`, [`Error::NonFiniteLoss`].
    pub(super) fn sums_over_ranks(
        &self,
        step: u64,
        mut losses: Vec<f64>,
        sums: &StepSums,
        stopped: bool,
    ) -> Result<StepSums> {
        let mut small = vec![f64::from(u8::from(stopped)), sums.log_q, sums.weight, sums.tokens as f64];
        small.append(&mut losses);
        self.ranks.all_reduce_f64(&mut small)?;
        let losses = &small[4..];
        if small[0] > 0.0 {
            return Err(Error::Interrupted);
        }
        if let Some(microbatch) = losses.iter().position(|loss| !loss.is_finite()) {
            return Err(Error::NonFiniteLoss { step, microbatch, loss: losses[microbatch], documents: None });
        }
        // Fewer than 2^53.
        Ok(StepSums { loss: losses.iter().sum(), log_q: small[1], weight: small[2], tokens: small[3] as u64 })
    }
}

impl Trainer<'_> {
    /// Checks that all ranks do the same: settings, model and data.
    pub(super) fn require_same_job(&self) -> Result<()> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        let (state, model) = (&self.state, self.step.model.config().to_json());
        let data = format!("{} {:?}", state.train_fingerprint, state.valid_fingerprint);
        require_same(&*self.ranks, "program version", env!("CARGO_PKG_VERSION").into())?;
        require_same(&*self.ranks, "settings", self.config.to_toml()?.into())?;
        require_same(&*self.ranks, "model configuration", model.into())?;
        require_same(&*self.ranks, "data", data.into())
    }

    /// Checks that the ranks are at the same step with the same weights.
    pub(super) fn require_same_weights(&self) -> Result<()> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        require_same(&*self.ranks, "step", self.state.step.to_le_bytes().to_vec())?;
        let mut digest = crc32fast::Hasher::new();
        for (_, variable) in self.step.variables.iter() {
            let values = variable.as_detached_tensor().flatten_all().and_then(|flat| flat.to_vec1::<f32>());
            let values = values.map_err(Error::tensor("trainable parameters"))?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            digest.update(&bytes);
        }
        require_same(&*self.ranks, "weights", digest.finalize().to_le_bytes().to_vec())
    }

    /// The selector's score, which rank 0 computes.
    pub(super) fn selector_score(&self) -> Result<Option<f64>> {
        let score =
            || self.job.selector.map(|selector| selector.score(&*self.step.model, self.stop)).transpose();
        if self.ranks.size() == 1 {
            return score();
        }
        if self.config.select != Selection::Mauve {
            return Ok(None);
        }
        // Zeros of the other ranks do not change rank 0's numbers.
        let told = lead(&*self.ranks, || match score() {
            Err(Error::Interrupted) => Ok([1.0, 0.0]),
            other => other.map(|score| [0.0, score.unwrap_or(f64::NAN)]),
        })?;
        let mut told = told.unwrap_or_default();
        self.ranks.all_reduce_f64(&mut told)?;
        if told[0] > 0.0 { Err(Error::Interrupted) } else { Ok(Some(told[1])) }
    }

    /// Whether this rank writes and reports.
    pub(super) fn leads(&self) -> bool {
        self.ranks.rank() == 0
    }
}
