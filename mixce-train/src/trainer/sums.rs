//! Sums over the microbatches of a step, and over the time between two log lines.
use std::time::Duration;

use mixce_core::Objective;

/// Sums over the target tokens of a step.
#[derive(Debug, Default)]
pub(super) struct StepSums {
    /// The objective's loss, already divided by the step's target tokens.
    pub(super) loss: f64,
    pub(super) log_q: f64,
    pub(super) weight: f64,
    pub(super) tokens: u64,
}

impl StepSums {
    /// Adds a microbatch: its part of the loss, and `log q` of its targets.
    pub(super) fn add(&mut self, loss: f64, log_q: &[f32], objective: &dyn Objective) {
        self.loss += loss;
        for &log_q in log_q {
            self.log_q += f64::from(log_q);
            self.weight += objective.weight(f64::from(log_q));
        }
        self.tokens += log_q.len() as u64;
    }

    /// Negative log-likelihood in nats per token.
    pub(super) fn nll(&self) -> f64 {
        -self.log_q / self.tokens as f64
    }

    /// Mean token weight.
    pub(super) fn mean_weight(&self) -> f64 {
        self.weight / self.tokens as f64
    }
}

/// Speed since the last log line.
#[derive(Debug, Default)]
pub(super) struct Speedometer {
    tokens: u64,
    time: Duration,
}

impl Speedometer {
    pub(super) fn add(&mut self, tokens: u64, time: Duration) {
        self.tokens += tokens;
        self.time += time;
    }

    pub(super) fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.time.as_secs_f64().max(1e-9)
    }
}
