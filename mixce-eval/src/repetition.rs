//! Repetition inside a text: spans repeated consecutively several times.
//!
//! The rule is exactly that of the MixCE authors' code (`repetition` in `metrics.py` with `check_repetition_one` in `utils.py`,
//! bloomberg/MixCE-acl2023 at 7f8f9b2), because published numbers depend on its edge cases:
//!
//! 1. Take the distinct tokens in the order of their first occurrence, and each token's occurrences from left to right.
//!    The stretch from one occurrence up to the next is a *span*; neighbouring spans that are equal form a *run*.
//! 2. When a run ends because the next stretch differs, one more copy counts if the text continues with the span; the next
//!    stretch then begins after that copy. There is no such check at the token's last occurrence, so a run at the end of the text is
//!    one copy shorter than it appears.
//! 3. A run of [`MIN_TIMES`] copies or more is a repetition. Of runs whose spans consist of the same set of tokens (the
//!    rotations of one phrase, found from each of its tokens) the first found is kept, unless a later one begins earlier in the text and
//!    repeats at least as often.
//!
//! The repetition rate of a text is the sum over its repetitions of copies times span length, divided by the text's length.
//! Repetitions may overlap, so the rate may exceed one.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::error::Result;
use crate::metric::{Inputs, Metric, MetricSpec, Need, Score, ScoreSpec, Scores};

/// Minimum number of consecutive copies of a repetition.
pub const MIN_TIMES: usize = 3;

/// The repetitions of one text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repetition {
    /// Tokens in repetitions divided by tokens of the text.
    pub rate: f64,
    /// Tokens of the longest repeated span; `None` if there is none.
    pub longest_span: Option<usize>,
}

/// Equal adjacent spans.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: usize,
    length: usize,
    times: usize,
}

impl Run {
    fn span(self, text: &[u32]) -> Option<&[u32]> {
        text.get(self.start..self.start + self.length)
    }
}

/// The repetitions of a text; `None` for an empty one.
///
/// ```
/// use mixce_eval::repetition::repetition;
/// // "1 2" four times, then something else: the rule does not count the last copy of the last run.
/// let found = repetition(&[1, 2, 1, 2, 1, 2, 1, 2, 9]).unwrap();
/// assert_eq!(found.longest_span, Some(2));
/// assert_eq!(found.rate, 6.0 / 9.0);
/// assert_eq!(repetition(&[1, 2, 3, 1, 2, 4]).unwrap().longest_span, None);
/// ```
#[must_use]
pub fn repetition(text: &[u32]) -> Option<Repetition> {
    if text.is_empty() {
        return None;
    }
    let mut kept: HashMap<Vec<u32>, Run> = HashMap::new();
    for places in places_by_token(text) {
        runs(text, &places, &mut |run| keep(text, run, &mut kept));
    }
    let repeated: usize = kept.values().map(|run| run.times * run.length).sum();
    Some(Repetition {
        rate: repeated as f64 / text.len() as f64,
        longest_span: kept.values().map(|run| run.length).max(),
    })
}

/// Where each token occurs; tokens in the order of their first occurrence, places ascending.
fn places_by_token(text: &[u32]) -> Vec<Vec<usize>> {
    let mut number: HashMap<u32, usize> = HashMap::new();
    let mut places: Vec<Vec<usize>> = Vec::new();
    for (place, token) in text.iter().enumerate() {
        let next = places.len();
        let number = *number.entry(*token).or_insert(next);
        if number == next {
            places.push(Vec::new());
        }
        places[number].push(place);
    }
    places
}

/// Reports every run over the occurrences of one token (steps 1 and 2 of the rule).
fn runs(text: &[u32], places: &[usize], report: &mut impl FnMut(Run)) {
    let mut current: Option<Run> = None;
    let Some((mut previous, later)) = places.split_first().map(|(first, rest)| (*first, rest)) else {
        return;
    };
    for &place in later {
        match &mut current {
            Some(run) if run.span(text) == Some(&text[previous..place]) => run.times += 1,
            _ => {
                if let Some(mut run) = current.take() {
                    if text.get(previous..previous + run.length) == run.span(text) {
                        previous += run.length;
                        run.times += 1;
                    }
                    report(run);
                }
                // A copy after `previous` contains the token only at its start (else the stretch up to `place` would have
                // been equal to the span), so `place` is after the copy.
                current = Some(Run { start: previous, length: place.saturating_sub(previous), times: 1 });
            }
        }
        previous = place;
    }
    current.into_iter().for_each(report);
}

