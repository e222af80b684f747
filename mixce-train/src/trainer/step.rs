//! The arithmetic of one optimizer step.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use mixce_core::{Objective, lm_head_backward, total_loss};
use mixce_kernels::rng::Stream;
use mixce_kernels::{GradientFailure, GradientGuard};
use mixce_lm::{Gradients, LanguageModel, ModelConfig, Parameters, PassOptions};

use super::outliers::OutlierRule;
use super::sums::StepSums;
use super::variables::Variables;
use super::zero::Sharding;
use crate::data::Microbatch;
use crate::distributed::{Alone, Communicator, Part, ReduceDtype, Reducer};
use crate::error::{Error, Result};
use crate::optim::{AdamW, AdamWConfig, GradientNorms, clip_factor};
use crate::packing::Packed;
use crate::run_folder::device_name;

/// A model in training: forward, loss, backward and update, without data order, schedule, files or reports.
///
/// Shared by [`train`](super::train) and benchmarks.
#[derive(Debug)]
pub struct TrainStep {
    pub(super) model: Box<dyn LanguageModel>,
    pub(super) variables: Variables,
    gradients: Gradients,
    /// Checks gradients on devices that are not synchronised after every step.
    guard: Option<GradientGuard>,
    pub(super) optimizer: AdamW,
    pub(super) objective: Arc<dyn Objective>,
    clip_grad_norm: f64,
    options: PassOptions,
    outliers: Option<OutlierRule>,
    pub(super) ranks: Arc<dyn Communicator>,
    pub(super) reduce_dtype: ReduceDtype,
    /// If AdamW's moments are divided over the ranks.
    pub(super) sharding: Option<Sharding>,
}

/// A started step. On a CUDA device it may still be running, and its results have not been read.
#[derive(Debug)]
pub struct StartedStep {
    pub(super) step: u64,
    targets: u64,
    /// Results read so far.
    pub(super) sums: StepSums,
    /// This rank's part of the loss of each microbatch, as far as it was read.
    pub(super) losses: Vec<f64>,
    /// Microbatches not yet read, with `log q` of the targets that this rank has computed.
    log_q: Vec<(usize, Tensor)>,
    grad_norm: Option<f64>,
    skipped: bool,
}

impl StartedStep {
    fn new(step: u64, microbatches: &[Microbatch]) -> Self {
        Self {
            step,
            targets: microbatches.iter().map(Microbatch::targets).sum(),
            sums: StepSums::default(),
            losses: vec![0.0; microbatches.len()],
            log_q: Vec::new(),
            grad_norm: None,
            skipped: false,
        }
    }

    /// Target tokens.
    #[must_use]
    pub fn targets(&self) -> u64 {
        self.targets
    }
}

/// Statistics of one optimizer step, over all its microbatches and before its update.
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
    /// Whether the update was skipped, because the gradient norm was an outlier.
    pub skipped: bool,
}

impl TrainStep {
    /// A model with copies of `parameters` and a new optimizer. `clip_grad_norm` 0 disables clipping.
    ///
    /// Each parameter is freed as it is copied, so that there is no second copy unless the caller holds one.
    ///
    /// # Errors
    /// Parameters that do not match the configuration, or cannot be copied to f32.
    pub fn new(
        config: &dyn ModelConfig,
        parameters: Parameters,
        objective: Arc<dyn Objective>,
        adamw: AdamWConfig,
        clip_grad_norm: f64,
    ) -> Result<Self> {
        let variables = Variables::new(parameters)?;
        let model = config.build(variables.parameters(config)?)?;
        let gradients = Gradients::zeros(model.parameters())?;
        let guard = GradientGuard::new(gradients.sums().get(model.spec().head)?)
            .map_err(Error::tensor("gradient norm"))?;
        let optimizer = variables.optimizer(adamw)?;
        let options = PassOptions::default();
        Ok(Self {
            model,
            variables,
            gradients,
            guard,
            optimizer,
            objective,
            clip_grad_norm,
            options,
            outliers: None,
            ranks: Arc::new(Alone),
            reduce_dtype: ReduceDtype::F32,
            sharding: None,
        })
    }

    /// The same, with the recomputation and precision of `options`, whose dropout is ignored.
    #[must_use]
    pub fn with_options(self, options: PassOptions) -> Self {
        Self { options, ..self }
    }

    /// The same, skipping the update of steps whose gradient norm exceeds `factor` times the running median. On CUDA the device is then
    /// synchronised after every step.
    #[must_use]
    pub fn with_outlier_rule(self, factor: Option<f64>) -> Self {
        match factor {
            Some(factor) => Self { outliers: Some(OutlierRule::new(factor)), guard: None, ..self },
            None => self,
        }
    }

