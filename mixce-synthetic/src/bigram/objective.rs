//! The training criterion of a cell.

use std::sync::Arc;

use mixce_core::Objective;
use pulp::Arch;

use super::estimators::rollouts::Reward;

/// How the cross-entropy of a data token is weighted, as a function of the model's probability q of that token.
#[derive(Clone, Debug)]
pub enum TokenWeight {
    /// `w = 1`: maximum likelihood. The same as [`mixce_core::objective::Mle`], without a call per cell.
    One,
    /// `w = eta + (1 - eta) q`: MixCE. The same as [`mixce_core::objective::MixCe`].
    Mixce(f64),
    /// Any token-weighted objective.
    Other(Arc<dyn Objective>),
}

impl TokenWeight {
    /// The weight w(q).
    #[inline(always)]
    #[must_use]
    pub fn weight(&self, q: f32) -> f32 {
        match self {
            Self::One => 1.0,
            Self::Mixce(eta) => *eta as f32 + (1.0 - *eta as f32) * q,
            Self::Other(objective) => objective.weight(f64::from(q.max(f32::MIN_POSITIVE)).ln()) as f32,
        }
    }

    /// The loss of a token, `w(q) (-log q)`, nats.
    #[must_use]
    pub fn loss(&self, log_q: f64) -> f64 {
        match self {
            Self::One => -log_q,
            Self::Mixce(eta) => -(eta + (1.0 - eta) * log_q.exp()) * log_q,
            Self::Other(objective) => objective.loss(log_q),
        }
    }

    /// The function whose gradient the weighted cross-entropy follows: `dl/dlog q = -w`.
    #[must_use]
    pub fn potential(&self, log_q: f64) -> f64 {
        match self {
            Self::One => -log_q,
            Self::Mixce(eta) => -eta * log_q - (1.0 - eta) * log_q.exp(),
            Self::Other(objective) => objective.potential(log_q),
        }
    }

    /// Multiplies pseudo-counts by the weights of their tokens.
    pub(crate) fn weigh(&self, probs: &[f32], pseudo: &mut [f32]) {
        match self {
            Self::One => {}
            Self::Mixce(_) => Arch::new().dispatch(|| {
                for (m, &q) in pseudo.iter_mut().zip(probs) {
                    *m *= self.weight(q);
                }
            }),
            Self::Other(_) => {
                for (m, &q) in pseudo.iter_mut().zip(probs).filter(|(m, _)| **m != 0.0) {
                    *m *= self.weight(q);
                }
            }
        }
    }
}

/// What a cell minimises; sums over tokens, means over sequences.
#[derive(Clone, Debug)]
pub enum Loss {
    /// `E_P[sum_t w(q_t) (-log q_t)]`, the weight detached.
    Token(TokenWeight),
    /// `eta E_P[-log Q] + (1 - eta) E_Q[reward]`.
    Reverse {
        /// The share of the forward term.
        eta: f64,
        /// `log Q - log P` (KL) or `-log P` (cross-entropy).
        reward: Reward,
    },
    /// `eta KL(P || M) + (1 - eta) KL(Q || M)`, `M = eta P + (1 - eta) Q` over sequences.
    Js {
        /// The share of P.
        eta: f64,
    },
}

#[cfg(test)]
mod tests {
    use mixce_core::objective::{MixCe, Mle};

    use super::*;

    #[test]
    fn the_fast_forms_are_the_objectives() {
        let pairs: [(TokenWeight, Arc<dyn Objective>); 3] = [
            (TokenWeight::One, Arc::new(Mle)),
            (TokenWeight::Mixce(0.3), Arc::new(MixCe::new(0.3).unwrap())),
            (TokenWeight::Mixce(0.0), Arc::new(MixCe::new(0.0).unwrap())),
        ];
        for (fast, objective) in pairs {
            let slow = TokenWeight::Other(objective.clone());
            for q in [1e-9f32, 0.01, 0.3, 0.999, 1.0] {
                let log_q = f64::from(q).ln();
                assert!((fast.weight(q) - slow.weight(q)).abs() < 1e-6);
                assert!((fast.loss(log_q) - slow.loss(log_q)).abs() < 1e-12);
                let shift = fast.potential(-1.0) - slow.potential(-1.0);
                assert!((fast.potential(log_q) - slow.potential(log_q) - shift).abs() < 1e-12);
            }
            let probs: Vec<f32> = (0..32).map(|i| i as f32 / 31.0).collect();
            let (mut a, mut b) = (vec![2.0; 32], vec![2.0; 32]);
            fast.weigh(&probs, &mut a);
            slow.weigh(&probs, &mut b);
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }
}
