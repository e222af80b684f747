//! Statistics of lengths.

use serde::Serialize;

use crate::error::Result;
use crate::metric::{Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, ScoreValue, Scores};

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

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "length",
    title: "length",
    summary: "Tokens and words of the texts",
    needs: &[Need::Texts, Need::TokenIds],
    scores_human: true,
    scores: &[ScoreSpec::as_human("tokens"), ScoreSpec::as_human("words")],
    settings: &[],
    new: |_| Ok(Box::new(Length)),
};

#[derive(Debug)]
struct Length;

impl Metric for Length {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let tokens: Vec<usize> = inputs.token_ids()?.iter().map(Vec::len).collect();
        let words: Vec<usize> = inputs.texts()?.iter().map(|text| text.split_whitespace().count()).collect();
        let documents = tokens.iter().map(|n| Some(*n as f64)).collect();
        Ok(vec![
            Score::of_documents("tokens", ScoreValue::Lengths(Lengths::of(&tokens)), documents),
            Score::of_set("words", ScoreValue::Lengths(Lengths::of(&words))),
        ]
        .into())
    }
}
