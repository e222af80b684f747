//! The arithmetic of one optimizer step.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use mixce_core::{Objective, lm_head_backward};
use mixce_gpt2::{Gpt2, Gpt2Config, Gradients, Parameters, Pass};
use mixce_kernels::rng::Stream;

use super::sums::StepSums;
use super::variables::Variables;
use crate::data::Microbatch;
use crate::error::{Error, Result};
use crate::optim::{AdamW, AdamWConfig, GradientNorms, clip_factor};
use crate::packing::Packed;

/// A model in training: forward, loss, backward and update, without data order, schedule, files or reports.
///
/// [`train`](super::train) and benchmarks run the same one.
#[derive(Debug)]
pub struct TrainStep {
    pub(super) model: Gpt2,
    pub(super) variables: Variables,
    gradients: Gradients,
    pub(super) optimizer: AdamW,
    pub(super) objective: Arc<dyn Objective>,
    clip_grad_norm: f64,
    pass: Pass,
}

/// What one optimizer step measured, over all its microbatches and before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Mean of the objective's `w(q) (-log q)` in nats per target token.
    pub loss: f64,
    /// Mean of `-log q` in nats per target token.
    pub nll: f64,
    /// Mean token weight `w(q)`.
    pub mean_weight: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Target tokens.
    pub targets: u64,
}

impl TrainStep {
    /// A model with copies of `parameters` and a fresh optimizer. `clip_grad_norm` 0 switches clipping off.
    ///
    /// # Errors
    /// Parameters that do not fit the configuration, or that cannot be copied to f32.
    pub fn new(
        config: Gpt2Config,
        parameters: &Parameters,
        objective: Arc<dyn Objective>,
        adamw: AdamWConfig,
        clip_grad_norm: f64,
    ) -> Result<Self> {
        let variables = Variables::new(parameters)?;
        let model = Gpt2::new(config, variables.parameters(parameters)?)?;
        let gradients = Gradients::new(model.config(), model.parameters())?;
        let optimizer = variables.optimizer(adamw)?;
        let pass = Pass::default();
        Ok(Self { model, variables, gradients, optimizer, objective, clip_grad_norm, pass })
    }

    /// The same, but with the recomputation and the precision of `pass`; its dropout is not looked at.
    #[must_use]
    pub fn with_pass(self, pass: Pass) -> Self {
        Self { pass, ..self }
    }

    /// The model, backed by the variables that steps update.
    #[must_use]
    pub fn model(&self) -> &Gpt2 {
        &self.model
    }

    /// One step on `microbatches`, with `dropout` folded by the number of each and learning rate `lr`.
    ///
    /// The loss of a microbatch is divided by the target tokens of the whole step, so that the sum of the gradients is that of the mean over
    /// the step, however it is cut. Nothing is updated unless every parameter has a finite gradient.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when `stop` is true before a microbatch; [`Error::NonFiniteLoss`],
    /// [`Error::NonFiniteGradient`]; errors of tensor operations. The parameters are as before the step.
    pub fn run(
        &mut self,
        microbatches: &[Microbatch],
        dropout: Stream,
        lr: f64,
        stop: &AtomicBool,
    ) -> Result<StepResult> {
        let step = self.optimizer.steps() + 1;
        let targets: u64 = microbatches.iter().map(Microbatch::targets).sum();
        let mut sums = StepSums::default();
        self.gradients.clear()?;
        for (index, microbatch) in microbatches.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let Packed { inputs, targets: next } = Packed::new(&self.model, &microbatch.examples)?;
            let pass = Pass { dropout: Some(dropout.fold(index as u64)), ..self.pass };
            let forward = self.model.forward(&inputs, pass)?;
            let (hidden, head) = (forward.hidden(), self.model.lm_head());
            let dhead = (self.gradients.lm_head(), pass.precision);
            let out = lm_head_backward(&hidden, head, &next, &*self.objective, targets as f64, dhead)?;
            if !out.loss.is_finite() {
                return Err(Error::NonFiniteLoss { step, microbatch: index, loss: out.loss });
            }
            self.model.backward(&inputs, forward, &out.dhidden, &self.gradients)?;
            sums.add(out.loss, &out.log_q, &*self.objective);
        }
        let gradients: Vec<Tensor> = self.gradients.sums().iter().map(|(_, sum)| sum.clone()).collect();
        let norms = GradientNorms::of(&gradients)?;
        if let Some((index, squared_norm)) = norms.first_non_finite() {
            let name = self.variables.name(index).to_owned();
            return Err(Error::NonFiniteGradient { name, step, squared_norm });
        }
        let grad_norm = norms.global();
        self.optimizer.step(lr, &gradients, clip_factor(grad_norm, self.clip_grad_norm))?;
        let (loss, nll, mean_weight) = (sums.loss, sums.nll(), sums.mean_weight());
        Ok(StepResult { loss, nll, mean_weight, grad_norm, targets })
    }
}
