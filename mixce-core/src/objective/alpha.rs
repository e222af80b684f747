//! The alpha family between maximum likelihood and probability.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Objective, ObjectiveSpec, ParameterSpec, Range};

pub(super) const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "alpha",
    weight: "q^alpha",
    summary: "trains in a sampling temperature of 1 - `alpha`; `alpha` 0: MLE, 1: DFT",
    parameters: &[ParameterSpec {
        name: "alpha",
        range: Range::closed(0.0, 1.0),
        default: 0.2,
        help: "exponent",
    }],
    build: |config| Ok(Arc::new(Alpha::new(config.get("alpha")?)?)),
};

/// The alpha family (*Beyond log-likelihood*, arXiv 2510.00526): `w = q^alpha`.
///
/// The potential `(1 - q^alpha) / alpha` is `-log q` in the limit `alpha -> 0` (MLE) and `1 - q` at `alpha = 1` (DFT up to
/// a constant). Fixed point for `alpha < 1`: `q_j` proportional to `p_j^(1 / (1 - alpha))`, exactly the distribution of a
/// model of `p` sampled at temperature `1 - alpha`.
///
/// ```
/// use mixce_core::objective::{Alpha, Objective};
/// let q = Alpha::new(0.5)?.fixed_point(&[0.8, 0.2]).unwrap();
/// assert!((q[0] - 0.64 / 0.68).abs() < 1e-12);
/// # Ok::<(), mixce_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Alpha {
    alpha: f64,
}

impl Alpha {
    /// The member with exponent `alpha` in `[0, 1]`.
    ///
    /// # Errors
    /// If `alpha` is outside `[0, 1]`.
    pub fn new(alpha: f64) -> crate::Result<Self> {
        Ok(Self { alpha: SPEC.check("alpha", alpha)? })
    }
}

impl Objective for Alpha {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn weight(&self, log_q: f64) -> f64 {
        // At alpha = 0 the weight is 1 even where log q is minus infinity.
        if self.alpha == 0.0 { 1.0 } else { (self.alpha * log_q).exp() }
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        if self.alpha == 0.0 { log_q.ones_like() } else { (log_q * self.alpha)?.exp() }
    }

    fn potential(&self, log_q: f64) -> f64 {
        if self.alpha == 0.0 { -log_q } else { -(self.alpha * log_q).exp_m1() / self.alpha }
    }

    fn fixed_point(&self, p: &[f64]) -> Option<Vec<f64>> {
        if self.alpha == 1.0 {
            return None;
        }
        let powers: Vec<f64> = p.iter().map(|p| p.powf(1.0 / (1.0 - self.alpha))).collect();
        let sum: f64 = powers.iter().sum();
        Some(powers.into_iter().map(|x| x / sum).collect())
    }
}
