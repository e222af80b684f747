//! Histograms of several sets of numbers over common bins, and their moments and quantiles.
//!
//! As in `numpy.histogram`, bins have equal width and are closed on the left; the last is closed on both sides. Numbers outside the bins and
//! non-finite numbers are not counted.

use serde::Serialize;

/// Equally wide bins.
#[derive(Clone, Debug, PartialEq)]
pub struct Bins {
    edges: Vec<f64>,
}

impl Bins {
    /// `count` bins from the smallest to the largest finite value, or one unit around a single value. `None` without a finite
    /// value or a bin.
    ///
    /// ```
    /// let bins = mixce_eval::histogram::Bins::covering([1.0, 3.0, f64::NAN], 4).unwrap();
    /// assert_eq!(bins.edges(), [1.0, 1.5, 2.0, 2.5, 3.0]);
    /// assert_eq!(bins.counts([1.0, 1.4, 1.5, 3.0, 3.1]), [2, 1, 0, 1]);
    /// ```
    #[must_use]
    pub fn covering(values: impl IntoIterator<Item = f64>, count: usize) -> Option<Self> {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        if low > high || count == 0 {
            return None;
        }
        let (low, high) = if low == high { (low - 0.5, high + 0.5) } else { (low, high) };
        let width = (high - low) / count as f64;
        let mut edges: Vec<f64> = (0..count).map(|i| low + width * i as f64).collect();
        edges.push(high);
        Some(Self { edges })
    }

    /// The bin edges, one more than bins.
    #[must_use]
    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// How many values are in each bin.
    #[must_use]
    pub fn counts(&self, values: impl IntoIterator<Item = f64>) -> Vec<u64> {
        let mut counts = vec![0; self.edges.len() - 1];
        for value in values {
            // Edges that do not exceed the value; the last edge belongs to the last bin.
            let at = self.edges.partition_point(|edge| *edge <= value);
            let at = if self.edges.last() == Some(&value) { at - 1 } else { at };
            if at > 0 && at < self.edges.len() {
                counts[at - 1] += 1;
            }
        }
        counts
    }
}

/// Moments and quantiles of a set of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// How many there are.
    pub n: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, divisor `n - 1`; 0 for one number.
    pub std: f64,
    /// The 5 % quantile; quantiles are interpolated linearly (numpy's default).
    pub p5: f64,
    /// The 25 % quantile.
    pub p25: f64,
    /// The median.
    pub median: f64,
    /// The 75 % quantile.
    pub p75: f64,
    /// The 95 % quantile.
    pub p95: f64,
}

impl Summary {
    /// Of some numbers, in any order; `None` without any.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / n;
        let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
        let quantile = |share: f64| {
            let at = share * (n - 1.0);
            let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            below + (above - below) * (at - at.floor())
        };
        Some(Self {
            n: sorted.len() as u64,
            mean,
            std: (squares / (n - 1.0).max(1.0)).sqrt(),
            p5: quantile(0.05),
            p25: quantile(0.25),
            median: quantile(0.5),
            p75: quantile(0.75),
            p95: quantile(0.95),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUES: [f64; 12] = [0.1, 0.25, 0.5, 0.75, 1.0, 1.0, 2.5, 3.0, 0.0, 0.3, 0.9, 2.999_999_9];

    #[test]
    fn numpy_agrees() {
        // numpy 2.4.6: histogram(VALUES, bins=6), mean, std(ddof=1), quantile.
        let bins = Bins::covering(VALUES, 6).unwrap();
        assert_eq!(bins.edges(), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
        assert_eq!(bins.counts(VALUES), [4, 3, 2, 0, 0, 3]);
        let single = Bins::covering([2.0, 2.0], 4).unwrap();
        assert_eq!(
            (single.edges(), single.counts([2.0, 2.0])),
            (&[1.5, 1.75, 2.0, 2.25, 2.5][..], vec![0, 0, 2, 0])
        );
        let summary = Summary::of(&VALUES).unwrap();
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} {want}");
        close(summary.mean, 1.108_333_325);
        close(summary.std, 1.099_345_519_691_906_4);
        for (got, want) in [
            (summary.p5, 0.055),
            (summary.p25, 0.2875),
            (summary.median, 0.825),
            (summary.p75, 1.375),
            (summary.p95, 2.999_999_945),
        ] {
            close(got, want);
        }
    }

    #[test]
    fn the_edges_of_the_domain() {
        assert_eq!(Bins::covering([], 3), None);
        assert_eq!(Bins::covering([f64::NAN, f64::INFINITY], 3), None);
        assert_eq!(Bins::covering([1.0], 0), None);
        assert_eq!(Summary::of(&[]), None);
        let one = Summary::of(&[4.0]).unwrap();
        assert_eq!((one.n, one.mean, one.std, one.p5, one.p95), (1, 4.0, 0.0, 4.0, 4.0));
        let bins = Bins::covering([0.0, 1.0], 2).unwrap();
        assert_eq!(bins.counts([f64::NAN, f64::INFINITY, -0.1, 1.1]), [0, 0]);
    }

    proptest! {
        #[test]
        fn every_value_is_in_one_bin(values in prop::collection::vec(-1e3f64..1e3, 1..60), count in 1usize..20) {
            let bins = Bins::covering(values.iter().copied(), count).unwrap();
            let counts = bins.counts(values.iter().copied());
            prop_assert_eq!(counts.iter().sum::<u64>(), values.len() as u64);
            for (i, edges) in bins.edges().windows(2).enumerate() {
                let last = i + 1 == count;
                let inside = values.iter().filter(|v| **v >= edges[0] && (**v < edges[1] || (last && **v == edges[1])));
                prop_assert_eq!(inside.count() as u64, counts[i]);
            }
        }
    }
}
