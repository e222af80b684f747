//! The metrics of the tables: their names, which value is best, and how to find a value among the scores.

use mixce_eval::METRICS;
use mixce_eval::metric::Best;
use serde_json::Value;

use crate::results::Scores;

/// A metric of the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Key of the score; a part of one has a point in it, `distinct_n.2`. `perplexity` is no score.
    pub key: String,
    /// Its name in tables.
    pub title: String,
    /// Which value is best.
    pub best: Best,
    /// Digits after the point.
    pub decimals: usize,
}

impl Metric {
    /// Perplexity on the human texts.
    #[must_use]
    pub fn perplexity() -> Self {
        Self { key: "perplexity".to_owned(), title: "perplexity".to_owned(), best: Best::Lowest, decimals: 2 }
    }

    /// The metric of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let whole = key.split('.').next().unwrap_or(key);
        let mut scores = METRICS.iter().flat_map(|metric| metric.scores);
        let best = scores.find(|score| score.key == whole).map_or(Best::AsHuman, |score| score.best);
        let title = match key {
            "perplexity" => return Self::perplexity(),
            "mauve" => "MAUVE".to_owned(),
            "mauve_star" => "MAUVE*".to_owned(),
            "self_bleu" => "self-BLEU".to_owned(),
            "tokens" => "tokens of a text".to_owned(),
            "words" => "words of a text".to_owned(),
            _ => key.replace(['_', '.'], " "),
        };
        let decimals = if matches!(key, "tokens" | "words" | "repeated_phrase_length") { 1 } else { 3 };
        Self { key: key.to_owned(), title, best, decimals }
    }

    /// The paper's: perplexity, diversity, MAUVE, coherence.
    #[must_use]
    pub fn headline() -> [Self; 4] {
        ["perplexity", "diversity", "mauve", "coherence"].map(Self::of)
    }

    /// The key of its values of single documents; `nll` for perplexity.
    #[must_use]
    pub fn documents_key(&self) -> &str {
        if self.key == "perplexity" { "nll" } else { &self.key }
    }

    /// Whether it is a mean over prompts, which can be tested by resampling prompts. MAUVE compares two sets of texts and is none.
    #[must_use]
    pub fn is_mean_over_prompts(&self) -> bool {
        !["mauve", "mauve_star", "frontier_integral", "controlled_mauve"]
            .contains(&self.key.split('.').next().unwrap_or_default())
    }

    /// Its value among scores.
    #[must_use]
    pub fn value(&self, scores: &Scores) -> Option<f64> {
        let mut parts = self.key.split('.');
        let mut value = scores.0.get(parts.next()?)?;
        for part in parts {
            value = value.get(part)?;
        }
        number(value)
    }

    /// Every other metric that some of the scores have, in the order of `mixce score`.
    #[must_use]
    pub fn further<'a>(all: impl Iterator<Item = &'a Scores> + Clone) -> Vec<Self> {
        let headline = Self::headline();
        let mut keys: Vec<String> = Vec::new();
        for spec in METRICS.iter().flat_map(|metric| metric.scores) {
            for value in all.clone().filter_map(|scores| scores.0.get(spec.key)) {
                let found: Vec<String> = match value {
                    _ if number(value).is_some() => vec![spec.key.to_owned()],
                    Value::Object(parts) => {
                        let parts = parts.iter().filter(|(_, part)| number(part).is_some());
                        parts.map(|(name, _)| format!("{}.{name}", spec.key)).collect()
                    }
                    _ => Vec::new(),
                };
                keys.extend(
                    found.into_iter().filter(|key| !headline.iter().any(|metric| metric.key == *key)),
                );
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        keys.retain(|key| seen.insert(key.clone()));
        keys.iter().map(|key| Self::of(key)).collect()
    }
}

/// A number, or the mean of an object with one.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.get("mean")?.as_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scores_are_found_whole_and_in_parts() {
        let scores: Scores = serde_json::from_value(json!({
            "diversity": 0.5, "mauve": {"mean": 0.75, "std": 0.1, "values": []}, "tokens": {"mean": 80.0, "std": 1.0},
            "distinct_n": {"1": 0.25, "2": null}, "controlled_mauve": {"100": {"mean": 0.5}, "200": null}, "repeated_phrase_length": null, "other": 1.0,
        }))
        .unwrap();
        let further = Metric::further([&scores].into_iter());
        let keys: Vec<&str> = further.iter().map(|metric| metric.key.as_str()).collect();
        assert_eq!(keys, ["tokens", "distinct_n.1", "controlled_mauve.100"]);
        let values: Vec<Option<f64>> = further.iter().map(|metric| metric.value(&scores)).collect();
        assert_eq!(values, [Some(80.0), Some(0.25), Some(0.5)]);
        assert_eq!(Metric::of("mauve").value(&scores), Some(0.75));
        assert_eq!(
            (Metric::of("mauve").best, Metric::of("controlled_mauve.100").best),
            (Best::Highest, Best::Highest)
        );
        assert!(!further[2].is_mean_over_prompts() && further[1].is_mean_over_prompts());
        assert_eq!(Metric::perplexity().documents_key(), "nll");
    }
}
