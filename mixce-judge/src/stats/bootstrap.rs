//! Bootstrap intervals over items.

use mixce_base::rng::{Stream, purpose};
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

/// The percentile bootstrap interval of `sum a / sum b` over items `(a, b)`, such as wins and answers of each: items are drawn with
/// replacement, `resamples` times, with all their answers, because the answers of one item are not independent.
///
/// `None` without items or resamples, when `level` is not between 0 and 1, or when a `b` is not positive.
#[must_use]
pub fn bootstrap(items: &[(f64, f64)], resamples: usize, level: f64, seed: u64) -> Option<Interval> {
    let usable = items.iter().all(|(_, b)| *b > 0.0) && level > 0.0 && level < 1.0;
    if items.is_empty() || resamples == 0 || !usable {
        return None;
    }
    let stream = Stream::new(seed).fold(purpose::JUDGE).fold(3);
    let n = items.len() as u64;
    let resampled = |resample: u64| {
        let stream = stream.fold(resample);
        let drawn = (0..n).map(|i| items[stream.below(i, n) as usize]);
        let (a, b) = drawn.fold((0.0, 0.0), |sum, item| (sum.0 + item.0, sum.1 + item.1));
        a / b
    };
    let mut ratios: Vec<f64> = (0..resamples as u64).map(resampled).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Some(Interval { low: quantile(&ratios, tail)?, high: quantile(&ratios, 1.0 - tail)? })
}

/// The quantile of sorted numbers, linear between neighbours; `None` without any.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + place.fract() * (above - below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_the_width_of_theory() {
        let coin: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i % 2), 1.0)).collect();
        let found = bootstrap(&coin, 2000, 0.95, 1).unwrap();
        // A fair coin: 0.5 plus or minus 1.96 times 0.5 / sqrt(400).
        assert!((found.low - 0.451).abs() < 0.01 && (found.high - 0.549).abs() < 0.01, "{found:?}");
        // Three judges who copy each other are worth one.
        let copied: Vec<(f64, f64)> = coin.iter().map(|(a, _)| (3.0 * a, 3.0)).collect();
        assert_eq!(bootstrap(&copied, 2000, 0.95, 1).unwrap(), found);
    }

    #[test]
    fn edges() {
        assert_eq!(bootstrap(&[], 10, 0.95, 1), None);
        assert_eq!(bootstrap(&[(1.0, 1.0)], 0, 0.95, 1), None);
        assert_eq!(bootstrap(&[(1.0, 1.0)], 10, 1.0, 1), None);
        assert_eq!(bootstrap(&[(1.0, 0.0)], 10, 0.95, 1), None);
        assert_eq!(bootstrap(&[(1.0, 2.0)], 10, 0.95, 1), Some(Interval { low: 0.5, high: 0.5 }));
        assert_eq!((quantile(&[], 0.5), quantile(&[0.0, 1.0, 4.0], 0.75)), (None, Some(2.5)));
    }
}
