//! Distinct bigrams per document: whether a text repeats pairs of tokens.
//!
//! `mean over texts of |{(x_i, x_i+1)}| / (n - 1)`, the distinct bigrams of a text of `n` tokens divided by all of them. A text with fewer
//! than two tokens has no bigram; it is left out of the mean and counted. The usual distinct-2 (Li et al., NAACL 2016) pools the bigrams of
//! all texts, so it falls with their number; this metric does not, and two systems can be compared text by text.

use std::collections::HashSet;

use rayon::prelude::*;

use crate::error::Result;
use crate::metric::{Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, Scores};

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "distinct-bigrams-per-document",
    title: "distinct bigrams per document",
    summary: "Distinct bigrams within each text",
    needs: &[Need::TokenIds],
    scores_human: true,
    scores: &[ScoreSpec::as_human("distinct_bigrams_per_document")],
    settings: &[],
    new: |_| Ok(Box::new(DistinctBigrams)),
};

#[derive(Debug)]
struct DistinctBigrams;

impl Metric for DistinctBigrams {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let shares: Vec<Option<f64>> =
            inputs.token_ids()?.par_iter().map(|text| distinct_bigrams(text)).collect();
        let without = shares.iter().filter(|share| share.is_none()).count();
        Ok(Scores {
            scores: vec![Score::mean_of("distinct_bigrams_per_document", shares)],
            details: vec![("texts_without_bigrams", without.into())],
            ..Scores::default()
        })
    }
}

/// Distinct bigrams of one text divided by all; `None` with fewer than two tokens.
///
/// ```
/// use mixce_eval::distinct_bigrams::distinct_bigrams;
/// // 12 21 12 21: 2 of 4.
/// assert_eq!(distinct_bigrams(&[1, 2, 1, 2, 1]), Some(0.5));
/// assert_eq!(distinct_bigrams(&[7]), None);
/// ```
#[must_use]
pub fn distinct_bigrams(text: &[u32]) -> Option<f64> {
    let distinct: HashSet<&[u32]> = text.windows(2).collect();
    (text.len() > 1).then(|| distinct.len() as f64 / (text.len() - 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diversity::distinct_n;
    use crate::metric::{Fact, ScoreValue};
    use proptest::prelude::*;

    #[test]
    fn the_mean_is_over_the_texts_that_have_bigrams() {
        // 2 of 4, 1 of 1, 1 of 2; a text of one token and an empty one have none.
        let ids = [vec![1, 2, 1, 2, 1], vec![9], vec![3, 4], vec![], vec![5, 5, 5]];
        let found = DistinctBigrams.score(&Inputs { token_ids: Some(&ids), ..Inputs::default() }).unwrap();
        let [score] = found.scores.as_slice() else { unreachable!("one score") };
        assert_eq!(score.value, ScoreValue::Number(Some((0.5 + 1.0 + 0.5) / 3.0)));
        assert_eq!(score.documents, Some(vec![Some(0.5), None, Some(1.0), None, Some(0.5)]));
        assert_eq!(found.details, [("texts_without_bigrams", Fact::Count(2))]);
        let none = DistinctBigrams.score(&Inputs { token_ids: Some(&[]), ..Inputs::default() }).unwrap();
        assert_eq!(none.scores[0].value, ScoreValue::Number(None));
    }

    proptest! {
        #[test]
        fn of_one_text_it_is_distinct_2(text in prop::collection::vec(0u32..5, 0..40)) {
            prop_assert_eq!(distinct_bigrams(&text), distinct_n(&[&text], 2));
        }
    }
}
