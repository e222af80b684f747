//! `exact`: expectations under P and Q instead of samples.
//!
//! Data terms use the expected transition counts of a sequence from P (EOS forced at 500); reverse terms the expected
//! visits under Q (cut off after 499 tokens, as the authors sample). Nothing is random: there is no dropout.

use crate::bigram::visits::{Chain, Horizon, Rewards};

use super::rollouts::{Beliefs, ROLLOUT_TOKENS, Reward};

/// The model's probabilities `[V, V + 1]` in f64, rows normalised again.
pub(crate) fn probabilities(q: &Beliefs<'_>) -> Vec<f64> {
    let mut out = Vec::with_capacity(q.vocab * (q.vocab + 1));
    for row in q.probs.chunks_exact(q.stride) {
        let total: f64 = row.iter().map(|&p| f64::from(p)).sum();
        out.extend(row[..=q.vocab].iter().map(|&p| f64::from(p) / total));
    }
    out
}

fn rewards(q: &Beliefs<'_>, probs: &[f64], reward: Reward) -> Rewards {
    let outputs = q.vocab + 1;
    let of = |state: usize| -> Vec<f64> {
        let context = if state == q.vocab { 0 } else { state };
        let probs = &probs[context * outputs..][..outputs];
        let log_p = &q.log_p[state * q.stride..][..outputs];
        let pairs = probs.iter().zip(log_p);
        match reward {
            // q ln q is 0 at q = 0, and so is its gradient in the logits.
            Reward::Kl => pairs.map(|(&p, &l)| if p > 0.0 { p.ln() - f64::from(l) } else { 0.0 }).collect(),
            Reward::CrossEntropy => pairs.map(|(_, &l)| -f64::from(l)).collect(),
        }
    };
    Rewards { first: of(q.vocab), later: (0..q.vocab).flat_map(of).collect() }
}

/// The expected reward of a sequence from Q.
pub(crate) fn expected_reward(q: &Beliefs<'_>, reward: Reward) -> f64 {
    let probs = probabilities(q);
    Chain::new(q.vocab, &probs).expected(&rewards(q, &probs, reward), Horizon::Tokens(ROLLOUT_TOKENS))
}

/// Adds to pseudo-counts the gradient of `scale * E_Q[sum of rewards]`.
///
/// With D the gradient of the expectation by the probabilities, that by the logits is `q (D - q . D)`: pseudo-counts
/// `-q D`. The derivative of `log q` inside the reward is constant in each row and vanishes.
pub(crate) fn add_reward_gradient(q: &Beliefs<'_>, reward: Reward, scale: f64, pseudo: &mut [f32]) {
    let probs = probabilities(q);
    let rewards = rewards(q, &probs, reward);
    let chain = Chain::new(q.vocab, &probs);
    let gradient = chain.expected_with_gradient(&rewards, Horizon::Tokens(ROLLOUT_TOKENS)).gradient;
    let outputs = q.vocab + 1;
    let rows = probs.chunks_exact(outputs).zip(gradient.chunks_exact(outputs));
    for (m, (probs, d)) in pseudo.chunks_exact_mut(q.stride).zip(rows) {
        // The row mean cancels in the gradient; without it, f32 pseudo-counts keep their digits.
        let mean: f64 = probs.iter().zip(d).map(|(p, d)| p * d).sum();
        for ((m, p), d) in m.iter_mut().zip(probs).zip(d) {
            *m -= (scale * p * (d - mean)) as f32;
        }
    }
}
