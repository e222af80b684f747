//! Samples the next token from its logits.

use mixce_kernels::{Choice, softmax_quantile};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the next token is chosen.
///
/// The default is unbiased sampling from the model. The filters are applied in transformers' order: temperature, then top-k, then
/// top-p.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits, `> 0`; 1 leaves the model's distribution as it is.
    pub temperature: f64,
    /// Keep the `k` most likely tokens (and those tied with the last of them).
    pub top_k: Option<usize>,
    /// Keep the smallest set of most likely tokens whose probabilities sum to at least this, in `(0, 1]`.
    pub top_p: Option<f64>,
    /// Take the most likely token (the first of equals) instead of sampling.
    pub greedy: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: None, greedy: false }
    }
}

impl Sampling {
    /// Checks the parameters.
    ///
    /// # Errors
    /// When one is outside its range.
    pub fn validate(&self) -> Result<()> {
        let refuse = |parameter, expected, got: String| Err(Error::Sampling { parameter, expected, got });
        if !self.temperature.is_finite() || self.temperature <= 0.0 {
            return refuse("temperature", "a finite number above 0", self.temperature.to_string());
        }
        if self.top_k == Some(0) {
            return refuse("top_k", "at least 1", "0".into());
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => refuse("top_p", "in (0, 1]", p.to_string()),
            _ => Ok(()),
        }
    }

    /// The same for [`sample_on_gpu`](mixce_kernels::sample_on_gpu).
    #[must_use]
    pub fn choice(&self) -> Choice {
        match *self {
            Self { greedy: true, .. } => Choice::Greedy,
            Self { temperature, top_k, top_p, .. } => Choice::Draw { temperature, top_k, top_p },
        }
    }

    /// The probabilities after all filters, summing to 1; one-hot when greedy. The logits must not hold NaN or plus
    /// infinity; minus infinity is an impossible token.
    #[must_use]
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f64> {
        let mut scores: Vec<f64> = logits.iter().map(|z| f64::from(*z)).collect();
        if self.greedy {
            let best = (0..scores.len()).reduce(|a, b| if scores[b] > scores[a] { b } else { a });
            return (0..scores.len()).map(|i| f64::from(u8::from(Some(i) == best))).collect();
        }
        scores.iter_mut().for_each(|z| *z /= self.temperature);
        if let Some(k) = self.top_k {
            keep_top_k(&mut scores, k);
        }
        let mut probabilities = softmax(&scores);
        if let Some(p) = self.top_p.filter(|p| *p < 1.0) {
            keep_top_p(&mut probabilities, p);
        }
        probabilities
    }

    /// The token at quantile `uniform` in `[0, 1)` of the filtered distribution.
    #[must_use]
    pub fn choose(&self, logits: &[f32], uniform: f64) -> u32 {
        let unfiltered = !self.greedy && self.top_k.is_none() && self.top_p.is_none_or(|p| p >= 1.0);
        if unfiltered && let Some(token) = softmax_quantile(logits, self.temperature, uniform) {
            return token as u32;
        }
        let probabilities = self.probabilities(logits);
        let total: f64 = probabilities.iter().sum();
        let mut rest = uniform * total;
        let mut last = 0;
        for (token, p) in probabilities.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            last = token as u32;
            rest -= p;
            if rest < 0.0 {
                break;
            }
        }
        last
    }
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let values: Vec<f64> = scores.iter().map(|z| (z - max).exp()).collect();
    let sum: f64 = values.iter().sum();
    values.into_iter().map(|v| v / sum).collect()
}

fn keep_top_k(scores: &mut [f64], k: usize) {
    if k >= scores.len() {
        return;
    }
    let mut sorted = scores.to_vec();
    let (_, threshold, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let threshold = *threshold;
    scores.iter_mut().filter(|z| **z < threshold).for_each(|z| *z = f64::NEG_INFINITY);
}

/// Drops the least likely tokens while their probabilities sum to at most `1 - p`, keeping at least one token.
fn keep_top_p(probabilities: &mut [f64], p: f64) {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
    let mut dropped = 0.0;
    for token in order.into_iter().skip(1).rev() {
        dropped += probabilities[token];
        if dropped > 1.0 - p {
            break;
        }
        probabilities[token] = 0.0;
    }
    let sum: f64 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|q| *q /= sum);
}
