//! Maximum likelihood.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Objective, ObjectiveSpec};

pub(super) const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "mle",
    weight: "1",
    summary: "maximum likelihood",
    parameters: &[],
    build: |_| Ok(Arc::new(Mle)),
};

/// Maximum likelihood, the forward cross-entropy: `w = 1`. Potential `-log q`; the fixed point is `p` itself.
///
/// ```
/// use mixce_core::objective::{Mle, Objective};
/// assert_eq!(Mle.loss(0.25f64.ln()), 4f64.ln());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Mle;

impl Objective for Mle {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn weight(&self, _log_q: f64) -> f64 {
        1.0
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        log_q.ones_like()
    }

    fn potential(&self, log_q: f64) -> f64 {
        -log_q
    }

    fn fixed_point(&self, p: &[f64]) -> Option<Vec<f64>> {
        Some(p.to_vec())
    }
}
