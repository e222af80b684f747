//! The events of a training run.
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The size of a run, known before its first step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunPlan {
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Steps already done by the run that is being resumed.
    pub steps_done: u64,
    /// Optimizer steps per epoch.
    pub steps_per_epoch: u64,
    /// Training examples (documents or blocks).
    pub examples: usize,
    /// Target tokens per epoch.
    pub targets_per_epoch: u64,
    /// Trainable parameters.
    pub parameters: u64,
}

/// One optimizer step. The serialised form is a line of `metrics.jsonl` and of `train --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Optimizer steps done, this one included.
    pub step: u64,
    /// Epoch of the step, counted from 0.
    pub epoch: u64,
    /// The objective's loss, averaged over the step's target tokens.
    pub loss: f64,
    /// Negative log-likelihood in nats per target token, before the update and with dropout.
    pub nll: f64,
    /// Mean weight `w(q)` of a target token.
    pub mean_weight: f64,
    /// Learning rate of the update.
    pub lr: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Target tokens of the step.
    pub tokens: u64,
    /// Target tokens per second since the last logged step, without evaluation and checkpoints.
    pub tokens_per_s: f64,
    /// Whether the update was skipped, because the gradient norm was an outlier (`config.skip_outlier_steps`); absent if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
}

/// One pass over the development documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// Optimizer steps done.
    pub step: u64,
    /// Epoch, counted from 0.
    pub epoch: u64,
    /// The objective's loss, averaged over target tokens.
    pub valid_loss: f64,
    /// Negative log-likelihood in nats per target token.
    pub valid_nll: f64,
    /// The objective's potential, averaged over target tokens, which, unlike `valid_loss`, training minimises.
    pub valid_potential: f64,
    /// `exp(valid_nll)`.
    pub valid_perplexity: f64,
    /// The selector's score, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_mauve: Option<f64>,
    /// Target tokens.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// Whether this is the best model so far.
    pub best: bool,
}

/// Receives the events of a run. The default methods do nothing; an error stops the run.
pub trait TrainObserver {
    /// Before the first step.
    ///
    /// # Errors
    /// Any failure of the observer.
    fn on_start(&mut self, plan: &RunPlan) -> Result<()> {
        let _ = plan;
        Ok(())
    }

    /// After every optimizer step whose results are read: all on the CPU, the logged ones on CUDA.
    ///
    /// # Errors
    /// As [`Self::on_start`].
    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        let _ = report;
        Ok(())
    }

    /// After [`Self::on_step`], for the first step, every `log_every`-th and the last.
    ///
    /// # Errors
    /// As [`Self::on_start`].
    fn on_log(&mut self, report: &StepReport) -> Result<()> {
        let _ = report;
        Ok(())
    }

    /// After an evaluation.
    ///
    /// # Errors
    /// As [`Self::on_start`].
    fn on_evaluation(&mut self, report: &EvaluationReport) -> Result<()> {
        let _ = report;
        Ok(())
    }

    /// After a checkpoint is complete.
    ///
    /// # Errors
    /// As [`Self::on_start`].
    fn on_checkpoint(&mut self, step: u64, path: &Path) -> Result<()> {
        let _ = (step, path);
        Ok(())
    }

    /// After the last step, once the models are written; not after an interruption.
    ///
    /// # Errors
    /// As [`Self::on_start`].
    fn on_done(&mut self, steps: u64, best: Option<&BestModel>) -> Result<()> {
        let _ = (steps, best);
        Ok(())
    }
}

/// The best model so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestModel {
    /// Its optimizer step.
    pub step: u64,
    /// Its development negative log-likelihood in nats per token.
    pub valid_nll: f64,
    /// Its development loss.
    pub valid_loss: f64,
    /// The selector's score, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_mauve: Option<f64>,
    /// Its folder.
    pub path: PathBuf,
}
