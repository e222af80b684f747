//! Bootstrap intervals and paired tests for means over documents.
//!
//! Both are seeded and do not depend on the number of threads: resample `r` draws from its own stream of random numbers.

use mixce_base::rng::{Stream, purpose};
use rayon::prelude::*;
use serde::Serialize;

/// A confidence interval; `[low, high]` when serialized.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(into = "[f64; 2]")]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

/// The percentile bootstrap interval of a mean (Efron, 1979): `resamples` times, draw as many values with replacement and take
/// their mean; the ends are the `(1 - level) / 2` and `(1 + level) / 2` quantiles, interpolated linearly.
///
/// `None` without values or resamples, or when `level` is not between 0 and 1.
///
/// ```
/// use mixce_eval::resample::bootstrap_mean;
/// let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
/// let found = bootstrap_mean(&values, 1000, 0.95, 42).unwrap();
/// // A fair coin: 0.5 plus or minus 1.96 times 0.5 / sqrt(400).
/// assert!((found.low - 0.451).abs() < 0.01 && (found.high - 0.549).abs() < 0.01);
/// ```
#[must_use]
pub fn bootstrap_mean(values: &[f64], resamples: usize, level: f64, seed: u64) -> Option<Interval> {
    let items: Vec<(f64, f64)> = values.iter().map(|value| (*value, 1.0)).collect();
    bootstrap_ratio(&items, resamples, level, Stream::new(seed).fold(purpose::METRIC).fold(1))
}

/// The percentile bootstrap interval of `sum a / sum b` over items `(a, b)`, such as the wins and the answers of each: items are drawn with
/// replacement, `resamples` times, with all that belongs to them, because values of one item are not independent. Random numbers come from `stream`.
///
/// `None` without items or resamples, when `level` is not between 0 and 1, or when a `b` is not positive.
#[must_use]
pub fn bootstrap_ratio(
    items: &[(f64, f64)],
    resamples: usize,
    level: f64,
    stream: Stream,
) -> Option<Interval> {
    if items.is_empty() || !items.iter().all(|(_, b)| *b > 0.0) {
        return None;
    }
    let n = items.len() as u64;
    let ratio = |resample: u64| {
        let stream = stream.fold(resample);
        let drawn = (0..n).map(|i| items[stream.below(i, n) as usize]);
        let (a, b) = drawn.fold((0.0, 0.0), |sum, item| (sum.0 + item.0, sum.1 + item.1));
        a / b
    };
    percentile_interval((0..resamples as u64).into_par_iter().map(ratio).collect(), level)
}

/// The interval between the `(1 - level) / 2` and `(1 + level) / 2` quantiles of resampled statistics; `None` without any, or when
/// `level` is not between 0 and 1.
pub(crate) fn percentile_interval(mut statistics: Vec<f64>, level: f64) -> Option<Interval> {
    if statistics.is_empty() || !(level > 0.0 && level < 1.0) {
        return None;
    }
    statistics.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Some(Interval { low: quantile(&statistics, tail)?, high: quantile(&statistics, 1.0 - tail)? })
}

/// The quantile of sorted numbers, linear between neighbours; `None` without any, or for a share outside 0 to 1.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + place.fract() * (above - below))
}

/// Two systems compared document by document.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairedTest {
    /// Documents for which both have a value.
    pub pairs: usize,
    /// Mean of the first minus mean of the second over those pairs.
    pub difference: f64,
    /// Bootstrap interval of the difference.
    pub interval: Interval,
    /// Two-sided p-value of the permutation test.
    pub p_value: f64,
}

