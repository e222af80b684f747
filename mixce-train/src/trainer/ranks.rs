//! What the ranks of a run tell each other.
use candle_core::Tensor;

use super::sums::StepSums;
use super::zero::Sharding;
use super::{StartedStep, TrainStep, Trainer};
use crate::config::Selection;
use crate::distributed::{Reducer, lead, require_same};
use crate::error::{Error, Result};

impl TrainStep {
    /// Whether a rank was told to stop.
    pub(super) fn is_any_stopped(&self, stopped: bool) -> Result<bool> {
        if self.ranks.size() == 1 {
            return Ok(stopped);
        }
        Ok(self.ranks.all_gather(vec![u8::from(stopped)])?.contains(&vec![1]))
    }

    /// What sums `gradients` over several ranks during a backward pass.
    pub(super) fn reducer(&self, gradients: &[Tensor]) -> Result<Option<Reducer>> {
        let shards = self.sharding.as_ref().map(Sharding::shards);
        let start = || Reducer::start(self.ranks.clone(), gradients, shards, self.reduce_dtype);
        (self.ranks.size() > 1).then(start).transpose()
    }

    /// Makes the sums of a step those of all ranks.
    ///
    /// # Errors
    /// [`Error::NonFiniteLoss`], on every rank alike.
    pub(super) fn sum_over_ranks(&self, started: &mut StartedStep) -> Result<()> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        let StartedStep { step, sums, losses, .. } = started;
        let mut small = vec![sums.log_q, sums.weight, sums.tokens as f64];
        small.extend_from_slice(losses);
        self.ranks.all_reduce_f64(&mut small)?;
        let losses = &small[3..];
        if let Some(microbatch) = losses.iter().position(|loss| !loss.is_finite()) {
            let loss = losses[microbatch];
            return Err(Error::NonFiniteLoss { step: *step, microbatch, loss, documents: None });
        }
        // Fewer tokens than 2^53.
        *sums = StepSums {
            loss: losses.iter().sum(),
            log_q: small[0],
            weight: small[1],
            tokens: small[2] as u64,
        };
        Ok(())
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
            let values = variable.detach().flatten_all().and_then(|flat| flat.to_vec1::<f32>());
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
