//! The cross-entropy of tokens above a probability threshold.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Objective, ObjectiveSpec, ParameterSpec, Range};

pub(super) const SPEC: ObjectiveSpec = ObjectiveSpec {
    name: "threshold",
    weight: "1 if q >= tau, else 0",
    summary: "ignores tokens below a probability threshold; `tau` 0: MLE",
    parameters: &[ParameterSpec {
        name: "tau",
        range: Range::right_open(0.0, 1.0),
        default: 0.1,
        help: "probability below which a token has no gradient",
    }],
    build: |config| Ok(Arc::new(Threshold::new(config.get("tau")?)?)),
};

/// Thresholded likelihood (*Beyond log-likelihood*, arXiv 2510.00526): `w = 1` for `q >= tau` and 0 below.
///
/// A token that the model finds unlikely is treated as noise and has no gradient. `tau = 0` is MLE. Potential: `-log max(q,
/// tau)`, constant where the weight is 0.
/// For `tau > 0` the fixed point is not unique: any set of tokens whose `p_j`, divided by their sum `s`, are all at least `tau` gives
/// one, `q_j = p_j / s` and 0 elsewhere. Starting from a model close to `p`, tokens rarer than `tau` disappear and the others keep
/// their proportions.
///
/// ```
/// use mixce_core::objective::{Objective, Threshold};
/// let objective = Threshold::new(0.1)?;
/// assert_eq!(objective.weight(0.2f64.ln()), 1.0);
/// assert_eq!(objective.weight(0.05f64.ln()), 0.0);
/// # Ok::<(), mixce_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    log_tau: f64,
}

impl Threshold {
    /// The objective with threshold `tau` in `[0, 1)`.
    ///
    /// # Errors
    /// When `tau` is outside `[0, 1)`.
    pub fn new(tau: f64) -> crate::Result<Self> {
        Ok(Self { log_tau: SPEC.check("tau", tau)?.ln() })
    }
}

impl Objective for Threshold {
    fn name(&self) -> &'static str {
        SPEC.name
    }

    fn weight(&self, log_q: f64) -> f64 {
        if log_q >= self.log_tau { 1.0 } else { 0.0 }
    }

    fn weights(&self, log_q: &Tensor) -> Result<Tensor> {
        log_q.ge(self.log_tau)?.to_dtype(log_q.dtype())
    }

    fn potential(&self, log_q: f64) -> f64 {
        -log_q.max(self.log_tau)
    }

    fn fixed_point(&self, p: &[f64]) -> Option<Vec<f64>> {
        (self.log_tau == f64::NEG_INFINITY).then(|| p.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{P, assert_near, descend};
    use super::super::{Mle, Objective};
    use super::*;

    #[test]
    fn golden_values() {
        let objective = Threshold::new(0.1).unwrap();
        let weights: Vec<f64> = P.iter().map(|p| objective.weight(p.ln())).collect();
        assert_eq!(weights, [1.0, 1.0, 1.0, 0.0]);
        let losses: Vec<f64> = P.iter().map(|p| objective.loss(p.ln())).collect();
        assert_near("loss", &losses, &[std::f64::consts::LN_2, 1.203973, 1.897120, 0.0], 1e-6);
        let potentials: Vec<f64> = P.iter().map(|p| objective.potential(p.ln())).collect();
        assert_near(
            "potential",
            &potentials,
            &[std::f64::consts::LN_2, 1.203973, 1.897120, std::f64::consts::LN_10],
            1e-6,
        );
    }

    #[test]
    fn without_a_threshold_it_is_maximum_likelihood() {
        let objective = Threshold::new(0.0).unwrap();
        for log_q in [0.0, -1e-3, -2.0, -80.0, -745.0, f64::NEG_INFINITY] {
            assert_eq!(objective.weight(log_q), Mle.weight(log_q));
            assert_eq!(objective.loss(log_q), Mle.loss(log_q));
            assert_eq!(objective.potential(log_q), Mle.potential(log_q));
        }
        assert_eq!(objective.fixed_point(&P), Mle.fixed_point(&P));
    }

    #[test]
    fn rare_tokens_disappear_and_the_others_keep_their_proportions() {
        let objective = Threshold::new(0.1).unwrap();
        assert_eq!(objective.fixed_point(&P), None);
        // 0.05 is below the threshold: 0.5, 0.3 and 0.15 by their sum. The zero is approached only like 1 / steps.
        let want = [0.526316, 0.315789, 0.157895, 0.0];
        assert_near("descent", &descend(&objective, &P, 200_000), &want, 1e-4);
    }

    #[test]
    fn a_threshold_of_one_is_refused() {
        let error = Threshold::new(1.0).unwrap_err().to_string();
        assert_eq!(error, "`tau` of objective `threshold` must be in [0, 1), got 1");
    }
}
