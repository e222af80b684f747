//! The training loop.
mod fanout;
mod job;
mod outliers;
#[cfg(test)]
mod overlap_tests;
mod persist;
mod ranks;
mod resume;
mod step;
mod sums;
mod variables;
mod zero;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mixce_kernels::rng::{Stream, purpose};
use mixce_lm::{Parameters, ScoringOptions};

use crate::checkpoint::{STATE_VERSION, TrainState};
use crate::config::{Selection, TrainConfig};
use crate::data::{Batcher, Position};
use crate::distributed::{Communicator, ReduceDtype, lead};
use crate::error::{Error, Result};
use crate::evaluate::{DEFAULT_BATCH_TOKENS, evaluate_on};
use crate::metrics::{JsonlWriter, TensorBoardWriter};
use crate::observer::{BestModel, EvaluationReport, RunPlan, StepReport, TrainObserver};
use crate::optim::Schedule;
use crate::run_folder::{RunFolder, RunLock};

use fanout::Fanout;
pub use job::{End, TrainJob, TrainOutcome};
pub use step::{StartedStep, StepResult, TrainStep};
use sums::Speedometer;

/// Trains; in a run folder also writes metrics (`metrics.jsonl` and TensorBoard), checkpoints and models.
///
/// Training starts from copies of `parameters`, which must be on the training device and are freed as they are copied.
/// With `config.resume` set the run continues from that checkpoint, exactly as if it had never stopped; a damaged one is set aside, and the one
/// before it is taken. The caller's observers hear of every event before it is written to files. When the job's `stop` becomes true,
/// the current step is abandoned, a checkpoint of the last whole step is written, and the outcome is [`End::Interrupted`].
///
/// With several ranks each calls this function with the same job; rank 0 alone writes, and its observers alone hear of events. All ranks end
/// with the same outcome; one that fails must call [`abort`](Communicator::abort), because the others may wait for it.
///
/// # Errors
/// A run folder in use by another process, deleted during the run, or of another run than the checkpoint; settings, data and checkpoints that do
/// not match; a parameter without a gradient; a non-finite loss or gradient (the parameters keep their last finite values, also in the last
/// checkpoint, and the step's documents are saved) or parameter (which no checkpoint or exported model ever has); files that cannot be written;
/// errors of observers; ranks whose jobs or weights differ, or that do not answer.
pub fn train(
    job: &TrainJob<'_>,
    parameters: Parameters,
    observers: &mut [&mut dyn TrainObserver],
) -> Result<TrainOutcome> {
    let leads = job.ranks.rank() == 0;
    let observers = if leads { observers } else { &mut [] };
    let observers = observers.iter_mut().map(|o| &mut **o as &mut dyn TrainObserver);
    let Some(run) = job.run else {
        if job.config.resume.is_some() {
            return Err(Error::config("expected a run folder: `resume` continues from its checkpoint"));
        }
        return Trainer::new(job, parameters, Fanout { observers: observers.collect() })?.run();
    };
    let lock = if leads { Some(run.lock()?) } else { None };
    let mut jsonl = JsonlWriter::new(run.metrics());
    let mut tensorboard = TensorBoardWriter::new(run.root());
    // `run.toml`, which an observer writes, comes first.
    let mut all: Vec<&mut dyn TrainObserver> = observers.collect();
    if leads {
        all.extend([&mut jsonl as &mut dyn TrainObserver, &mut tensorboard]);
    }
    let mut trainer = Trainer::new(job, parameters, Fanout { observers: all })?;
    trainer.lock = lock;
    let resume = trainer.config.resume.clone();
    if let (Some(resume), true) = (&resume, leads) {
        resume::require_own(resume, run)?;
    }
    if leads {
        run.clean_up()?;
    }
    if let Some(resume) = &resume {
        trainer.resume_ranks(run, resume)?;
    }
    trainer.run()
}

/// The stop flag of an uninterruptible run.
static NEVER: AtomicBool = AtomicBool::new(false);

