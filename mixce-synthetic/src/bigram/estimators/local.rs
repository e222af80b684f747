//! The divergence of every context weighted by its visits: what `counts` uses for reverse terms by default.
//!
//! `sum_c N_c grad E_{y ~ q_c}[r_cy]`, where the visits N are counted on sequences sampled from Q and held fixed. That is
//! what the authors' straight-through samples differentiate (they detach the previous token inside log P, and a sequence's
//! length has no gradient): no token gets credit for what follows it. The full gradient adds the value-to-go of y to the
//! reward, see `all_tokens`.

use super::rollouts::{Beliefs, Reward, Rollouts};
use crate::bigram::simd::{PAD, dot, ln, wide};

impl Rollouts {
    /// Adds to pseudo-counts the gradient of `scale * E_Q[sum of rewards]` with the visits held fixed.
    pub(crate) fn add_local_gradient(&self, q: &Beliefs<'_>, reward: Reward, scale: f64, pseudo: &mut [f32]) {
        let kl = if reward == Reward::Kl { 1.0 } else { 0.0 };
        let (q, visits, scale) = (*q, self.visits(q.vocab), scale as f32);
        let visits = visits.as_slice();
        wide!('a, (q: Beliefs<'a>, visits: &'a [f32], kl: f32, scale: f32, pseudo: &'a mut [f32]), {
            let mut row = vec![0f32; q.stride];
            for (context, m) in pseudo.chunks_exact_mut(q.stride).enumerate() {
                let probs = &q.probs[context * q.stride..][..q.stride];
                row.fill(0.0);
                add_row(visits[context], kl, probs, &q.log_p[context * q.stride..][..q.stride], &mut row);
                if context == 0 {
                    add_row(1.0, kl, probs, &q.log_p[q.vocab * q.stride..][..q.stride], &mut row);
                }
                subtract_centred(scale, probs, &row, m);
            }
        });
    }

    /// How often a sequence visits each context after its first token, `[V]`; the begin itself is not counted.
    fn visits(&self, vocab: usize) -> Vec<f32> {
        let mut counts = vec![0u32; vocab + 1];
        self.sequences().for_each(|span| {
            self.tokens(span).iter().for_each(|token| counts[usize::from(*token)] += 1);
        });
        let sequences = self.sequences().count().max(1) as f32;
        counts[..vocab].iter().map(|n| *n as f32 / sequences).collect()
    }
}

/// `row += n (kl ln q - log P)`.
#[inline(always)]
pub(super) fn add_row(n: f32, kl: f32, probs: &[f32], log_p: &[f32], row: &mut [f32]) {
    let chunks = probs.as_chunks::<PAD>().0.iter().zip(log_p.as_chunks::<PAD>().0);
    for (row, (probs, log_p)) in row.as_chunks_mut::<PAD>().0.iter_mut().zip(chunks) {
        for ((d, p), l) in row.iter_mut().zip(probs).zip(log_p) {
            let p = if *p > f32::MIN_POSITIVE { *p } else { f32::MIN_POSITIVE };
            *d += n * (kl * ln(p) - l);
        }
    }
}

/// `m -= scale q (d - q . d)`: the gradient of an expectation over a row of outcomes that earn d, as pseudo-counts.
#[inline(always)]
pub(super) fn subtract_centred(scale: f32, probs: &[f32], d: &[f32], m: &mut [f32]) {
    let mean = dot(d, probs);
    for ((m, d), p) in m.iter_mut().zip(d).zip(probs) {
        *m -= scale * p * (d - mean);
    }
}