    /// The same as one of several ranks, each of which computes its part of every microbatch.
    ///
    /// # Errors
    /// [`Error::Config`] for several ranks that do not add up tensors on the model's device.
    pub fn with_ranks(self, ranks: Arc<dyn Communicator>) -> Result<Self> {
        let device = self.model.device();
        if !ranks.adds_up_on(device) && ranks.size() > 1 {
            let device = device_name(device);
            return Err(Error::config(format!(
                "`config.device`: expected a device on which the {} ranks of the run add up tensors, got `{device}`",
                ranks.size()
            )));
        }
        Ok(Self { ranks, ..self })
    }

    /// The same, exchanging gradients with other ranks in this number format.
    #[must_use]
    pub fn with_reduce_dtype(self, reduce_dtype: ReduceDtype) -> Self {
        Self { reduce_dtype, ..self }
    }

    /// The gradient norms that the next step is compared with.
    pub(super) fn recent_norms(&self) -> Vec<f64> {
        self.outliers.as_ref().map(OutlierRule::recent).unwrap_or_default()
    }

    /// Restores [`Self::recent_norms`].
    pub(super) fn restore_norms(&mut self, norms: &[f64]) {
        if let Some(rule) = &mut self.outliers {
            rule.restore(norms);
        }
    }

    /// The model, whose parameters are the variables that steps update.
    #[must_use]
    pub fn model(&self) -> &dyn LanguageModel {
        &*self.model
    }

    /// One step on `microbatches` with learning rate `lr`; `dropout` is folded with the index of each microbatch.
    ///
    /// The loss of a microbatch is divided by the target tokens of the whole step, so that the accumulated gradient is that of the mean over
    /// the step, however it is divided, also between ranks, all of which must be given the same microbatches. Nothing is updated unless every
    /// parameter has a finite gradient.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if `stop` is true before a microbatch, on any rank; [`Error::NonFiniteLoss`],
    /// [`Error::NonFiniteGradient`]; errors of tensor operations. The parameters are then unchanged. One of several ranks that fails alone
    /// must [abort](Communicator::abort): the others may wait for it.
    pub fn run(
        &mut self,
        microbatches: &[Microbatch],
        dropout: Stream,
        lr: f64,
        stop: &AtomicBool,
    ) -> Result<StepResult> {
        let started = self.start(microbatches, dropout, lr, stop)?;
        self.finish(started)
    }

