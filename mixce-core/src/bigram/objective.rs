//! The objectives of the synthetic experiments.

use super::estimators::rollouts::Reward;

/// How the cross-entropy of a data token is weighted, as a function of the model's probability q of that token.
#[derive(Clone, Debug)]
pub enum TokenWeight {
    /// `w = 1`: maximum likelihood.
    One,
    /// `w = eta + (1 - eta) q`: MixCE.
    Mixce(f64),
}

impl TokenWeight {
    /// The weight w(q).
    #[inline(always)]
    #[must_use]
    pub fn weight(&self, q: f32) -> f32 {
        match self {
            Self::One => 1.0,
            Self::Mixce(eta) => *eta as f32 + (1.0 - *eta as f32) * q,
        }
    }

    /// The function whose gradient the weighted cross-entropy follows: `dl/dlog q = -w`.
    #[must_use]
    pub fn potential(&self, log_q: f64) -> f64 {
        match self {
            Self::One => -log_q,
            Self::Mixce(eta) => -eta * log_q - (1.0 - eta) * log_q.exp(),
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
