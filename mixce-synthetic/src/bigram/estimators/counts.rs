//! `counts`: a batch is its matrix of transition counts.
//!
//! Tokens with the same context and the same outcome have the same loss once dropout is drawn per context, so a batch
//! of 1000 sequences costs V softmaxes instead of one per token.

use crate::bigram::sequences::Sequences;
use crate::bigram::simd::ln;

use super::JsSequence;

/// Adds the transition counts of a batch, each times `weight`.
pub(crate) fn add_counts(data: &Sequences, batch: &[u32], weight: f32, stride: usize, pseudo: &mut [f32]) {
    for &index in batch {
        data.count(index as usize, weight, stride, pseudo);
    }
}

/// log Q of one data sequence, nats.
pub(crate) fn log_q(tokens: &[u16], probs: &[f32], stride: usize) -> f64 {
    let mut context = 0;
    let mut total = 0.0;
    for &token in tokens {
        let q = probs[context * stride + usize::from(token)];
        total += f64::from(ln(q.max(f32::MIN_POSITIVE)));
        context = usize::from(token);
    }
    total
}

/// Adds the gradient of `eta * mean(log P - log M)` over a batch of data: each sequence counts with weight `eta
/// dlogM/dlogQ`.
pub(crate) fn add_js_data(
    data: &Sequences,
    batch: &[u32],
    eta: f64,
    probs: &[f32],
    stride: usize,
    pseudo: &mut [f32],
) {
    for &index in batch {
        let index = index as usize;
        let js = JsSequence::new(eta, log_q(data.get(index), probs, stride), data.log_p(index));
        let weight = eta * js.share / batch.len() as f64;
        if weight != 0.0 {
            data.count(index, weight as f32, stride, pseudo);
        }
    }
}
