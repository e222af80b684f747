//! The scores of all sets side by side, with intervals and paired tests.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{Score, Scores};
use crate::resample::{PairedTest, bootstrap_mean, paired_test};

/// How intervals and tests are computed.
#[derive(Clone, Copy, Debug)]
pub struct Resampling {
    /// Resamples of an interval, sign patterns of a test; 0: neither.
    pub resamples: usize,
    /// Level of the intervals, between 0 and 1.
    pub level: f64,
    /// Seed of both.
    pub seed: u64,
}

/// The scores of one set of texts.
#[derive(Clone, Debug, PartialEq)]
pub struct SetScores {
    /// Name of the set.
    pub name: String,
    /// Number of texts, if texts were scored.
    pub texts: Option<TextCounts>,
    /// Its scores.
    pub scores: Scores,
}

/// How many texts a set has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextCounts {
    /// All of them.
    pub texts: usize,
    /// Empty ones.
    pub empty: usize,
}

/// A paired test between two systems.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// [`Score::key`].
    #[serde(rename = "metric")]
    pub key: &'static str,
    /// Name of the system that is subtracted from.
    pub first: String,
    /// Name of the system that is subtracted.
    pub second: String,
    /// The result.
    #[serde(flatten)]
    pub test: PairedTest,
}

/// The scores of human and generated texts. Serialized, it is the output of `mixce score --json` except its settings: each set is an object
/// with its scores and details by key, and under `confidence` the intervals by the keys of their scores.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreTable {
    /// Of the human texts, unless only features were scored.
    pub human: Option<SetScores>,
    /// Of each system.
    pub systems: Vec<SetScores>,
    /// Every pair of systems with the same number of texts, for every score that is a mean over documents.
    pub comparisons: Vec<Comparison>,
}

impl ScoreTable {
    /// Takes scores and adds intervals and tests.
    #[must_use]
    pub fn new(human: Option<SetScores>, systems: Vec<SetScores>, resampling: &Resampling) -> Self {
        let mut table = Self { comparisons: comparisons(&systems, resampling), human, systems };
        for set in table.human.iter_mut().chain(&mut table.systems) {
            set.scores.scores.iter_mut().for_each(|score| add_interval(score, resampling));
        }
        table
    }

    /// The human texts, then the systems.
    pub fn sets(&self) -> impl Iterator<Item = &SetScores> {
        self.human.iter().chain(&self.systems)
    }
}

fn add_interval(score: &mut Score, resampling: &Resampling) {
    let present: Vec<f64> = score.documents.iter().flatten().copied().flatten().collect();
    score.interval = bootstrap_mean(&present, resampling.resamples, resampling.level, resampling.seed);
}

fn comparisons(systems: &[SetScores], resampling: &Resampling) -> Vec<Comparison> {
    let mut found = Vec::new();
    for (index, first) in systems.iter().enumerate() {
        for second in &systems[index + 1..] {
            for score in &first.scores.scores {
                let other = second.scores.scores.iter().find(|other| other.key == score.key);
                let documents =
                    score.documents.as_ref().zip(other.and_then(|other| other.documents.as_ref()));
                let Some((a, b)) = documents.filter(|(a, b)| a.len() == b.len()) else { continue };
                let test = paired_test(a, b, resampling.resamples, resampling.level, resampling.seed);
                found.extend(test.map(|test| Comparison {
                    key: score.key,
                    first: first.name.clone(),
                    second: second.name.clone(),
                    test,
                }));
            }
        }
    }
    found
}

impl Serialize for ScoreTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("human", &self.human.as_ref().map(|set| SetObject { set, is_named: false }))?;
        let systems: Vec<_> = self.systems.iter().map(|set| SetObject { set, is_named: true }).collect();
        map.serialize_entry("systems", &systems)?;
        map.serialize_entry("comparisons", &self.comparisons)?;
        map.end()
    }
}

/// A set as an object; the human one has no name in it.
struct SetObject<'a> {
    set: &'a SetScores,
    is_named: bool,
}

impl Serialize for SetObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let SetScores { name, texts, scores } = self.set;
        let mut map = serializer.serialize_map(None)?;
        if self.is_named {
            map.serialize_entry("name", name)?;
        }
        if let Some(counts) = texts {
            map.serialize_entry("texts", &counts.texts)?;
            map.serialize_entry("empty_texts", &counts.empty)?;
        }
        for score in &scores.scores {
            map.serialize_entry(score.key, &score.value)?;
        }
        for (key, fact) in &scores.details {
            map.serialize_entry(key, fact)?;
        }
        map.serialize_entry("confidence", &Intervals(&scores.scores))?;
        map.end()
    }
}

/// The intervals of scores by their keys.
struct Intervals<'a>(&'a [Score]);

impl Serialize for Intervals<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let intervals = self.0.iter().filter_map(|score| Some((score.key, score.interval?)));
        serializer.collect_map(intervals)
    }
}
