//! Diversity of texts as the share of distinct n-grams.
//!
//! The paper's definition (Zhang et al., ACL 2023, and `metrics.py` of the authors' code) pools the n-grams of one text for
//! n = 1 to 4, leaves out n-grams of three or more tokens that repeat a single token, and divides the number of distinct
//! ones by the number of all; the corpus value is the mean over texts. It measures repetition inside a text and is near one for
//! texts of a sentence or two. [`pooled_diversity`] applies the same rule to all texts together, so it also detects a model
//! that writes the same few sentences again and again.
//!
//! Texts are token ids; the paper takes GPT-2's tokens, prompt included.

use std::collections::HashSet;

use rayon::prelude::*;

use crate::error::Result;
use crate::metric::{Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, Scores};

/// Longest n-gram of the paper's definition.
pub const MAX_N: usize = 4;

/// Counts of n-grams.
#[derive(Default)]
struct Counts<'a> {
    distinct: HashSet<&'a [u32]>,
    total: usize,
}

impl<'a> Counts<'a> {
    fn add(&mut self, text: &'a [u32], n: usize) {
        let one_token = |gram: &[u32]| n >= 3 && gram.windows(2).all(|pair| pair[0] == pair[1]);
        for gram in text.windows(n).filter(|gram| !one_token(gram)) {
            self.distinct.insert(gram);
            self.total += 1;
        }
    }

    fn share(&self) -> Option<f64> {
        (self.total > 0).then(|| self.distinct.len() as f64 / self.total as f64)
    }
}

/// Distinct n-grams of one text divided by all, n = 1 to 4; `None` for an empty text.
///
/// ```
/// use mixce_eval::diversity::text_diversity;
/// // 1-grams 1 2 1 2 (2 of 4), 2-grams 12 21 12 (2 of 3), 3-grams 121 212 (2 of 2), 4-gram 1212 (1 of 1).
/// assert_eq!(text_diversity(&[1, 2, 1, 2]), Some(7.0 / 10.0));
/// // 1-grams 1 of 3, 2-grams 1 of 2; the 3-gram repeats one token and does not count.
/// assert_eq!(text_diversity(&[5, 5, 5]), Some(2.0 / 5.0));
/// ```
#[must_use]
pub fn text_diversity(text: &[u32]) -> Option<f64> {
    let mut counts = Counts::default();
    (1..=MAX_N).for_each(|n| counts.add(text, n));
    counts.share()
}

/// The mean of [`text_diversity`] over the non-empty texts; `None` if all are empty.
#[must_use]
pub fn mean_diversity<T: AsRef<[u32]> + Sync>(texts: &[T]) -> Option<f64> {
    let shares: Vec<f64> = texts.par_iter().filter_map(|text| text_diversity(text.as_ref())).collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

/// [`text_diversity`]'s rule applied to the n-grams of all texts together (no n-gram spans two texts).
///
/// The value falls with the number of texts; compare equal numbers of texts only.
#[must_use]
pub fn pooled_diversity<T: AsRef<[u32]>>(texts: &[T]) -> Option<f64> {
    let mut counts = Counts::default();
    for text in texts {
        (1..=MAX_N).for_each(|n| counts.add(text.as_ref(), n));
    }
    counts.share()
}

/// Distinct n-grams of all texts together divided by all n-grams, for one `n` (Li et al., NAACL 2016: distinct-n).
///
/// Unlike [`pooled_diversity`] it counts every n-gram. `None` when no text has `n` tokens or `n` is 0.
#[must_use]
pub fn distinct_n<T: AsRef<[u32]>>(texts: &[T], n: usize) -> Option<f64> {
    if n == 0 {
        return None;
    }
    let total: usize = texts.iter().map(|text| (text.as_ref().len() + 1).saturating_sub(n)).sum();
    let distinct: HashSet<&[u32]> = texts.iter().flat_map(|text| text.as_ref().windows(n)).collect();
    (total > 0).then(|| distinct.len() as f64 / total as f64)
}

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "diversity",
    title: "diversity",
    summary: "Distinct n-grams within each text, as in the paper",
    needs: &[Need::TokenIds],
    scores_human: true,
    scores: &[ScoreSpec::as_human("diversity")],
    settings: &[],
    new: |_| Ok(Box::new(Diversity)),
};

#[derive(Debug)]
struct Diversity;

impl Metric for Diversity {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let documents = inputs.token_ids()?.par_iter().map(|text| text_diversity(text)).collect();
        Ok(vec![Score::mean_of("diversity", documents)].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, written out with owned n-grams.
    fn reference(text: &[u32]) -> Option<f64> {
        let mut grams = Vec::new();
        for n in 1..=4 {
            for start in 0..(text.len() + 1).saturating_sub(n) {
                let gram = text[start..start + n].to_vec();
                if n < 3 || gram.iter().collect::<HashSet<_>>().len() > 1 {
                    grams.push(gram);
                }
            }
        }
        let distinct: HashSet<_> = grams.iter().collect();
        (!grams.is_empty()).then(|| distinct.len() as f64 / grams.len() as f64)
    }

    #[test]
    fn edges() {
        assert_eq!(text_diversity(&[]), None);
        assert_eq!(text_diversity(&[7]), Some(1.0));
        assert_eq!(mean_diversity::<Vec<u32>>(&[]), None);
        assert_eq!(mean_diversity(&[vec![], vec![1, 2]]), Some(1.0));
        assert_eq!(pooled_diversity(&[vec![1, 2], vec![1, 2]]), Some(0.5));
        assert_eq!(distinct_n(&[vec![1, 1, 1, 1]], 3), Some(0.5));
        assert_eq!(distinct_n(&[vec![1]], 2), None);
        assert_eq!(distinct_n(&[vec![1]], 0), None);
    }

    proptest! {
        #[test]
        fn equals_the_definition(text in prop::collection::vec(0u32..5, 0..40)) {
            prop_assert_eq!(text_diversity(&text), reference(&text));
            prop_assert_eq!(pooled_diversity(&[&text]), text_diversity(&text));
        }

        #[test]
        fn renaming_tokens_changes_nothing(text in prop::collection::vec(0u32..5, 1..40), shift in 1u32..1000) {
            let renamed: Vec<u32> = text.iter().map(|t| t * 7 + shift).collect();
            prop_assert_eq!(text_diversity(&text), text_diversity(&renamed));
        }

        #[test]
        fn the_mean_does_not_depend_on_order(mut texts in prop::collection::vec(prop::collection::vec(0u32..9, 0..12), 1..20)) {
            let forward = mean_diversity(&texts);
            texts.reverse();
            let backward = mean_diversity(&texts);
            match (forward, backward) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-12),
                (a, b) => prop_assert_eq!(a, b),
            }
        }
    }
}