/// The state of a run in progress.
struct Trainer<'a> {
    job: &'a TrainJob<'a>,
    config: TrainConfig,
    observers: Fanout<'a>,
    stop: &'a AtomicBool,
    schedule: Schedule,
    batcher: Batcher<'a>,
    step: TrainStep,
    state: TrainState,
    /// The lock on the run folder, if there is one.
    lock: Option<RunLock>,
    ranks: Arc<dyn Communicator>,
}

impl<'a> Trainer<'a> {
    fn new(job: &'a TrainJob<'a>, parameters: Parameters, observers: Fanout<'a>) -> Result<Self> {
        job.config.validate_settings()?;
        require_selector(job)?;
        let config = job.config.resolved_for(job.model.spec().positions, job.tokenizer);
        let batcher = Batcher::new(job.train, config.batcher())?;
        let total_steps = config.total_steps(batcher.steps_per_epoch());
        if config.warmup_steps >= total_steps {
            tracing::warn!(
                "`config.warmup_steps = {}`: the whole run of {total_steps} steps is warm-up",
                config.warmup_steps
            );
        }
        let model = config.with_dropout(&job.model);
        for examples in [Some(job.train), job.valid].into_iter().flatten() {
            examples.store().require_vocabulary(model.spec().vocabulary)?;
        }
        let (adamw, clip) = (config.adamw(), config.clip_grad_norm);
        let step = TrainStep::new(&*model, parameters, job.objective.clone(), adamw, clip)?
            .with_options(config.pass_options())
            .with_outlier_rule(config.skip_outlier_steps)
            .with_ranks(job.ranks.clone())?
            .with_reduce_dtype(config.grad_reduce_dtype);
        if config.grad_reduce_dtype != ReduceDtype::F32 && job.ranks.size() == 1 {
            tracing::warn!("`config.grad_reduce_dtype` has no effect: the run has one process");
        }
        let step = match (config.shard_optimizer, job.ranks.size()) {
            (true, 1) => {
                tracing::warn!("`config.shard_optimizer` has no effect: the run has one process");
                step
            }
            (true, _) => step.with_sharded_optimizer()?,
            (false, _) => step,
        };
        let schedule = Schedule {
            kind: config.scheduler,
            peak: config.lr,
            warmup_steps: config.warmup_steps,
            total_steps,
        };
        let state = TrainState {
            version: STATE_VERSION,
            step: 0,
            position: Position::default(),
            best: None,
            evaluations_without_improvement: 0,
            evaluation_due: false,
            grad_norms: Vec::new(),
            train_fingerprint: job.train.store().fingerprint().to_owned(),
            valid_fingerprint: job.valid.map(|valid| valid.store().fingerprint().to_owned()),
            total_steps,
            config: config.clone(),
        };
        let stop = job.stop.unwrap_or(&NEVER);
        let ranks = job.ranks.clone();
        let trainer =
            Self { job, config, observers, stop, schedule, batcher, step, state, lock: None, ranks };
        trainer.require_same_job()?;
        Ok(trainer)
    }

