//! The Zipf coefficient: the slope of token frequencies over ranks.
//!
//! Holtzman et al., *The Curious Case of Neural Text Degeneration*, ICLR 2020: minus the slope of the least-squares line
//! through `(ln rank, ln count)` of the most frequent tokens, 5000 at most. Human English is near 1; a larger value means
//! that frequencies fall more steeply.

use std::collections::HashMap;

use crate::error::Result;
use crate::metric::{Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, ScoreValue, Scores};

/// Maximum number of ranks used.
pub const MAX_RANK: usize = 5000;

/// The Zipf coefficient of all tokens of some texts together; `None` with fewer than two different tokens.
///
/// ```
/// use mixce_eval::zipf::zipf_coefficient;
/// // Counts 4 and 2 at ranks 1 and 2: the slope is -1.
/// assert!((zipf_coefficient(&[vec![1u32, 1, 2, 1], vec![2, 1]]).unwrap() - 1.0).abs() < 1e-12);
/// assert_eq!(zipf_coefficient(&[[3u32, 3]]), None);
/// ```
#[must_use]
pub fn zipf_coefficient<T: AsRef<[u32]>>(texts: &[T]) -> Option<f64> {
    let mut counts: HashMap<u32, u64> = HashMap::new();
    for token in texts.iter().flat_map(|text| text.as_ref()) {
        *counts.entry(*token).or_insert(0) += 1;
    }
    let mut counts: Vec<u64> = counts.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts.truncate(MAX_RANK);
    if counts.len() < 2 {
        return None;
    }
    let points: Vec<(f64, f64)> =
        (1..).zip(&counts).map(|(rank, count)| (f64::from(rank).ln(), (*count as f64).ln())).collect();
    let mean = |f: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    let covariance = mean(&|p| (p.0 - x) * (p.1 - y));
    let variance = mean(&|p| (p.0 - x).powi(2));
    Some(-covariance / variance)
}

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "zipf",
    title: "Zipf coefficient",
    summary: "Slope of token frequencies over ranks",
    needs: &[Need::TokenIds],
    scores_human: true,
    scores: &[ScoreSpec::as_human("zipf")],
    settings: &[],
    new: |_| Ok(Box::new(Zipf)),
};

#[derive(Debug)]
struct Zipf;

impl Metric for Zipf {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let coefficient = zipf_coefficient(inputs.token_ids()?);
        Ok(vec![Score::of_set("zipf", ScoreValue::Number(coefficient))].into())
    }
}
