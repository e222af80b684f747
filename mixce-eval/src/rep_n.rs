//! Repeated n-grams: rep-n and the diversity that is built from it.
//!
//! Su et al., *A Contrastive Framework for Neural Text Generation*, NeurIPS 2022, after Welleck et al., ICLR 2020. Distinct and
//! all n-grams are counted in each text and both counts are summed over the texts:
//!
//! `rep-n = 1 - sum_texts distinct_n / sum_texts all_n`,  `diversity = prod_{n = 2..4} (1 - rep-n)`.
//!
//! The code published with that paper leaves out the last n-gram of each text; this one does not.

use std::collections::HashSet;

use rayon::prelude::*;
use serde::Serialize;

use crate::error::Result;
use crate::metric::{Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, ScoreValue, Scores};

/// Shares in `[0, 1]`; `None` where no text is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RepN {
    /// Repeated pairs.
    pub rep_2: Option<f64>,
    /// Repeated triples.
    pub rep_3: Option<f64>,
    /// Repeated quadruples.
    pub rep_4: Option<f64>,
    /// `(1 - rep_2)(1 - rep_3)(1 - rep_4)`.
    pub product: Option<f64>,
}

/// [`RepN`] of some texts.
///
/// ```
/// use mixce_eval::rep_n::rep_n;
/// // Pairs 12 21 12 (2 of 3 distinct); triples 121 212, quadruple 1212: all distinct.
/// let found = rep_n(&[[1u32, 2, 1, 2]]);
/// assert_eq!((found.rep_2, found.rep_3), (Some(1.0 - 2.0 / 3.0), Some(0.0)));
/// assert!((found.product.unwrap() - 2.0 / 3.0).abs() < 1e-15);
/// ```
#[must_use]
pub fn rep_n<T: AsRef<[u32]> + Sync>(texts: &[T]) -> RepN {
    let share = |n: usize| {
        let count = |text: &T| {
            let text = text.as_ref();
            let distinct: HashSet<&[u32]> = text.windows(n).collect();
            (distinct.len(), (text.len() + 1).saturating_sub(n))
        };
        let (distinct, all) = texts.par_iter().map(count).reduce(|| (0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        (all > 0).then(|| 1.0 - distinct as f64 / all as f64)
    };
    let [rep_2, rep_3, rep_4] = [2, 3, 4].map(share);
    let product =
        [rep_2, rep_3, rep_4].into_iter().try_fold(1.0, |product, rep| Some(product * (1.0 - rep?)));
    RepN { rep_2, rep_3, rep_4, product }
}

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "rep-n",
    title: "rep-n",
    summary: "Repeated n-grams, n = 2 to 4, and the product of their complements",
    needs: &[Need::TokenIds],
    scores_human: true,
    scores: &[ScoreSpec::as_human("rep_n")],
    settings: &[],
    new: |_| Ok(Box::new(RepNMetric)),
};

#[derive(Debug)]
struct RepNMetric;

impl Metric for RepNMetric {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let RepN { rep_2, rep_3, rep_4, product } = rep_n(inputs.token_ids()?);
        let parts = [("rep_2", rep_2), ("rep_3", rep_3), ("rep_4", rep_4), ("product", product)];
        let parts = parts.map(|(name, value)| (name.to_owned(), ScoreValue::Number(value)));
        Ok(vec![Score::of_set("rep_n", ScoreValue::Parts(parts.into()))].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() {
        let none: [Vec<u32>; 0] = [];
        assert_eq!(rep_n(&none).product, None);
        let short = rep_n(&[vec![1, 2]]);
        assert_eq!((short.rep_2, short.rep_3, short.product), (Some(0.0), None, None));
    }

    #[test]
    fn counts_are_summed_before_dividing() {
        // Pairs: 1 of 2 distinct, then 1 of 1.
        assert_eq!(rep_n(&[vec![5, 5, 5], vec![5, 5]]).rep_2, Some(1.0 - 2.0 / 3.0));
    }
}
