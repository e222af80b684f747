//! The results of metrics.

use serde::{Serialize, Serializer};

use crate::lengths::Lengths;
use crate::resample::Interval;

/// The results of one or several metrics for a set of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// The results.
    pub scores: Vec<Score>,
    /// Details beside the results, by key, such as the number of texts with a value or the number of clusters.
    pub details: Vec<(&'static str, Fact)>,
    /// Warnings about the results, one sentence each.
    pub warnings: Vec<String>,
}

impl Scores {
    /// Adds those of another metric.
    pub fn extend(&mut self, other: Self) {
        self.scores.extend(other.scores);
        self.details.extend(other.details);
        self.warnings.extend(other.warnings);
    }
}

impl From<Vec<Score>> for Scores {
    fn from(scores: Vec<Score>) -> Self {
        Self { scores, ..Self::default() }
    }
}

/// A result.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Its key in JSON.
    pub key: &'static str,
    /// The result for the whole set.
    pub value: ScoreValue,
    /// One value per text (`None`: it has none), if the result is a statistic of them; used for intervals and paired tests.
    pub documents: Option<Vec<Option<f64>>>,
    /// Interval of the mean of `documents`; set by [`ScoreTable::new`](super::ScoreTable::new).
    pub interval: Option<Interval>,
}

impl Score {
    /// A result about the whole set.
    #[must_use]
    pub fn of_set(key: &'static str, value: ScoreValue) -> Self {
        Self { key, value, documents: None, interval: None }
    }

    /// The mean over the texts that have a value.
    #[must_use]
    pub fn mean_of(key: &'static str, documents: Vec<Option<f64>>) -> Self {
        let present: Vec<f64> = documents.iter().copied().flatten().collect();
        let mean = (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64);
        Self::of_documents(key, ScoreValue::Number(mean), documents)
    }

    /// Another statistic of one value a text.
    #[must_use]
    pub fn of_documents(key: &'static str, value: ScoreValue, documents: Vec<Option<f64>>) -> Self {
        Self { documents: Some(documents), ..Self::of_set(key, value) }
    }
}

/// The forms of a result. `None`, null in JSON, if there is nothing to compute it from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ScoreValue {
    /// A number.
    Number(Option<f64>),
    /// Statistics of lengths.
    Lengths(Option<Lengths>),
    /// A number that was computed with several seeds.
    Spread(Option<Spread>),
    /// Several results of a kind, by n-gram or length of windows; an object in JSON.
    #[serde(serialize_with = "as_object")]
    Parts(Vec<(String, ScoreValue)>),
}

/// A number that was computed with several seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Mean of the values.
    pub mean: f64,
    /// Their standard deviation, divisor `n - 1`; 0 for a single value.
    pub std: f64,
    /// One for each seed.
    pub values: Vec<f64>,
}

impl Spread {
    /// The spread of at least one value.
    pub(crate) fn of(values: Vec<f64>) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Self { mean, std: (squares / (n - 1.0).max(1.0)).sqrt(), values }
    }
}

/// A setting, or a count or number that describes how a result was computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// Not set, the metric decides; null in JSON.
    Unset,
    /// A whole number.
    Count(u64),
    /// A number.
    Real(f64),
    /// Several whole numbers.
    Counts(Vec<u64>),
    /// Facts that belong together; an object in JSON.
    #[serde(serialize_with = "as_object")]
    Group(Vec<(&'static str, Fact)>),
}

impl From<usize> for Fact {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<f64> for Fact {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

fn as_object<K: Serialize, V: Serialize, S: Serializer>(
    entries: &[(K, V)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(entries.iter().map(|(key, value)| (key, value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_form_has_its_json() {
        let part = |value| {
            ScoreValue::Parts(vec![("2".to_owned(), value), ("3".to_owned(), ScoreValue::Number(None))])
        };
        for (value, expected) in [
            (ScoreValue::Number(Some(0.5)), json!(0.5)),
            (ScoreValue::Lengths(None), json!(null)),
            (
                ScoreValue::Spread(Some(Spread::of(vec![1.0, 3.0]))),
                json!({"mean": 2.0, "std": 2f64.sqrt(), "values": [1.0, 3.0]}),
            ),
            (part(ScoreValue::Number(Some(1.0))), json!({"2": 1.0, "3": null})),
        ] {
            assert_eq!(serde_json::to_value(&value).unwrap(), expected);
        }
        let group = Fact::Group(vec![
            ("k", 3usize.into()),
            ("share", 0.9.into()),
            ("seeds", Fact::Counts(vec![1, 2])),
            ("unset", Fact::Unset),
        ]);
        assert_eq!(
            serde_json::to_value(&group).unwrap(),
            json!({"k": 3, "share": 0.9, "seeds": [1, 2], "unset": null})
        );
    }

    #[test]
    fn means_are_over_the_texts_that_have_a_value() {
        let score = Score::mean_of("k", vec![Some(1.0), None, Some(2.0)]);
        assert_eq!((score.value, score.documents.map(|d| d.len())), (ScoreValue::Number(Some(1.5)), Some(3)));
        assert_eq!(Score::mean_of("k", vec![None]).value, ScoreValue::Number(None));
        assert_eq!(Spread::of(vec![4.0]), Spread { mean: 4.0, std: 0.0, values: vec![4.0] });
    }
}
