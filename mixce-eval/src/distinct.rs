//! Share of distinct texts.

use std::collections::HashSet;
use std::hash::Hash;

use crate::diversity::{distinct_n, pooled_diversity};
use crate::error::Result;
use crate::metric::{Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, ScoreValue, Scores};

/// The number of different texts divided by the number of texts; `None` without any text.
///
/// ```
/// use mixce_eval::distinct::distinct_share;
/// assert_eq!(distinct_share(["a b", "c", "a b", "d"]), Some(0.75));
/// ```
pub fn distinct_share<T: Eq + Hash>(texts: impl IntoIterator<Item = T>) -> Option<f64> {
    let mut count = 0usize;
    let distinct: HashSet<T> = texts.into_iter().inspect(|_| count += 1).collect();
    (count > 0).then(|| distinct.len() as f64 / count as f64)
}

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "distinct",
    title: "distinct-n",
    summary: "Distinct n-grams of all texts together, pooled diversity, share of distinct texts",
    needs: &[Need::Texts, Need::TokenIds],
    scores_human: true,
    scores: &[
        ScoreSpec::as_human("distinct_n"),
        ScoreSpec::as_human("pooled_diversity"),
        ScoreSpec::as_human("distinct_texts"),
    ],
    settings: &[],
    new: |_| Ok(Box::new(Distinct)),
};

#[derive(Debug)]
struct Distinct;

impl Metric for Distinct {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let ids = inputs.token_ids()?;
        let by_n = (1..=4).map(|n| (n.to_string(), ScoreValue::Number(distinct_n(ids, n))));
        Ok(vec![
            Score::of_set("distinct_n", ScoreValue::Parts(by_n.collect())),
            Score::of_set("pooled_diversity", ScoreValue::Number(pooled_diversity(ids))),
            Score::of_set("distinct_texts", ScoreValue::Number(distinct_share(inputs.texts()?))),
        ]
        .into())
    }
}
