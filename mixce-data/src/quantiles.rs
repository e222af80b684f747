//! Summaries of document lengths.
use std::collections::BTreeMap;

use serde::Serialize;

/// Counts of lengths, as many as there are different ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    counts: BTreeMap<u64, u64>,
    documents: u64,
    sum: u64,
}

/// Minimum, maximum, mean and quantiles of lengths; all 0 if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LengthSummary {
    /// Documents.
    pub documents: u64,
    /// Sum of the lengths.
    pub total: u64,
    /// Mean length.
    pub mean: f64,
    /// Shortest.
    pub min: u64,
    /// 5 % quantile.
    pub p5: u64,
    /// 25 % quantile.
    pub p25: u64,
    /// Median.
    pub median: u64,
    /// 75 % quantile.
    pub p75: u64,
    /// 95 % quantile.
    pub p95: u64,
    /// Longest.
    pub max: u64,
}

impl Lengths {
    /// Counts one more.
    pub fn add(&mut self, length: u64) {
        *self.counts.entry(length).or_insert(0) += 1;
        self.documents += 1;
        self.sum += length;
    }

    /// The length that a share `q` of all do not exceed (nearest rank: the `ceil(q n)`-th smallest); 0 when there is none.
    ///
    /// ```
    /// let mut lengths = mixce_data::quantiles::Lengths::default();
    /// [1, 2, 3, 100].into_iter().for_each(|n| lengths.add(n));
    /// assert_eq!((lengths.quantile(0.5), lengths.quantile(0.75), lengths.quantile(1.0)), (2, 3, 100));
    /// ```
    #[must_use]
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = ((q * self.documents as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (&length, &count) in &self.counts {
            seen += count;
            if seen >= rank {
                return length;
            }
        }
        self.counts.last_key_value().map_or(0, |(&length, _)| length)
    }

    /// The numbers for a report.
    #[must_use]
    pub fn summary(&self) -> LengthSummary {
        LengthSummary {
            documents: self.documents,
            total: self.sum,
            mean: if self.documents == 0 { 0.0 } else { self.sum as f64 / self.documents as f64 },
            min: self.quantile(0.0),
            p5: self.quantile(0.05),
            p25: self.quantile(0.25),
            median: self.quantile(0.5),
            p75: self.quantile(0.75),
            p95: self.quantile(0.95),
            max: self.quantile(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_lengths() {
        assert_eq!(Lengths::default().summary(), LengthSummary::default());
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let mut lengths = Lengths::default();
        (1..=100).for_each(|n| lengths.add(n));
        let summary = lengths.summary();
        assert_eq!((summary.min, summary.p5, summary.p25, summary.median), (1, 5, 25, 50));
        assert_eq!((summary.p75, summary.p95, summary.max, summary.mean), (75, 95, 100, 50.5));
    }
}
