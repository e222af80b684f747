//! Metrics that need nothing but the words: diversity, repetition, lengths and their kin.

use std::collections::HashSet;

use mixce_eval::distinct::distinct_share;
use mixce_eval::diversity::{distinct_n, pooled_diversity, text_diversity};
use mixce_eval::lengths::Lengths;
use mixce_eval::rep_n::rep_n;
use mixce_eval::repetition::{Repetition, repetition};
use mixce_eval::self_bleu::self_bleu;
use mixce_eval::zipf::zipf_coefficient;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::Metric;
use super::texts::TextSet;

/// A value for each document, where it has one.
pub(super) type PerDocument = Vec<Option<f64>>;

/// What is known of one set of texts: numbers by name, and those that are means over documents also document by document.
#[derive(Debug, Default)]
pub(super) struct Scores {
    /// As they are printed.
    pub(super) values: Map<String, Value>,
    /// By the name of their mean.
    pub(super) documents: Vec<(&'static str, PerDocument)>,
}

impl Scores {
    /// Adds the mean of a metric over the documents that have it.
    pub(super) fn add_mean(&mut self, name: &'static str, documents: PerDocument) {
        let present: Vec<f64> = documents.iter().copied().flatten().collect();
        let mean = (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64);
        self.values.insert(name.to_owned(), json!(mean));
        self.documents.push((name, documents));
    }

    /// The values of a metric, document by document.
    pub(super) fn of_documents(&self, name: &str) -> Option<&PerDocument> {
        self.documents.iter().find(|(known, _)| *known == name).map(|(_, values)| values)
    }
}

/// Adds the metrics of the surface to the scores of a set.
pub(super) fn add(
    scores: &mut Scores,
    set: &TextSet,
    ids: &[Vec<u32>],
    metrics: &HashSet<Metric>,
    self_bleu_texts: usize,
) {
    let wants = |metric: Metric| metrics.contains(&metric);
    if wants(Metric::Diversity) {
        scores.add_mean("diversity", ids.par_iter().map(|text| text_diversity(text)).collect());
    }
    if wants(Metric::Repetition) {
        let found: Vec<Option<Repetition>> = ids.par_iter().map(|text| repetition(text)).collect();
        scores.add_mean("repetition_rate", found.iter().map(|r| r.map(|r| r.rate)).collect());
        let longest = |r: &Option<Repetition>| r.and_then(|r| r.longest_span).map(|tokens| tokens as f64);
        scores.add_mean("repeated_phrase_length", found.iter().map(longest).collect());
        let repeats = |r: &Option<Repetition>| r.map(|r| f64::from(u8::from(r.longest_span.is_some())));
        scores.add_mean("repeating_texts", found.iter().map(repeats).collect());
    }
    if wants(Metric::Length) {
        let tokens: Vec<usize> = ids.iter().map(Vec::len).collect();
        let words: Vec<usize> = set.wholes.iter().map(|text| text.split_whitespace().count()).collect();
        scores.values.insert("tokens".to_owned(), json!(Lengths::of(&tokens)));
        scores.values.insert("words".to_owned(), json!(Lengths::of(&words)));
        scores.documents.push(("tokens", tokens.iter().map(|n| Some(*n as f64)).collect()));
    }
    if wants(Metric::Distinct) {
        let by_n: Map<String, Value> = (1..=4).map(|n| (n.to_string(), json!(distinct_n(ids, n)))).collect();
        scores.values.insert("distinct_n".to_owned(), by_n.into());
        scores.values.insert("pooled_diversity".to_owned(), json!(pooled_diversity(ids)));
        scores.values.insert("distinct_texts".to_owned(), json!(distinct_share(&set.wholes)));
    }
    if wants(Metric::RepN) {
        scores.values.insert("rep_n".to_owned(), json!(rep_n(ids)));
    }
    if wants(Metric::SelfBleu) {
        let texts: Vec<&Vec<u32>> =
            ids.iter().filter(|text| !text.is_empty()).take(self_bleu_texts).collect();
        match self_bleu(&texts) {
            Some(values) => {
                // Without the empty texts these are not aligned with other systems': a mean, and no paired test.
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                scores.values.insert("self_bleu".to_owned(), json!(mean));
            }
            None => drop(scores.values.insert("self_bleu".to_owned(), Value::Null)),
        }
    }
    if wants(Metric::Zipf) {
        scores.values.insert("zipf".to_owned(), json!(zipf_coefficient(ids)));
    }
}
