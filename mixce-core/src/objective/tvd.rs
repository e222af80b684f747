//! The total-variation baseline of EMO.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Objective, ObjectiveSpec, ParameterSpec, Range};

pub(super) const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "tvd",
    weight: "eta + (1 - eta) max(q / ((1 - eta) + eta q), 0.2)",
    summary: "EMO's total-variation baseline; `eta` 1: MLE",
    parameters: &[ParameterSpec {
        name: "eta",
        range: Range::closed(0.0, 1.0),
        default: 0.5,
        help: "weight of maximum likelihood in the mixture",
    }],
    build: |config| Ok(Arc::new(Tvd::new(config.get("eta")?)?)),
};

/// The objective called `tvd` in EMO's experiments (Ren et al., *EMO: Earth mover distance optimization for autoregressive
/// language modeling*, ICLR 2024): `w = r + (1 - r) max(q / ((1 - r) + r q), 0.2)`.
///
/// With `g = 1 - r` the inner part is TaiLr's weight with the authors' clamp; the outer mixture makes it a different objective.
/// `r = 1` is MLE. Potential: `r (-log q)` plus `1 - r` times TaiLr's potential. No fixed point is given.
///
/// ```
/// use mixce_core::objective::{Objective, Tvd};
/// assert!((Tvd::new(0.5)?.weight(0.5f64.ln()) - (0.5 + 0.5 * 0.5 / 0.75)).abs() < 1e-12);
/// # Ok::<(), mixce_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tvd {
    ratio: f64,
    inner: super::TaiLr,
}

const MIN_WEIGHT: f64 = 0.2;

impl Tvd {
    /// The objective with mixing ratio `ratio` in `[0, 1]` (EMO's default is 0.5), which the registry calls `eta`.
    ///
    /// # Errors
    /// When `ratio` is outside `[0, 1]`.
    pub fn new(ratio: f64) -> crate::Result<Self> {
        let ratio = SPEC.check("eta", ratio)?;
        Ok(Self { ratio, inner: super::TaiLr::new(1.0 - ratio, MIN_WEIGHT)? })
    }
}

impl Objective for Tvd {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn weight(&self, log_q: f64) -> f64 {
        self.ratio + (1.0 - self.ratio) * self.inner.weight(log_q)
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        self.inner.weights(log_q)?.affine(1.0 - self.ratio, self.ratio)
    }

    fn potential(&self, log_q: f64) -> f64 {
        // A term with factor zero is zero even if it is infinite.
        let term = |factor: f64, value: f64| if factor == 0.0 { 0.0 } else { factor * value };
        term(self.ratio, -log_q) + term(1.0 - self.ratio, self.inner.potential(log_q))
    }
}
