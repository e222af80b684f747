//! Self-BLEU: n-gram overlap of each text with the others.
//!
//! Zhu et al., *Texygen*, SIGIR 2018: the BLEU-4 (Papineni et al., ACL 2002) of each text with all others as references; a
//! high value means that the texts resemble each other. Uniform weights; an n-gram precision of 0 of `m` becomes `0.1 / m`
//! (Chen and Cherry, WMT 2014, method 1, NLTK's `SmoothingFunction().method1`); a text that shares no token with the others
//! scores 0; the brevity penalty takes the reference of the closest length, the shorter of two.
//! For every n-gram, the two largest counts in a single text are stored, and the text of the largest. They give the largest count in
//! any *other* text, so the cost is linear in the tokens, not quadratic in the texts.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::error::Result;
use crate::metric::{Fact, Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, ScoreValue, Scores, Setting};

/// Longest n-gram.
pub const MAX_N: usize = 4;
/// Replacement of a zero count.
const EPSILON: f64 = 0.1;

/// The largest counts of an n-gram in a single text.
#[derive(Clone, Copy, Debug, Default)]
struct Largest {
    first: u32,
    owner: usize,
    second: u32,
}

impl Largest {
    fn add(&mut self, count: u32, owner: usize) {
        if count > self.first {
            *self = Self { first: count, owner, second: self.first };
        } else {
            self.second = self.second.max(count);
        }
    }

    /// The largest count in any text but this one.
    fn without(&self, text: usize) -> u32 {
        if self.owner == text { self.second } else { self.first }
    }
}

/// Self-BLEU of each text, in order, in `[0, 1]`; `None` for fewer than two texts.
///
/// ```
/// use mixce_eval::self_bleu::self_bleu;
/// assert_eq!(self_bleu(&[[1u32, 2, 3, 4], [1, 2, 3, 4]]), Some(vec![1.0, 1.0]));
/// assert_eq!(self_bleu(&[[1u32, 2], [3, 4]]), Some(vec![0.0, 0.0]));
/// assert_eq!(self_bleu(&[[1u32, 2]]), None);
/// ```
#[must_use]
pub fn self_bleu<T: AsRef<[u32]> + Sync>(texts: &[T]) -> Option<Vec<f64>> {
    if texts.len() < 2 {
        return None;
    }
    let mut matches = vec![[0u64; MAX_N]; texts.len()];
    for n in 1..=MAX_N {
        let counts: Vec<HashMap<&[u32], u32>> =
            texts.par_iter().map(|text| count(text.as_ref(), n)).collect();
        let mut largest: HashMap<&[u32], Largest> = HashMap::new();
        for (owner, counts) in counts.iter().enumerate() {
            for (gram, times) in counts {
                largest.entry(gram).or_default().add(*times, owner);
            }
        }
        matches.par_iter_mut().zip(&counts).enumerate().for_each(|(text, (matches, counts))| {
            let clipped = |(gram, times): (&&[u32], &u32)| {
                u64::from((*times).min(largest.get(gram).map_or(0, |l| l.without(text))))
            };
            matches[n - 1] = counts.iter().map(clipped).sum();
        });
    }
    let mut lengths: Vec<usize> = texts.iter().map(|text| text.as_ref().len()).collect();
    let of_texts = lengths.clone();
    lengths.sort_unstable();
    let scores = matches.iter().zip(of_texts);
    Some(scores.map(|(matches, length)| bleu(matches, length, closest(&lengths, length))).collect())
}

fn count(text: &[u32], n: usize) -> HashMap<&[u32], u32> {
    let mut counts = HashMap::new();
    for gram in text.windows(n) {
        *counts.entry(gram).or_insert(0) += 1;
    }
    counts
}

/// The length of another text that is closest to `length` (of two, the shorter); `sorted` has the text's own once.
fn closest(sorted: &[usize], length: usize) -> usize {
    let own = sorted.partition_point(|other| *other < length);
    let below = own.checked_sub(1).and_then(|i| sorted.get(i)).copied();
    match (below, sorted.get(own + 1).copied()) {
        (Some(below), Some(above)) if length - below <= above - length => below,
        (_, Some(above)) => above,
        (Some(below), None) => below,
        (None, None) => length,
    }
}

fn bleu(matches: &[u64; MAX_N], length: usize, reference: usize) -> f64 {
    if matches[0] == 0 {
        return 0.0;
    }
    let log_precision = |(n, matches): (usize, &u64)| {
        let grams = (length + 1).saturating_sub(n).max(1) as f64;
        ((if *matches == 0 { EPSILON } else { *matches as f64 }) / grams).ln()
    };
    let mean = (1..).zip(matches).map(log_precision).sum::<f64>() / MAX_N as f64;
    let brevity = if length > reference { 0.0 } else { 1.0 - reference as f64 / length as f64 };
    (mean + brevity).exp()
}

const TEXTS: Setting<usize> = Setting {
    name: "self-bleu-texts",
    value_name: "N",
    help: "Number of texts for self-BLEU, the first non-empty ones of a file",
    default: 1000,
    expected: "a whole number",
    parse: |text| text.parse().ok(),
};

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "self-bleu",
    title: "self-BLEU",
    summary: "Similarity of the texts to each other",
    needs: &[Need::TokenIds],
    scores_human: true,
    scores: &[ScoreSpec::as_human("self_bleu")],
    settings: &[&TEXTS],
    new: |values| Ok(Box::new(SelfBleu { texts: values.get(&TEXTS)? })),
};

#[derive(Debug)]
struct SelfBleu {
    texts: usize,
}

impl Metric for SelfBleu {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let texts: Vec<&Vec<u32>> =
            inputs.token_ids()?.iter().filter(|text| !text.is_empty()).take(self.texts).collect();
        // Without the empty texts these are not aligned with other systems': a mean, and no paired test.
        let mean = self_bleu(&texts).map(|values| values.iter().sum::<f64>() / values.len() as f64);
        Ok(vec![Score::of_set("self_bleu", ScoreValue::Number(mean))].into())
    }

    fn settings(&self) -> Vec<(&'static str, Fact)> {
        vec![("self_bleu_texts", self.texts.into())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition with every pair compared.
    fn reference(texts: &[Vec<u32>]) -> Vec<f64> {
        let of = |i: usize| {
            let others = || texts.iter().enumerate().filter(move |(j, _)| *j != i).map(|(_, t)| t);
            let matches: Vec<u64> = (1..=MAX_N)
                .map(|n| {
                    let most = |gram: &[u32]| {
                        others().map(|t| t.windows(n).filter(|w| *w == gram).count()).max().unwrap() as u64
                    };
                    count(&texts[i], n).iter().map(|(gram, times)| most(gram).min(u64::from(*times))).sum()
                })
                .collect();
            let length = texts[i].len();
            let near = others().map(Vec::len).min_by_key(|l| (l.abs_diff(length), *l)).unwrap();
            bleu(&matches.try_into().unwrap(), length, near)
        };
        (0..texts.len()).map(of).collect()
    }

    #[test]
    fn an_empty_text_scores_nothing() {
        assert_eq!(self_bleu(&[vec![], vec![1]]).unwrap(), [0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn equals_the_definition(texts in prop::collection::vec(prop::collection::vec(0u32..4, 0..12), 2..7)) {
            prop_assert_eq!(self_bleu(&texts).unwrap(), reference(&texts));
        }
    }
}