    /// The loop: data, optimizer step, report, evaluation, checkpoint.
    fn run(mut self) -> Result<TrainOutcome> {
        self.observers.on_start(&self.plan())?;
        let dropout = Stream::new(self.config.seed).fold(purpose::DROPOUT);
        let mut speed = Speedometer::default();
        let mut saved: Option<(u64, PathBuf)> = None;
        if self.state.evaluation_due && !self.evaluate()? {
            return self.interrupted(saved);
        }
        while self.state.step < self.state.total_steps && !self.is_out_of_patience() {
            let started = Instant::now();
            let step = self.state.step + 1;
            let batch = self.batcher.step(self.state.position);
            let (lr, masks) = (self.schedule.rate(self.state.step), dropout.fold(self.state.step));
            let work = match self.step.start(&batch.microbatches, masks, lr, self.stop) {
                Err(Error::Interrupted) => return self.interrupted(saved),
                other => other.map_err(|error| self.with_documents(error))?,
            };

            let epoch = self.state.position.epoch;
            self.state.step = step;
            self.state.position = self.batcher.after(self.state.position);
            let epoch_ended = self.state.position.epoch != epoch;
            let is_last = step == self.state.total_steps;
            let is_logged = step == 1 || step.is_multiple_of(self.config.log_every) || is_last;

            if is_logged || !self.step.is_deferred() {
                let done = self.step.finish(work).map_err(|error| self.with_documents(error))?;
                speed.add(done.targets, started.elapsed());
                let report = StepReport {
                    step,
                    epoch,
                    loss: done.loss,
                    nll: done.nll,
                    mean_weight: done.mean_weight,
                    lr,
                    grad_norm: done.grad_norm,
                    tokens: done.targets,
                    tokens_per_s: speed.tokens_per_s(),
                    skipped: done.skipped,
                };
                self.observers.on_step(&report)?;
                if is_logged {
                    self.require_folder()?;
                    self.observers.on_log(&report)?;
                    speed = Speedometer::default();
                }
            } else {
                // The device works while the next batch is assembled; a failure is reported at the next logged step.
                speed.add(work.targets(), started.elapsed());
            }

            let evaluates = self.config.eval_every.is_due(step, epoch_ended) || is_last;
            self.state.evaluation_due = evaluates && self.job.valid.is_some();
            if self.state.evaluation_due && !self.evaluate()? {
                return self.interrupted(saved);
            }
            if self.config.save_every.is_due(step, epoch_ended) {
                saved = self.save_checkpoint()?.map(|path| (step, path));
            }
        }
        self.finish(saved)
    }

    /// Evaluates on the development examples; in a run folder, exports the model if it is the best so far. False when interrupted.
    fn evaluate(&mut self) -> Result<bool> {
        let Some(valid) = self.job.valid else {
            self.state.evaluation_due = false;
            return Ok(true);
        };
        self.step.check()?;
        let stop = self.stop;
        let mut watch = |_: crate::evaluate::Scored<'_>| {
            if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
        };
        // In the precision of training; no more than a microbatch, so that an evaluation needs less memory than a step.
        let tokens = self.config.batch_size.saturating_mul(self.job.train.longest());
        let (model, objective) = (&*self.step.model, &*self.step.objective);
        let batch_tokens = tokens.min(DEFAULT_BATCH_TOKENS);
        let options = ScoringOptions { batch_tokens, precision: self.config.precision.into() };
        let scores = match evaluate_on(&*self.ranks, model, valid, objective, options, &mut watch) {
            Err(Error::Interrupted) => return Ok(false),
            Err(Error::NonFiniteLikelihood { document, log_q, .. }) => {
                return Err(Error::NonFiniteLikelihood { document, log_q, step: Some(self.state.step) });
            }
            other => other?,
        };
        let valid_mauve = match self.selector_score() {
            Err(Error::Interrupted) => return Ok(false),
            other => other?,
        };
        let candidate = BestModel {
            step: self.state.step,
            valid_nll: scores.nll,
            valid_loss: scores.loss,
            valid_mauve,
            path: self.job.run.map(RunFolder::best).unwrap_or_default(),
        };
        let best = is_better(self.config.select, &candidate, self.state.best.as_ref());
        if best {
            if self.job.run.is_some() {
                lead(&*self.ranks, || self.export_model(&candidate.path, Some(&candidate)))?;
            }
            self.state.best = Some(candidate);
            self.state.evaluations_without_improvement = 0;
        } else {
            self.state.evaluations_without_improvement += 1;
        }
        self.state.evaluation_due = false;
        self.require_folder()?;
        self.observers.on_evaluation(&EvaluationReport {
            step: self.state.step,
            epoch: self.state.position.epoch_of_last_step(),
            valid_loss: scores.loss,
            valid_nll: scores.nll,
            valid_potential: scores.potential,
            valid_perplexity: scores.perplexity,
            valid_mauve,
            tokens: scores.tokens,
            documents: scores.documents,
            best,
        })?;
        Ok(true)
    }

    fn is_out_of_patience(&self) -> bool {
        self.config.patience.is_some_and(|patience| self.state.evaluations_without_improvement >= patience)
    }

    fn finish(mut self, saved: Option<(u64, PathBuf)>) -> Result<TrainOutcome> {
        let checkpoint = self.saved_now(saved)?;
        let last = self.job.run.map(RunFolder::last);
        if let Some(last) = &last {
            let scores = self.state.best.as_ref().filter(|b| b.step == self.state.step);
            lead(&*self.ranks, || self.export_model(last, scores))?;
        }
        let steps = self.state.step;
        self.observers.on_done(steps, self.state.best.as_ref())?;
        let end = if steps < self.state.total_steps { End::OutOfPatience } else { End::Finished };
        let (model, best) = (self.step.model.detached()?, self.state.best);
        Ok(TrainOutcome { end, steps, model, best, final_model: last, checkpoint })
    }

    fn interrupted(mut self, saved: Option<(u64, PathBuf)>) -> Result<TrainOutcome> {
        let checkpoint = self.saved_now(saved)?;
        let model = self.step.model.detached()?;
        let (steps, best) = (self.state.step, self.state.best);
        Ok(TrainOutcome { end: End::Interrupted, steps, model, best, final_model: None, checkpoint })
    }

    /// The checkpoint of the current step, written unless it already exists; `None` without a run folder.
    fn saved_now(&mut self, saved: Option<(u64, PathBuf)>) -> Result<Option<PathBuf>> {
        match saved {
            Some((step, path)) if step == self.state.step => Ok(Some(path)),
            _ => self.save_checkpoint(),
        }
    }

    fn plan(&self) -> RunPlan {
        RunPlan {
            total_steps: self.state.total_steps,
            steps_done: self.state.step,
            steps_per_epoch: self.batcher.steps_per_epoch(),
            examples: self.job.train.len(),
            targets_per_epoch: self.job.train.targets(),
            parameters: self.step.model.parameters().element_count() as u64,
        }
    }
}