    /// The first half of [`Self::run`]: on a CUDA device everything is launched without synchronisation, and [`Self::finish`] does the checks.
    ///
    /// Until then, a step with non-finite gradients and all later ones update nothing.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn start(
        &mut self,
        microbatches: &[Microbatch],
        dropout: Stream,
        lr: f64,
        stop: &AtomicBool,
    ) -> Result<StartedStep> {
        let step = self.optimizer.steps() + 1;
        let mut started = StartedStep::new(step, microbatches);
        let gradients: Vec<Tensor> = self.gradients.sums().iter().map(|(_, sum)| sum.clone()).collect();
        self.accumulate_all(&mut started, microbatches, dropout, stop, &gradients)?;
        if let Some(guard) = &self.guard {
            guard.judge(&gradients, self.clip_grad_norm, step).map_err(Error::tensor("gradient norm"))?;
            self.optimizer.guarded_step(lr, &gradients, guard)?;
            return Ok(started);
        }
        let norms = match &self.sharding {
            Some(sharding) => sharding.norms(&gradients)?,
            None => GradientNorms::of(&gradients)?,
        };
        if let Some((index, squared_norm)) = norms.first_non_finite() {
            let name = self.variables.name(index).to_owned();
            return Err(Error::NonFiniteGradient { name, step, squared_norm, documents: None });
        }
        let grad_norm = norms.global();
        let skipped = self.outliers.as_mut().is_some_and(|rule| rule.is_outlier(step, grad_norm));
        if skipped {
            self.optimizer.skip();
        } else {
            self.optimizer.step(lr, &gradients, clip_factor(grad_norm, self.clip_grad_norm))?;
            self.sharding.iter().try_for_each(|sharding| sharding.gather_weights(&self.variables))?;
        }
        Ok(StartedStep { grad_norm: Some(grad_norm), skipped, ..started })
    }

    /// The gradients and losses of a step, of all ranks.
    fn accumulate_all(
        &self,
        started: &mut StartedStep,
        microbatches: &[Microbatch],
        dropout: Stream,
        stop: &AtomicBool,
        gradients: &[Tensor],
    ) -> Result<()> {
        let (earlier, last) = microbatches.split_at(microbatches.len().saturating_sub(1));
        self.gradients.clear()?;
        for (index, microbatch) in earlier.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            self.accumulate(started, index, microbatch, dropout, &mut |_| {})?;
        }
        // Sums over ranks begin in the last microbatch: all come to it, or none.
        if self.is_any_stopped(stop.load(Ordering::Relaxed))? {
            return Err(Error::Interrupted);
        }
        let mut reducer = self.reducer(gradients)?;
        for microbatch in last {
            self.accumulate(started, earlier.len(), microbatch, dropout, &mut |first| {
                reducer.iter_mut().for_each(|reducer| reducer.complete_from(first));
            })?;
        }
        reducer.map_or(Ok(()), Reducer::finish)?;
        if self.is_deferred() { Ok(()) } else { self.sum_over_ranks(started) }
    }

    /// Adds the gradients of this rank's part of a microbatch, and its loss; calls `complete_from` as [`Forward::backward_with`] does.
    ///
    /// [`Forward::backward_with`]: mixce_lm::Forward::backward_with
    fn accumulate(
        &self,
        started: &mut StartedStep,
        index: usize,
        microbatch: &Microbatch,
        dropout: Stream,
        complete_from: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let part = Part::of(microbatch, self.ranks.rank(), self.ranks.size());
        if part.examples.is_empty() {
            return Ok(());
        }
        let Packed { mut inputs, targets: next } = Packed::new(&*self.model, part.examples)?;
        inputs.first_row = part.first_row;
        let options = PassOptions { dropout: Some(dropout.fold(index as u64)), ..self.options };
        let forward = self.model.forward(&inputs, options)?;
        let dhead = self.gradients.sums().get(self.model.spec().head)?;
        let (head, dhead) = (self.model.lm_head(), (dhead, options.precision));
        let (objective, targets) = (&*self.objective, started.targets as f64);
        let out = lm_head_backward(&forward.hidden(), head, &next, objective, targets, dhead)?;
        if self.is_deferred() {
            started.log_q.push((index, out.log_q));
        } else {
            self.add(started, index, &out.log_q)?;
        }
        Ok(forward.backward_with(out.dhidden, &self.gradients, complete_from)?)
    }

    /// The second half of [`Self::run`]: synchronises the device and checks the step's results.
    ///
    /// # Errors
    /// [`Error::NonFiniteLoss`]; [`Error::NonFiniteGradient`], also of an earlier unchecked step. The parameters are as before the step that
    /// failed.
    pub fn finish(&self, mut started: StartedStep) -> Result<StepResult> {
        let norm = match self.check() {
            Err(error @ Error::NonFiniteGradient { step, .. }) if step < started.step => return Err(error),
            other => other,
        };
        if self.is_deferred() {
            for (index, log_q) in std::mem::take(&mut started.log_q) {
                self.add(&mut started, index, &log_q)?;
            }
            self.sum_over_ranks(&mut started)?;
        }
        let StartedStep { targets, sums, grad_norm, skipped, .. } = started;
        let (loss, nll, mean_weight) = (sums.loss, sums.nll(), sums.mean_weight());
        let grad_norm = grad_norm.or(norm?).unwrap_or_default();
        Ok(StepResult { loss, nll, mean_weight, grad_norm, targets, skipped })
    }

    /// Whether steps are asynchronous, so that [`Self::finish`] synchronises the device.
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        self.guard.is_some()
    }

    /// Waits for all started steps; returns the gradient norm of the last one, if it was left on the device.
    ///
    /// # Errors
    /// [`Error::NonFiniteGradient`] of the first step that failed.
    pub(super) fn check(&self) -> Result<Option<f64>> {
        let Some(guard) = &self.guard else { return Ok(None) };
        let verdict = guard.read().map_err(Error::tensor("gradient norm"))?;
        match verdict.failure {
            Some(GradientFailure { tensor, squared_norm, step }) => Err(Error::NonFiniteGradient {
                name: self.variables.name(tensor).to_owned(),
                step,
                squared_norm,
                documents: None,
            }),
            None => Ok(Some(verdict.norm)),
        }
    }

    /// Adds a microbatch, or this rank's part of one, to the sums of its step.
    ///
    /// # Errors
    /// [`Error::NonFiniteLoss`] in a run of one process; several find it in their sums.
    fn add(&self, started: &mut StartedStep, index: usize, log_q: &Tensor) -> Result<()> {
        let log_q = log_q.to_vec1::<f32>().map_err(Error::tensor("log-probabilities"))?;
        let loss = total_loss(&log_q, &*self.objective) / started.targets as f64;
        started.sums.add(loss, &log_q, &*self.objective);
        started.losses[index] = loss;
        if self.ranks.size() == 1 && !loss.is_finite() {
            return Err(Error::NonFiniteLoss {
                step: started.step,
                microbatch: index,
                loss,
                documents: None,
            });
        }
        Ok(())
    }
}
