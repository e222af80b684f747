//! Learning-rate schedules with warm-up, as in transformers.
use serde::{Deserialize, Serialize};

/// The shape of a schedule after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Decays linearly to 0 at the last step.
    #[default]
    Linear,
    /// Decays along half a cosine to 0 at the last step.
    Cosine,
    /// Constant at the peak.
    Constant,
}

/// A learning-rate schedule: a pure function of the step.
///
/// With `s` steps done, `W` warm-up steps and `T` steps in total, the learning rate of the next update is `peak * f(s)`:
///
/// - warm-up, `s < W`: `f = s / W` (the first update of a warm-up has rate 0),
/// - linear: `f = max(0, (T - s) / max(1, T - W))`,
/// - cosine: `f = max(0, (1 + cos(pi (s - W) / max(1, T - W))) / 2)`,
/// - constant: `f = 1`.
///
/// Past the end (`s >= T`) linear gives 0 and cosine rises again, as in transformers; the trainer never uses those. The functions
/// are those of `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` (half a cycle) and
/// `get_constant_schedule_with_warmup` in transformers 4 and 5.
///
/// ```
/// use mixce_train::optim::{Schedule, ScheduleKind};
/// let schedule = Schedule { kind: ScheduleKind::Linear, peak: 1.0, warmup_steps: 2, total_steps: 6 };
/// let rates: Vec<f64> = (0..7).map(|s| schedule.rate(s)).collect();
/// assert_eq!(rates, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Shape after the warm-up.
    pub kind: ScheduleKind,
    /// Learning rate at the end of the warm-up.
    pub peak: f64,
    /// Warm-up steps.
    pub warmup_steps: u64,
    /// Optimizer steps of the whole run, warm-up included.
    pub total_steps: u64,
}

impl Schedule {
    /// The learning rate of the update that follows `steps_done` updates.
    #[must_use]
    pub fn rate(&self, steps_done: u64) -> f64 {
        self.peak * self.factor(steps_done)
    }

    fn factor(&self, steps_done: u64) -> f64 {
        let (s, w, t) = (steps_done as f64, self.warmup_steps as f64, self.total_steps as f64);
        if steps_done < self.warmup_steps {
            return s / w;
        }
        let span = (t - w).max(1.0);
        match self.kind {
            ScheduleKind::Linear => ((t - s) / span).max(0.0),
            ScheduleKind::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * (s - w) / span).cos())).max(0.0),
            ScheduleKind::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, warmup_steps: u64, total_steps: u64) -> Schedule {
        Schedule { kind, peak: 2.0, warmup_steps, total_steps }
    }

    #[test]
    fn without_warmup_the_first_update_has_the_peak_rate() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::Constant] {
            assert_eq!(schedule(kind, 0, 10).rate(0), 2.0);
        }
    }

    #[test]
    fn the_last_update_still_moves() {
        assert!((schedule(ScheduleKind::Linear, 0, 10).rate(9) - 0.2).abs() < 1e-12);
        assert!(schedule(ScheduleKind::Cosine, 0, 10).rate(9) > 0.0);
        assert_eq!(schedule(ScheduleKind::Linear, 0, 10).rate(10), 0.0);
        assert_eq!(schedule(ScheduleKind::Linear, 0, 10).rate(99), 0.0);
    }

    #[test]
    fn a_warmup_as_long_as_the_run_only_warms_up() {
        let s = schedule(ScheduleKind::Linear, 4, 4);
        assert_eq!([s.rate(0), s.rate(1), s.rate(3)], [0.0, 0.5, 1.5]);
    }
}
