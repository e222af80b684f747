//! Trust-region supervised fine-tuning.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Objective, ObjectiveSpec, ParameterSpec, Range};

pub(super) const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "trsft",
    weight: "q / max(q, alpha)",
    summary: "trust-region fine-tuning; `alpha` towards 0: MLE, 1: DFT",
    parameters: &[ParameterSpec {
        name: "alpha",
        range: Range::left_open(0.0, 1.0),
        default: 0.05,
        help: "probability below which the weight decreases",
    }],
    build: |config| Ok(Arc::new(TrSft::new(config.get("alpha")?)?)),
};

/// TrSFT (arXiv 2512.17636): `w = q / max(q, alpha)`, full weight above the threshold and proportional to `q` below it.
///
/// Potential: `-log q` for `q >= alpha`, continued by `1 - log alpha - q / alpha` below. Tokens below the threshold all
/// have the same ratio `w / q = 1 / alpha`, so a fixed point has at most the largest of them; no closed form is given.
///
/// ```
/// use mixce_core::objective::{Objective, TrSft};
/// let objective = TrSft::new(0.05)?;
/// assert_eq!(objective.weight(0.5f64.ln()), 1.0);
/// assert!((objective.weight(0.01f64.ln()) - 0.2).abs() < 1e-12);
/// # Ok::<(), mixce_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TrSft {
    alpha: f64,
}

impl TrSft {
    /// TrSFT with threshold `alpha` in `(0, 1]`.
    ///
    /// # Errors
    /// When `alpha` is outside `(0, 1]`.
    pub fn new(alpha: f64) -> crate::Result<Self> {
        Ok(Self { alpha: SPEC.check("alpha", alpha)? })
    }
}

impl Objective for TrSft {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn weight(&self, log_q: f64) -> f64 {
        (log_q - self.alpha.ln()).min(0.0).exp()
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        (log_q - self.alpha.ln())?.minimum(0.0)?.exp()
    }

    fn potential(&self, log_q: f64) -> f64 {
        if log_q >= self.alpha.ln() { -log_q } else { 1.0 - self.alpha.ln() - log_q.exp() / self.alpha }
    }
}