/// The paired permutation (sign-flip) test of equal means (Fisher, 1935; Noreen, 1989).
///
/// Under the null hypothesis the sign of each pair's difference is random. With `flips` random sign patterns, `p = (1 + #{|mean
/// of flipped differences| >= |mean difference|}) / (1 + flips)`. The interval is [`bootstrap_mean`] of the differences. Pairs in
/// which either value is missing are left out; `None` if none remains.
///
/// ```
/// use mixce_eval::resample::paired_test;
/// let worse: Vec<_> = (0..50).map(|i| Some(f64::from(i))).collect();
/// let better: Vec<_> = (0..50).map(|i| Some(f64::from(i) + 1.0)).collect();
/// let found = paired_test(&better, &worse, 999, 0.95, 42).unwrap();
/// assert_eq!((found.difference, found.p_value), (1.0, 0.001));
/// ```
#[must_use]
pub fn paired_test(
    first: &[Option<f64>],
    second: &[Option<f64>],
    flips: usize,
    level: f64,
    seed: u64,
) -> Option<PairedTest> {
    let differences: Vec<f64> = first.iter().zip(second).filter_map(|(a, b)| Some((*a)? - (*b)?)).collect();
    let interval = bootstrap_mean(&differences, flips, level, seed)?;
    let sum: f64 = differences.iter().sum();
    // Sums with other signs may differ by rounding, so values equal up to rounding count as equal.
    let scale: f64 = differences.iter().map(|d| d.abs()).sum();
    let threshold = sum.abs() - 1e-12 * scale;
    let stream = Stream::new(seed).fold(purpose::METRIC).fold(2);
    let is_extreme = |flip: u64| {
        let stream = stream.fold(flip);
        let flipped: f64 = (0..)
            .zip(differences.chunks(128))
            .map(|(block, chunk)| {
                let words = stream.u32s(block);
                let signed = |(i, d): (usize, &f64)| if words[i / 32] >> (i % 32) & 1 == 1 { *d } else { -d };
                chunk.iter().enumerate().map(signed).sum::<f64>()
            })
            .sum();
        flipped.abs() >= threshold
    };
    let extreme = (0..flips as u64).into_par_iter().filter(|flip| is_extreme(*flip)).count();
    Some(PairedTest {
        pairs: differences.len(),
        difference: sum / differences.len() as f64,
        interval,
        p_value: (1 + extreme) as f64 / (1 + flips) as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, n: u64, shift: f64) -> Vec<Option<f64>> {
        let stream = Stream::new(seed);
        (0..n).map(|i| Some(stream.normal(i) + shift)).collect()
    }

    #[test]
    fn edges() {
        assert_eq!(bootstrap_mean(&[], 10, 0.95, 1), None);
        assert_eq!(bootstrap_mean(&[1.0], 0, 0.95, 1), None);
        assert_eq!(bootstrap_mean(&[1.0], 10, 1.0, 1), None);
        assert_eq!(bootstrap_mean(&[2.5], 10, 0.95, 1), Some(Interval { low: 2.5, high: 2.5 }));
        assert_eq!(paired_test(&[None], &[Some(1.0)], 10, 0.95, 1), None);
        let equal =
            paired_test(&[Some(1.0), None, Some(2.0)], &[Some(1.0), Some(1.0), Some(2.0)], 99, 0.95, 1);
        assert_eq!(equal.map(|t| (t.pairs, t.difference, t.p_value)), Some((2, 0.0, 1.0)));
    }

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[0.0, 1.0, 4.0], 0.75), Some(2.5));
        assert_eq!((quantile(&[3.0], 0.9), quantile(&[], 0.5)), (Some(3.0), None));
    }

    #[test]
    fn ratios_are_resampled_by_item() {
        let stream = Stream::new(1);
        let coin: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i % 2), 1.0)).collect();
        let found = bootstrap_ratio(&coin, 2000, 0.95, stream).unwrap();
        // A fair coin: 0.5 plus or minus 1.96 times 0.5 / sqrt(400).
        assert!((found.low - 0.451).abs() < 0.01 && (found.high - 0.549).abs() < 0.01, "{found:?}");
        // Three judges who copy each other are worth one.
        let copied: Vec<(f64, f64)> = coin.iter().map(|(a, _)| (3.0 * a, 3.0)).collect();
        assert_eq!(bootstrap_ratio(&copied, 2000, 0.95, stream).unwrap(), found);
        for (items, resamples, level) in [
            (&[][..], 10, 0.95),
            (&[(1.0, 1.0)], 0, 0.95),
            (&[(1.0, 1.0)], 10, 1.0),
            (&[(1.0, 0.0)], 10, 0.95),
            (&[(1.0, f64::NAN)], 10, 0.95),
        ] {
            assert_eq!(bootstrap_ratio(items, resamples, level, stream), None);
        }
        let half = Interval { low: 0.5, high: 0.5 };
        assert_eq!(bootstrap_ratio(&[(1.0, 2.0)], 10, 0.95, stream), Some(half));
    }

    /// Where nothing differs, p-values are uniform: about one in ten lies below a tenth.
    #[test]
    fn p_values_are_calibrated() {
        let below = (0..200).filter(|&seed| {
            let (a, b) = (noise(seed, 40, 0.0), noise(1000 + seed, 40, 0.0));
            paired_test(&a, &b, 199, 0.95, seed).unwrap().p_value <= 0.1
        });
        let below = below.count();
        assert!((8..=35).contains(&below), "{below} of 200");
        let far = paired_test(&noise(1, 40, 1.5), &noise(2, 40, 0.0), 199, 0.95, 3).unwrap();
        assert!(far.p_value <= 0.01 && far.interval.low > 0.0, "{far:?}");
    }

    /// The interval of 95 % covers the truth in about 95 of 100 cases.
    #[test]
    fn intervals_cover_the_mean() {
        let covered = (0..200).filter(|&seed| {
            let values: Vec<f64> = noise(seed, 60, 3.0).into_iter().flatten().collect();
            let found = bootstrap_mean(&values, 300, 0.95, seed).unwrap();
            found.low <= 3.0 && 3.0 <= found.high
        });
        let covered = covered.count();
        assert!((178..=199).contains(&covered), "{covered} of 200");
    }
}