/// Keeps a run if it is a repetition and not dominated by one already kept (step 3 of the rule).
fn keep(text: &[u32], run: Run, kept: &mut HashMap<Vec<u32>, Run>) {
    if run.times < MIN_TIMES {
        return;
    }
    let mut tokens = run.span(text).unwrap_or_default().to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    kept.entry(tokens)
        .and_modify(|old| {
            if run.start < old.start && run.times >= old.times {
                *old = run;
            }
        })
        .or_insert(run);
}

pub(crate) const METRIC: MetricSpec = MetricSpec {
    name: "repetition",
    title: "repetition",
    summary: "Spans repeated three times or more, as in the paper",
    needs: &[Need::TokenIds],
    scores_human: true,
    scores: &[
        ScoreSpec::as_human("repetition_rate"),
        ScoreSpec::as_human("repeated_phrase_length"),
        ScoreSpec::as_human("repeating_texts"),
    ],
    settings: &[],
    new: |_| Ok(Box::new(RepetitionMetric)),
};

#[derive(Debug)]
struct RepetitionMetric;

impl Metric for RepetitionMetric {
    fn score(&self, inputs: &Inputs<'_>) -> Result<Scores> {
        let found: Vec<Option<Repetition>> =
            inputs.token_ids()?.par_iter().map(|text| repetition(text)).collect();
        let of_each =
            |value: fn(Repetition) -> Option<f64>| found.iter().map(|r| r.and_then(value)).collect();
        Ok(vec![
            Score::mean_of("repetition_rate", of_each(|r| Some(r.rate))),
            Score::mean_of("repeated_phrase_length", of_each(|r| r.longest_span.map(|tokens| tokens as f64))),
            Score::mean_of(
                "repeating_texts",
                of_each(|r| Some(f64::from(u8::from(r.longest_span.is_some())))),
            ),
        ]
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges() {
        assert_eq!(repetition(&[]), None);
        assert_eq!(repetition(&[4]), Some(Repetition { rate: 0.0, longest_span: None }));
        // Three copies at the end count as two, in the middle as three.
        assert_eq!(repetition(&[1, 2, 1, 2, 1, 2]).unwrap().rate, 0.0);
        assert_eq!(repetition(&[1, 2, 1, 2, 1, 2, 3, 1]).unwrap().rate, 6.0 / 8.0);
        // Each token of the phrase occurs in it twice.
        assert_eq!(repetition(&[1, 2, 2, 1].repeat(4)).unwrap().rate, 0.0);
        assert_eq!(repetition(&[7; 4]).unwrap(), Repetition { rate: 3.0 / 4.0, longest_span: Some(1) });
    }

    proptest! {
        #[test]
        fn any_text_is_fine_and_names_do_not_matter(text in prop::collection::vec(0u32..4, 1..60)) {
            let found = repetition(&text).unwrap();
            prop_assert!(found.rate >= 0.0 && found.rate.is_finite());
            prop_assert_eq!(found.longest_span.is_some(), found.rate > 0.0);
            let renamed: Vec<u32> = text.iter().map(|t| 50 - 3 * t).collect();
            prop_assert_eq!(repetition(&renamed), Some(found));
        }

        /// If one of its tokens occurs in it once: the rule looks at the stretches from one occurrence of a token to the next.
        #[test]
        fn a_phrase_repeated_is_found(rest in prop::collection::vec(1u32..50, 0..5), once in 0usize..5, times in 4usize..8) {
            let mut phrase = rest;
            phrase.insert(once.min(phrase.len()), 0);
            let text: Vec<u32> = phrase.repeat(times);
            prop_assert!(repetition(&text).unwrap().rate > 0.0);
        }
    }
}