/// Selection by a score needs the selector that computes it, and development examples.
fn require_selector(job: &TrainJob<'_>) -> Result<()> {
    match (job.config.select, job.selector, job.valid) {
        (Selection::Mauve, None, _) if job.ranks.rank() == 0 => {
            Err(Error::config("`config.select = mauve` needs a selector (`TrainJob::selector`)"))
        }
        (Selection::Mauve, Some(_), None) => {
            Err(Error::config("`config.select = mauve` needs `config.valid`: there is nothing to evaluate"))
        }
        _ => Ok(()),
    }
}

/// Whether a candidate replaces the best model: it must be strictly better, and not NaN.
fn is_better(select: Selection, candidate: &BestModel, best: Option<&BestModel>) -> bool {
    let value = |model: &BestModel| match select {
        Selection::Loss => model.valid_loss,
        Selection::Nll => model.valid_nll,
        Selection::Mauve => model.valid_mauve.map_or(f64::NAN, |score| -score),
    };
    let candidate = value(candidate);
    // A model that was selected by another criterion may have no score.
    candidate.is_finite() && best.map(value).is_none_or(|best| best.is_nan() || candidate < best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_strictly_better_and_a_number() {
        let model = |nll, loss| BestModel {
            step: 1,
            valid_nll: nll,
            valid_loss: loss,
            valid_mauve: None,
            path: PathBuf::new(),
        };
        let best = model(2.0, 0.5);
        assert!(is_better(Selection::Nll, &model(1.9, 9.0), Some(&best)));
        assert!(!is_better(Selection::Nll, &model(2.0, 0.1), Some(&best)));
        assert!(is_better(Selection::Loss, &model(9.0, 0.1), Some(&best)));
        assert!(!is_better(Selection::Nll, &model(f64::NAN, 0.1), None));
        let scored = |score| BestModel { valid_mauve: Some(score), ..model(1.0, 1.0) };
        assert!(is_better(Selection::Mauve, &scored(0.9), Some(&scored(0.8))));
        assert!(!is_better(Selection::Mauve, &scored(0.8), Some(&scored(0.8))));
        assert!(!is_better(Selection::Mauve, &scored(f64::NAN), None));
        assert!(is_better(Selection::Mauve, &scored(0.1), Some(&best)), "the best has no score");
    }
}
