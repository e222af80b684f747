//! TaiLr: a tractable surrogate of total variation distance.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Objective, ObjectiveSpec, ParameterSpec, Range, bisect};

pub(super) const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "tailr",
    weight: "max(q / (gamma + (1 - gamma) q), min_weight)",
    summary: "total variation distance with a proxy; `gamma` 0: MLE, `gamma` 1 and `min_weight` 0: DFT",
    parameters: &[
        ParameterSpec {
            name: "gamma",
            range: Range::closed(0.0, 1.0),
            default: 1e-7,
            help: "weight of the observed token in the proxy of the true distribution",
        },
        ParameterSpec {
            name: "min_weight",
            range: Range::closed(0.0, 1.0),
            default: 0.2,
            help: "lower bound of the weight",
        },
    ],
    build: |config| Ok(Arc::new(TaiLr::new(config.get("gamma")?, config.get("min_weight")?)?)),
};

/// TaiLr (Ji et al., *Tailoring language generation models under total variation distance*, ICLR 2023):
///
/// `w = max(q / (gamma + (1 - gamma) q), min_weight)`.
///
/// `gamma = 0` is MLE; `gamma = 1, min_weight = 0` is DFT. Without the clamp the potential is
/// `-log(gamma + (1 - gamma) q) / (1 - gamma)`; where the clamp is active it continues linearly in `log q`. Fixed point
/// without the clamp and for `gamma < 1`: the soft threshold `q_j = max(p_j / c - gamma, 0) / (1 - gamma)`, which gives rare
/// tokens a probability of exactly zero. With the clamp none is given.
///
/// ```
/// use mixce_core::objective::{Objective, TaiLr};
/// let q = TaiLr::new(0.1, 0.0)?.fixed_point(&[0.5, 0.3, 0.15, 0.05]).unwrap();
/// assert!((q[2] - 0.099415).abs() < 1e-6 && q[3] == 0.0);
/// # Ok::<(), mixce_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TaiLr {
    gamma: f64,
    min_weight: f64,
}

impl TaiLr {
    /// TaiLr with `gamma` in `[0, 1]` and the lower clamp `min_weight` in `[0, 1]` (the authors use 0.2 and 0.3).
    ///
    /// # Errors
    /// When a parameter is out of range.
    pub fn new(gamma: f64, min_weight: f64) -> crate::Result<Self> {
        Ok(Self { gamma: SPEC.check("gamma", gamma)?, min_weight: SPEC.check("min_weight", min_weight)? })
    }

    /// The probability below which the clamp is active, `m gamma / (1 - m (1 - gamma))`.
    fn clamped_below(&self) -> f64 {
        let m = self.min_weight;
        if self.gamma == 0.0 { 0.0 } else { m * self.gamma / (1.0 - m * (1.0 - self.gamma)) }
    }

    fn unclamped_potential(&self, q: f64) -> f64 {
        match 1.0 - self.gamma {
            0.0 => 1.0 - q,
            rest => -(self.gamma + rest * q).ln() / rest,
        }
    }
}

impl Objective for TaiLr {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn weight(&self, log_q: f64) -> f64 {
        if self.gamma == 0.0 {
            return 1.0;
        }
        let q = log_q.exp();
        (q / (self.gamma + (1.0 - self.gamma) * q)).max(self.min_weight)
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        if self.gamma == 0.0 {
            return log_q.ones_like();
        }
        let q = log_q.exp()?;
        (&q / q.affine(1.0 - self.gamma, self.gamma)?)?.maximum(self.min_weight)
    }

    fn potential(&self, log_q: f64) -> f64 {
        let knee = self.clamped_below();
        if log_q.exp() >= knee {
            return if self.gamma == 0.0 { -log_q } else { self.unclamped_potential(log_q.exp()) };
        }
        self.unclamped_potential(knee) - self.min_weight * (log_q - knee.ln())
    }

    fn fixed_point(&self, p: &[f64]) -> Option<Vec<f64>> {
        if self.min_weight > 0.0 || self.gamma == 1.0 {
            return None;
        }
        let q = |c: f64| p.iter().map(move |p| (p / c - self.gamma).max(0.0) / (1.0 - self.gamma));
        let largest = p.iter().copied().fold(0.0, f64::max);
        // The largest entry alone gives one at `c = max p`; more entries only push c up, never above 1.
        let c = bisect(largest, 1.0, |c| q(c).sum::<f64>() - 1.0);
        Some(q(c).collect())
    }
}
