//! Three ways to estimate the gradient of one step.
//!
//! All end in a gradient of the logits of the V contexts. `counts` and `exact` write it as *pseudo-counts* M `[V,
//! stride]`: the gradient of `-sum_cy M_cy log q_cy` with M held fixed, which is `(sum_y M_cy) q_c - M_c`.

mod all_tokens;
pub(crate) mod counts;
pub(crate) mod exact;
mod gumbel;
mod local;
pub(crate) mod rollouts;
pub(crate) mod sampled;

use super::simd::wide;

/// Turns pseudo-counts `[V, stride]` into the gradient of the logits: `d_c = (sum_y m_cy) q_c - m_c`.
pub(crate) fn logit_gradient(pseudo: &[f32], probs: &[f32], stride: usize, d_logits: &mut [f32]) {
    wide!('a, (pseudo: &'a [f32], probs: &'a [f32], stride: usize, d_logits: &'a mut [f32]), {
        let rows = pseudo.chunks_exact(stride).zip(probs.chunks_exact(stride));
        for (d, (m, q)) in d_logits.chunks_exact_mut(stride).zip(rows) {
            let mut lanes = [0f32; 16];
            for chunk in m.as_chunks::<16>().0 {
                lanes.iter_mut().zip(chunk).for_each(|(lane, m)| *lane += m);
            }
            let total: f32 = lanes.iter().sum();
            for ((d, m), q) in d.iter_mut().zip(m).zip(q) {
                *d = total * q - m;
            }
        }
    });
}

/// The JS divergence of a sequence as the authors compute it: `log M = log P + ln(eta + (1 - eta)
/// exp(clamp(ratio)))`, with the log-ratio `log Q - log P` clamped to ±30 inside the exponential only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JsSequence {
    /// `log P - log M`, the term of a sequence from P.
    pub(crate) from_p: f64,
    /// `log Q - log M`, the term of a sequence from Q.
    pub(crate) from_q: f64,
    /// `d log M / d log Q`, which is 0 where the ratio is clamped.
    pub(crate) share: f64,
}

impl JsSequence {
    /// The terms for one sequence.
    pub(crate) fn new(eta: f64, log_q: f64, log_p: f64) -> Self {
        const LIMIT: f64 = 30.0;
        let ratio = log_q - log_p;
        let scaled = (1.0 - eta) * ratio.clamp(-LIMIT, LIMIT).exp();
        let mix = (eta + scaled).ln();
        let share = if ratio.abs() < LIMIT { scaled / (eta + scaled) } else { 0.0 };
        Self { from_p: -mix, from_q: ratio - mix, share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn js_terms_and_their_derivative() {
        for (eta, log_q, log_p) in [(0.5, -10.0, -12.0), (0.1, -9.0, -3.0), (0.9, -5.0, -5.0)] {
            let js = JsSequence::new(eta, log_q, log_p);
            let log_m = (eta * f64::exp(log_p) + (1.0 - eta) * f64::exp(log_q)).ln();
            assert!((js.from_p - (log_p - log_m)).abs() < 1e-12);
            assert!((js.from_q - (log_q - log_m)).abs() < 1e-12);
            let up = JsSequence::new(eta, log_q + 1e-6, log_p).from_p;
            let down = JsSequence::new(eta, log_q - 1e-6, log_p).from_p;
            assert!((js.share + (up - down) / 2e-6).abs() < 1e-8);
        }
        let clamped = JsSequence::new(0.5, -10.0, -80.0);
        assert_eq!(clamped.share, 0.0);
        assert!((clamped.from_q - (70.0 - (0.5f64 + 0.5 * 30f64.exp()).ln())).abs() < 1e-9);
    }

    #[test]
    fn pseudo_counts_give_the_gradient_of_weighted_cross_entropy() {
        let mut q = vec![0f32; 32];
        q[..3].copy_from_slice(&[0.2, 0.3, 0.5]);
        q[16..19].copy_from_slice(&[0.1, 0.1, 0.8]);
        let mut m = vec![0f32; 32];
        m[..3].copy_from_slice(&[1.0, 0.0, 3.0]);
        m[16] = -2.0;
        let mut d = vec![0f32; 32];
        logit_gradient(&m, &q, 16, &mut d);
        for (got, want) in d[..3].iter().chain(&d[16..19]).zip([-0.2, 1.2, -1.0, 1.8, -0.2, -1.6]) {
            assert!((got - want).abs() < 1e-6);
        }
    }
}
