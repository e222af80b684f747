//! Statistics of lengths.

use serde::Serialize;

/// Statistics of the lengths of some texts, in whatever unit they were given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// Mean.
    pub mean: f64,
    /// Standard deviation, divisor `n`.
    pub std: f64,
    /// Shortest.
    pub min: usize,
    /// Median; the mean of the middle two of an even number.
    pub median: f64,
    /// Longest.
    pub max: usize,
}

impl Lengths {
    /// The statistics of these lengths; `None` without any.
    ///
    /// ```
    /// use mixce_eval::lengths::Lengths;
    /// let found = Lengths::of(&[4, 1, 3, 8]).unwrap();
    /// assert_eq!((found.mean, found.min, found.median, found.max), (4.0, 1, 3.5, 8));
    /// ```
    #[must_use]
    pub fn of(lengths: &[usize]) -> Option<Self> {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let n = sorted.len();
        let mean = sorted.iter().map(|l| *l as f64).sum::<f64>() / n as f64;
        let variance = sorted.iter().map(|l| (*l as f64 - mean).powi(2)).sum::<f64>() / n as f64;
        let median = (sorted[(n - 1) / 2] as f64 + sorted[n / 2] as f64) / 2.0;
        Some(Self { mean, std: variance.sqrt(), min, median, max })
    }
}
