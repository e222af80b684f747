//! Combines several observers into one.
use std::path::Path;

use crate::error::Result;
use crate::observer::{BestModel, EvaluationReport, RunPlan, StepReport, TrainObserver};

/// Forwards every event to each observer in turn.
pub(super) struct Fanout<'a> {
    pub(super) observers: Vec<&'a mut dyn TrainObserver>,
}

impl TrainObserver for Fanout<'_> {
    fn on_start(&mut self, plan: &RunPlan) -> Result<()> {
        self.observers.iter_mut().try_for_each(|o| o.on_start(plan))
    }

    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        self.observers.iter_mut().try_for_each(|o| o.on_step(report))
    }

    fn on_log(&mut self, report: &StepReport) -> Result<()> {
        self.observers.iter_mut().try_for_each(|o| o.on_log(report))
    }

    fn on_evaluation(&mut self, report: &EvaluationReport) -> Result<()> {
        self.observers.iter_mut().try_for_each(|o| o.on_evaluation(report))
    }

    fn on_checkpoint(&mut self, step: u64, path: &Path) -> Result<()> {
        self.observers.iter_mut().try_for_each(|o| o.on_checkpoint(step, path))
    }

    fn on_done(&mut self, steps: u64, best: Option<&BestModel>) -> Result<()> {
        self.observers.iter_mut().try_for_each(|o| o.on_done(steps, best))
    }
}
