//! The score function summed over all next tokens.
//!
//! By the chain rule over positions the gradient of an expected sum of rewards is `sum_c N_c sum_y grad q_cy (r_cy +
//! v_y)`: visits times reward plus value-to-go. The plain score function replaces the sum over y by the sampled
//! token; here the sum is taken in full, and only N and v come from the sampled sequences. Baselines cancel in the
//! sum. Visits of one half of the sequences meet the values measured on the other half, so the two factors are
//! independent and their product has no bias (but for the cut at 499 tokens, near which a value is the mean over all
//! positions, and for tokens that one half never drew, which get the mean value of that half).

use super::local::{add_row, subtract_centred};
use super::rollouts::{Beliefs, Reward, Rollouts};
use crate::bigram::simd::wide;

/// Visits and values measured on half of the sequences, `[stride]` each.
#[derive(Clone, Debug)]
struct Half {
    visits: Vec<f32>,
    values: Vec<f32>,
}

impl Rollouts {
    /// Adds to pseudo-counts the gradient of `scale * E_Q[sum of rewards]`.
    pub(crate) fn add_all_tokens_gradient(
        &mut self,
        q: &Beliefs<'_>,
        reward: Reward,
        scale: f64,
        pseudo: &mut [f32],
    ) {
        self.measure_to_go(q, reward);
        let halves = [self.half(q, 0), self.half(q, 1)];
        let first = Self::first_values(q, &halves);
        let [a, b] = &halves;
        let kl = if reward == Reward::Kl { 1.0 } else { 0.0 };
        let scale = scale as f32;
        let (q, first) = (*q, first.as_slice());
        wide!('a, (
            q: Beliefs<'a>, a: &'a Half, b: &'a Half, first: &'a [f32], kl: f32, scale: f32, pseudo: &'a mut [f32],
        ), {
            let mut row = vec![0f32; q.stride];
            for (context, m) in pseudo.chunks_exact_mut(q.stride).enumerate() {
                let probs = &q.probs[context * q.stride..][..q.stride];
                let (na, nb) = (a.visits[context], b.visits[context]);
                row.fill(0.0);
                add_row(0.5 * (na + nb), kl, probs, &q.log_p[context * q.stride..][..q.stride], &mut row);
                for ((d, va), vb) in row.iter_mut().zip(&a.values).zip(&b.values) {
                    *d += 0.5 * (na * vb + nb * va);
                }
                if context == 0 {
                    add_row(1.0, kl, probs, &q.log_p[q.vocab * q.stride..][..q.stride], &mut row);
                    row.iter_mut().zip(first).for_each(|(d, v)| *d += v);
                }
                subtract_centred(scale, probs, &row, m);
            }
        });
    }

    /// Visits per sequence and mean value-to-go by state, over every other sequence.
    fn half(&self, q: &Beliefs<'_>, parity: usize) -> Half {
        let mut visits = vec![0f64; q.stride];
        let mut values = vec![0f64; q.stride];
        let (mut sequences, mut all) = (0.0, (0.0, 0.0));
        for span in self.sequences().skip(parity).step_by(2) {
            sequences += 1.0;
            let (tokens, to_go) = (self.tokens(span.clone()), self.to_go(span));
            for (&token, &value) in tokens.iter().zip(&to_go[1..]) {
                visits[usize::from(token)] += 1.0;
                values[usize::from(token)] += f64::from(value);
                all.0 += f64::from(value);
                all.1 += 1.0;
            }
        }
        let fallback = if all.1 > 0.0 { all.0 / all.1 } else { 0.0 };
        for (value, n) in values[..q.vocab].iter_mut().zip(&visits) {
            *value = if *n > 0.0 { *value / n } else { fallback };
        }
        let per_sequence = if sequences > 0.0 { 1.0 / sequences } else { 0.0 };
        Half {
            visits: visits.iter().map(|n| (n * per_sequence) as f32).collect(),
            values: values.iter().map(|v| *v as f32).collect(),
        }
    }

    /// The value of the first token: the mean of both halves (the begin is visited once, without noise).
    fn first_values(q: &Beliefs<'_>, [a, b]: &[Half; 2]) -> Vec<f32> {
        let mut first: Vec<f32> = a.values.iter().zip(&b.values).map(|(a, b)| 0.5 * (a + b)).collect();
        first[q.vocab..].fill(0.0);
        first
    }
}
