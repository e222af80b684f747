//! Dynamic fine-tuning.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Objective, ObjectiveSpec};

pub(super) const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "dft",
    weight: "q",
    summary: "dynamic fine-tuning; MixCE at `eta` 0",
    parameters: &[],
    build: |_| Ok(Arc::new(Dft)),
};

/// Dynamic fine-tuning (DFT, 2025): `w = q`. The same objective as MixCE with `eta = 0`.
///
/// Potential `-q`. The fixed point is not unique: every one-hot distribution on the support is one.
///
/// ```
/// use mixce_core::objective::{Dft, MixCe, Objective};
/// assert_eq!(Dft.weight(-0.7), MixCe::new(0.0)?.weight(-0.7));
/// # Ok::<(), mixce_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Dft;

impl Objective for Dft {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn weight(&self, log_q: f64) -> f64 {
        log_q.exp()
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        log_q.exp()
    }

    fn potential(&self, log_q: f64) -> f64 {
        -log_q.exp()
    }
}
