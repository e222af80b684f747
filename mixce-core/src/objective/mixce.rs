//! MixCE: forward cross-entropy mixed with the tractable reverse cross-entropy.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Objective, ObjectiveSpec, ParameterSpec, Range, bisect};

pub(super) const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "mixce",
    weight: "eta + (1 - eta) q",
    summary: "mixture of forward and reverse cross-entropy; `eta` 1: MLE, 0: DFT",
    parameters: &[ParameterSpec {
        name: "eta",
        range: Range::closed(0.0, 1.0),
        default: 0.1,
        help: "weight of the forward cross-entropy: 1 is MLE, the paper uses 0.1 to 0.7",
    }],
    build: |config| Ok(Arc::new(MixCe::new(config.get("eta")?)?)),
};

/// MixCE (Zhang et al., *MixCE: Training autoregressive language models by mixing forward and reverse cross-entropies*,
/// ACL 2023): `w = eta + (1 - eta) q`.
///
/// The reverse cross-entropy `-E_Q[log P]` needs `P` on the model's own samples. Replacing the reward `log P` by `P`, and
/// sequence probabilities by token probabilities, gives `-E_P[sum_t q_t grad log q_t]`, which needs only data: tokens
/// that the model already finds likely get more weight. `eta = 1` is MLE.
///
/// Potential: `eta (-log q) - (1 - eta) q`. Fixed point: `q_j = eta p_j / (c - (1 - eta) p_j)` with the `c` for which the
/// probabilities sum to one; it is sharper than `p` for every `eta < 1`, and one-hot in the limit `eta -> 0`.
///
/// ```
/// use mixce_core::objective::{MixCe, Objective};
/// let objective = MixCe::new(0.1)?;
/// assert!((objective.weight(0.5f64.ln()) - 0.55).abs() < 1e-15);
/// let q = objective.fixed_point(&[0.5, 0.3, 0.15, 0.05]).unwrap();
/// assert!((q[0] - 0.824657).abs() < 1e-6);
/// # Ok::<(), mixce_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MixCe {
    eta: f64,
}

impl MixCe {
    /// MixCE with mixing ratio `eta` in `[0, 1]`.
    ///
    /// # Errors
    /// When `eta` is outside `[0, 1]`.
    pub fn new(eta: f64) -> crate::Result<Self> {
        Ok(Self { eta: SPEC.check("eta", eta)? })
    }

    /// The mixing ratio.
    #[must_use]
    pub fn eta(&self) -> f64 {
        self.eta
    }
}

impl Objective for MixCe {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn weight(&self, log_q: f64) -> f64 {
        self.eta + (1.0 - self.eta) * log_q.exp()
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        log_q.exp()?.affine(1.0 - self.eta, self.eta)
    }

    fn potential(&self, log_q: f64) -> f64 {
        // At eta = 0 the forward term is zero even if log q is minus infinity.
        let forward = if self.eta == 0.0 { 0.0 } else { -self.eta * log_q };
        forward - (1.0 - self.eta) * log_q.exp()
    }

    fn fixed_point(&self, p: &[f64]) -> Option<Vec<f64>> {
        if self.eta == 0.0 {
            return None;
        }
        let rest = 1.0 - self.eta;
        let largest = p.iter().copied().fold(0.0, f64::max);
        let q = |c: f64| p.iter().map(move |p| self.eta * p / (c - rest * p));
        // The sum falls with c; at `c = (1 - eta) max p + eta max p` the largest entry alone reaches one.
        let c = bisect(rest * largest + self.eta * largest, 1.0, |c| q(c).sum::<f64>() - 1.0);
        Some(q(c).collect())
    }
}
