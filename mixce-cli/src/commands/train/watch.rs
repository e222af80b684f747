//! Progress display of a run.

use std::path::Path;

use indicatif::ProgressBar;
use mixce_train::Result;
use mixce_train::observer::{EvaluationReport, RunPlan, StepReport, TrainObserver};
use serde::Serialize;

use crate::context::Context;
use crate::{interrupt, progress};

/// The progress bar; with `--json` also a line for each logged step and each evaluation.
#[derive(Debug)]
pub(super) struct Watcher<'a> {
    context: &'a Context,
    bar: Option<ProgressBar>,
    valid_nll: Option<f64>,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, bar: None, valid_nll: None }
    }

    /// Writes a line to stdout. A failure to write does not stop the run.
    fn emit(&self, value: &impl Serialize) {
        if self.context.output.is_json()
            && let Err(error) = self.context.output.json(value)
        {
            tracing::warn!("{error:#}");
        }
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[derive(Serialize)]
struct Event<'a, T> {
    event: &'a str,
    #[serde(flatten)]
    report: &'a T,
}

impl TrainObserver for Watcher<'_> {
    fn on_start(&mut self, plan: &RunPlan) -> Result<()> {
        interrupt::install_saving(super::PROMISE);
        tracing::info!(
            "{} steps, {} per epoch, {} examples, {} target tokens per epoch, {} parameters",
            plan.total_steps,
            plan.steps_per_epoch,
            plan.examples,
            plan.targets_per_epoch,
            plan.parameters
        );
        let bar = progress::bar(plan.total_steps, "steps");
        bar.set_position(plan.steps_done);
        bar.reset_eta();
        self.bar = Some(bar);
        Ok(())
    }

    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        if let Some(bar) = &self.bar {
            let valid = self.valid_nll.map_or_else(String::new, |nll| format!(", valid nll {nll:.4}"));
            bar.set_message(format!(
                "loss {:.4}, nll {:.4}{valid}, {:.0} tokens/s",
                report.loss, report.nll, report.tokens_per_s
            ));
            bar.set_position(report.step);
        }
        Ok(())
    }

    fn on_log(&mut self, report: &StepReport) -> Result<()> {
        self.emit(report);
        Ok(())
    }

    fn on_evaluation(&mut self, report: &EvaluationReport) -> Result<()> {
        self.valid_nll = Some(report.valid_nll);
        self.emit(&Event { event: "evaluation", report });
        Ok(())
    }

    fn on_checkpoint(&mut self, step: u64, path: &Path) -> Result<()> {
        tracing::info!("step {step}: checkpoint `{}`", path.display());
        Ok(())
    }
}
