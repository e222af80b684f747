//! Timed steps.

use anyhow::Result;

use super::model::Common;
use crate::progress;

/// One measured step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// Tokens in the benchmark's unit.
    pub(super) tokens: u64,
    /// Floating-point operations of its matrix products.
    pub(super) flops: u128,
    /// Wall time.
    pub(super) seconds: f64,
}

/// Runs warm-up and timed steps, numbered from 0, with a progress bar. Warm-up steps are not in the result.
pub(super) fn steps(common: &Common, mut step: impl FnMut(u64) -> Result<Step>) -> Result<Vec<Step>> {
    let total = common.warmup.saturating_add(common.steps);
    let bar = progress::bar(total, "steps");
    // Without the capacity of `--steps`, which may be absurdly large.
    let mut counted = Vec::new();
    for index in 0..total {
        let done = step(index)?;
        bar.inc(1);
        let warm_up = if index < common.warmup { " (warm-up)" } else { "" };
        bar.set_message(format!("{:.1} tokens/s{warm_up}", done.tokens as f64 / done.seconds));
        if index >= common.warmup {
            counted.push(done);
        }
    }
    bar.finish_and_clear();
    Ok(counted)
}
