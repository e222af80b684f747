//! What `metrics.jsonl` says.

use serde::{Deserialize, Serialize};

/// A logged step. Absent keys are those that an older version does not write, or values that are no numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Optimizer steps done.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: Option<u64>,
    /// The objective's loss.
    pub loss: Option<f64>,
    /// Negative log-likelihood, nats per target token.
    pub nll: Option<f64>,
    /// Learning rate.
    pub lr: Option<f64>,
    /// Gradient norm before clipping.
    pub grad_norm: Option<f64>,
    /// Target tokens of the step.
    pub tokens: Option<u64>,
    /// Target tokens per second.
    pub tokens_per_s: Option<f64>,
}

/// An evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Optimizer steps done.
    pub step: u64,
    /// Development loss.
    pub valid_loss: Option<f64>,
    /// Development negative log-likelihood, nats per target token.
    pub valid_nll: Option<f64>,
    /// Development perplexity.
    pub valid_perplexity: Option<f64>,
    /// MAUVE of samples, if the run is selected by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_mauve: Option<f64>,
    /// Whether it was the best model so far.
    #[serde(default)]
    pub best: bool,
}

/// The steps and evaluations so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// Logged steps, ascending.
    pub steps: Vec<Step>,
    /// Evaluations, ascending.
    pub evaluations: Vec<Evaluation>,
    /// Lines that were neither.
    pub unreadable_lines: u64,
}

impl Curves {
    /// Adds a line. A step that comes again, of a run that was continued from an earlier checkpoint, replaces what was after it.
    pub(crate) fn add(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else {
            self.unreadable_lines += 1;
            return;
        };
        let is_evaluation = value.get("valid_nll").is_some();
        let added = if is_evaluation {
            serde_json::from_value(value).map(|evaluation: Evaluation| {
                truncate_at(&mut self.evaluations, evaluation.step, |earlier| earlier.step);
                self.evaluations.push(evaluation);
            })
        } else {
            serde_json::from_value(value).map(|step: Step| {
                truncate_at(&mut self.steps, step.step, |earlier| earlier.step);
                truncate_at(&mut self.evaluations, step.step, |earlier| earlier.step);
                self.steps.push(step);
            })
        };
        self.unreadable_lines += u64::from(added.is_err());
    }

    /// The last logged step.
    #[must_use]
    pub fn last(&self) -> Option<&Step> {
        self.steps.last()
    }

    /// The evaluation of the best model so far.
    #[must_use]
    pub fn best(&self) -> Option<&Evaluation> {
        self.evaluations.iter().rev().find(|evaluation| evaluation.best)
    }

    /// Training negative log-likelihood against the step.
    #[must_use]
    pub fn train_nll(&self) -> Vec<(f64, f64)> {
        finite(self.steps.iter().map(|step| (step.step, step.nll)))
    }

    /// Development negative log-likelihood against the step.
    #[must_use]
    pub fn valid_nll(&self) -> Vec<(f64, f64)> {
        finite(self.evaluations.iter().map(|evaluation| (evaluation.step, evaluation.valid_nll)))
    }

    /// MAUVE of samples against the step.
    #[must_use]
    pub fn mauve(&self) -> Vec<(f64, f64)> {
        finite(self.evaluations.iter().map(|evaluation| (evaluation.step, evaluation.valid_mauve)))
    }

    /// Seconds that `steps` further ones take at the speed of the last logged ones, without evaluations and checkpoints.
    #[must_use]
    pub fn seconds_for(&self, steps: u64) -> Option<f64> {
        const LAST: usize = 20;
        let recent = &self.steps[self.steps.len().saturating_sub(LAST)..];
        let of_step = |step: &Step| {
            let speed = step.tokens_per_s.filter(|speed| *speed > 0.0)?;
            Some(step.tokens? as f64 / speed)
        };
        let seconds: Vec<f64> = recent.iter().filter_map(of_step).collect();
        let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
        mean.is_finite().then_some(mean * steps as f64)
    }
}

/// Removes what was logged at `step` and after it.
fn truncate_at<T>(logged: &mut Vec<T>, step: u64, step_of: impl Fn(&T) -> u64) {
    logged.truncate(logged.partition_point(|earlier| step_of(earlier) < step));
}

fn finite(points: impl Iterator<Item = (u64, Option<f64>)>) -> Vec<(f64, f64)> {
    points.filter_map(|(step, value)| Some((step as f64, value.filter(|value| value.is_finite())?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curves(lines: &[&str]) -> Curves {
        let mut curves = Curves::default();
        lines.iter().for_each(|line| curves.add(line));
        curves
    }

    #[test]
    fn steps_and_evaluations_are_told_apart_and_others_counted() {
        let curves = curves(&[
            r#"{"step":1,"epoch":0,"loss":1.0,"nll":3.0,"lr":0.1,"grad_norm":2.0,"tokens":100,"tokens_per_s":50.0,"skipped":true}"#,
            r#"{"event":"evaluation","step":1,"valid_nll":2.5,"valid_loss":1.5,"valid_perplexity":12.2,"valid_mauve":0.5,"best":true}"#,
            "",
            "{\"step\":",
            r#"{"event":"done"}"#,
            r#"{"step":2,"nll":null,"tokens":100,"tokens_per_s":100.0}"#,
            r#"{"event":"evaluation","step":2,"valid_nll":null,"best":false}"#,
        ]);
        assert_eq!(curves.train_nll(), [(1.0, 3.0)]);
        assert_eq!((curves.valid_nll(), curves.mauve()), (vec![(1.0, 2.5)], vec![(1.0, 0.5)]));
        assert_eq!((curves.steps.len(), curves.evaluations.len(), curves.unreadable_lines), (2, 2, 2));
        assert_eq!(curves.best().unwrap().step, 1);
        // Two seconds and one.
        assert_eq!(curves.seconds_for(10), Some(15.0));
        assert_eq!(Curves::default().seconds_for(10), None);
    }

    #[test]
    fn a_continued_run_replaces_what_comes_again() {
        let curves = curves(&[
            r#"{"step":1,"nll":3.0}"#,
            r#"{"step":2,"nll":2.0}"#,
            r#"{"event":"evaluation","step":2,"valid_nll":2.5,"best":true}"#,
            r#"{"step":3,"nll":1.0}"#,
            r#"{"step":2,"nll":2.25}"#,
        ]);
        assert_eq!(curves.train_nll(), [(1.0, 3.0), (2.0, 2.25)]);
        assert!(curves.evaluations.is_empty());
    }
}
