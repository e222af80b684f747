//! Sampling from a softmax without storing its probabilities.

use crate::math;
use crate::simd::{self, vectorised};

/// Elements whose weights are summed in f32 before being added to an f64 sum.
const BLOCK: usize = 256;

/// The index at quantile `uniform` in `[0, 1)` of `softmax(logits / temperature)`: the first one whose cumulative probability exceeds
/// it. `None` when a logit is not finite, there are none, or the temperature is too low for f32.
///
/// Two vectorised passes over the logits compute their maximum and the weights `exp((z - max) / temperature)` in f32 (2 ulp), whose
/// sums of 256 are accumulated in f64; then the weights of the block that contains the quantile are recomputed. The relative error of a
/// probability is a few 1e-7. The order of the sums is fixed.
#[must_use]
pub fn softmax_quantile(logits: &[f32], temperature: f64, uniform: f64) -> Option<usize> {
    if !all_finite(logits) {
        return None;
    }
    let scale = (1.0 / temperature) as f32;
    let (max, sums): (f32, Vec<f64>) = vectorised(|| {
        let max = simd::max(logits);
        let sum = |block| f64::from(simd::sum(block, |z| weight(z, max, scale)));
        (max, logits.chunks(BLOCK).map(sum).collect())
    });
    let mut rest = uniform * sums.iter().sum::<f64>();
    let mut last = None;
    for (block, sum) in sums.iter().enumerate() {
        // Rounding may leave a remainder after the last block or its last weight, which is then taken.
        if *sum > 0.0 {
            last = Some(block);
        }
        if rest < *sum {
            break;
        }
        rest -= sum;
    }
    let block = last?;
    let start = block * BLOCK;
    let mut index = None;
    for (i, z) in logits[start..].iter().take(BLOCK).enumerate() {
        let weight = f64::from(weight(*z, max, scale));
        if weight > 0.0 {
            index = Some(start + i);
        }
        if rest < weight {
            break;
        }
        rest -= weight;
    }
    index
}

/// Whether all numbers are finite.
#[must_use]
pub fn all_finite(x: &[f32]) -> bool {
    // A sum with a non-finite term is not finite.
    vectorised(|| simd::sum(x, |x| x * 0.0)).is_finite()
}

#[inline(always)]
fn weight(z: f32, max: f32, scale: f32) -> f32 {
    math::exp((z - max) * scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    /// The cumulative probabilities in f64.
    fn cumulative(logits: &[f32], temperature: f64) -> Vec<f64> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights = logits.iter().map(|z| (f64::from(z - max) / temperature).exp());
        let mut sum = 0.0;
        let sums: Vec<f64> = weights
            .map(|w| {
                sum += w;
                sum
            })
            .collect();
        sums.iter().map(|s| s / sum).collect()
    }

    #[test]
    fn quantiles_are_those_of_the_softmax_in_f64() {
        for (n, temperature) in [(1, 1.0), (7, 0.5), (256, 1.0), (257, 2.0), (5000, 0.7), (50_257, 1.0)] {
            let logits: Vec<f32> = (0..n as u64).map(|i| 3.0 * Stream::new(1).normal(i) as f32).collect();
            let cumulative = cumulative(&logits, temperature);
            for i in 0..500 {
                let uniform = Stream::new(2).uniform(i);
                let got = softmax_quantile(&logits, temperature, uniform).unwrap();
                let below = if got == 0 { 0.0 } else { cumulative[got - 1] };
                assert!(
                    below <= uniform + 1e-6 && uniform <= cumulative[got] + 1e-6,
                    "{n}: {uniform} gave {got}"
                );
            }
        }
    }

    /// Draws have the distribution's shares: a chi-squared statistic of 9 degrees of freedom below its 0.9999 quantile.
    #[test]
    fn draws_are_unbiased() {
        let (logits, draws): (Vec<f32>, u64) = ((0..10).map(|i| (i as f32).sin()).collect(), 200_000);
        let mut counts = [0f64; 10];
        for i in 0..draws {
            counts[softmax_quantile(&logits, 1.0, Stream::new(3).uniform(i)).unwrap()] += 1.0;
        }
        let cumulative = cumulative(&logits, 1.0);
        let statistic: f64 = (0..10)
            .map(|i| (cumulative[i] - if i == 0 { 0.0 } else { cumulative[i - 1] }) * draws as f64)
            .zip(counts)
            .map(|(expected, count)| (count - expected).powi(2) / expected)
            .sum();
        assert!(statistic < 33.7, "{statistic}");
    }

    #[test]
    fn edges() {
        assert_eq!(softmax_quantile(&[], 1.0, 0.5), None);
        assert_eq!(softmax_quantile(&[1.0, f32::NAN], 1.0, 0.5), None);
        assert_eq!(softmax_quantile(&[1.0, f32::INFINITY], 1.0, 0.5), None);
        assert_eq!(softmax_quantile(&[1.0, f32::NEG_INFINITY], 1.0, 0.5), None);
        assert_eq!(softmax_quantile(&[0.0, 0.0], 1.0, 0.0), Some(0));
        assert_eq!(softmax_quantile(&[0.0, 0.0], 1.0, 0.5), Some(1));
        // What cannot be drawn is not, at either end.
        let mut logits = vec![-1000f32; 600];
        logits[300] = 1000.0;
        for uniform in [0.0, 0.5, 1.0 - f64::EPSILON] {
            assert_eq!(softmax_quantile(&logits, 0.01, uniform), Some(300));
        }
        assert_eq!(softmax_quantile(&[1.0, 2.0], 1e-300, 0.5), None);
        assert_eq!(softmax_quantile(&[3e38, -3e38], 1e-3, 0.9), Some(0));
    }
}
