//! What `mixce score` prints.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::Metric;
use super::significance::Resampling;
use super::surface::Scores;
use super::texts::TextSet;
use crate::output::table;

/// The result, as it grows.
pub(super) struct Report {
    settings: Map<String, Value>,
    counts: Vec<(String, usize, usize)>,
    resampling: Resampling,
    human: Option<Value>,
    systems: Vec<Value>,
    comparisons: Vec<Value>,
}

impl Report {
    pub(super) fn new(wanted: &HashSet<Metric>, resampling: Resampling) -> Self {
        let mut metrics: Vec<Metric> = wanted.iter().copied().collect();
        metrics.sort_unstable();
        let mut settings = Map::new();
        settings.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        settings.insert("metrics".to_owned(), metrics.into_iter().map(Metric::name).collect());
        settings.insert("seed".to_owned(), json!(resampling.seed));
        settings.insert("resamples".to_owned(), json!(resampling.resamples));
        settings.insert("confidence".to_owned(), json!(resampling.level));
        Self {
            settings,
            counts: Vec::new(),
            resampling,
            human: None,
            systems: Vec::new(),
            comparisons: Vec::new(),
        }
    }

    /// Notes how something was computed.
    pub(super) fn setting(&mut self, name: &str, value: Value) {
        self.settings.insert(name.to_owned(), value);
    }

    /// Notes how many texts a set has; the human one comes first.
    pub(super) fn count(&mut self, set: &TextSet) {
        let empty = set.empty();
        if empty > 0 {
            tracing::warn!(
                "{}: {empty} of {} texts are empty; they have no metrics",
                set.name,
                set.texts.len()
            );
        }
        self.counts.push((set.name.clone(), set.texts.len(), empty));
    }

    /// Takes the scores and adds intervals and tests.
    pub(super) fn finish(&mut self, human: Option<Scores>, systems: Vec<(String, Scores)>) {
        self.comparisons = self.resampling.comparisons(&systems);
        let counted = |index: usize, name: Option<&str>, scores: &Scores, report: &Self| {
            let mut object = Map::new();
            object.extend(name.map(|name| ("name".to_owned(), json!(name))));
            if let Some((_, texts, empty)) = report.counts.get(index) {
                object.insert("texts".to_owned(), json!(texts));
                object.insert("empty_texts".to_owned(), json!(empty));
            }
            object.extend(scores.values.clone());
            object.insert("confidence".to_owned(), report.resampling.intervals(scores).into());
            Value::Object(object)
        };
        self.human = human.map(|scores| counted(0, None, &scores, self));
        let systems = systems.iter().enumerate();
        self.systems = systems.map(|(i, (name, scores))| counted(i + 1, Some(name), scores, self)).collect();
    }

    /// The one JSON object.
    pub(super) fn json(&self) -> Value {
        json!({
            "human": self.human, "systems": self.systems, "comparisons": self.comparisons, "settings": self.settings,
        })
    }

    /// A row for each metric, a column for each set; then the tests.
    pub(super) fn text(&self) -> String {
        let sets: Vec<&Value> = self.human.iter().chain(&self.systems).collect();
        let mut header = vec![String::new()];
        header.extend(sets.iter().map(|set| set["name"].as_str().unwrap_or("human").to_owned()));
        let mut rows = vec![header];
        let mut keys: Vec<&String> = Vec::new();
        for key in sets.iter().filter_map(|set| set.as_object()).flat_map(Map::keys) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        for key in
            keys.into_iter().filter(|key| !["name", "confidence", "mauve_facts"].contains(&key.as_str()))
        {
            rows.extend(lines(key, &sets));
        }
        let mut text = table(&rows, &[&[false], vec![true; sets.len()].as_slice()].concat());
        if !self.comparisons.is_empty() {
            text += &format!("\n{}", self.tests());
        }
        for system in self.systems.iter().filter(|system| system["mauve_facts"].is_object()) {
            text += &format!(
                "\nmauve of {}  {}",
                system["name"].as_str().unwrap_or_default(),
                system["mauve_facts"]
            );
        }
        text += &format!("\nsettings  {}", Value::Object(self.settings.clone()));
        text
    }

    fn tests(&self) -> String {
        let head = ["paired test", "difference", "interval", "p"].map(str::to_owned);
        let number = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |x| format!("{x:.4}"));
        let mut rows = vec![head.to_vec()];
        for test in &self.comparisons {
            let word = |key: &str| test[key].as_str().unwrap_or_default();
            rows.push(vec![
                format!("{}: {} - {}", word("metric"), word("first"), word("second")),
                number(&test["difference"]),
                format!("[{}, {}]", number(&test["interval"][0]), number(&test["interval"][1])),
                number(&test["p_value"]),
            ]);
        }
        table(&rows, &[false, true, true, true])
    }
}

/// The rows of one key: objects of numbers have a row for each, seeds show mean and deviation, means their interval.
fn lines(key: &str, sets: &[&Value]) -> Vec<Vec<String>> {
    let inner: Vec<&String> = match sets.iter().find_map(|set| set[key].as_object()) {
        Some(object) if !object.contains_key("values") => object.keys().collect(),
        _ => return vec![row(key.to_owned(), sets, |set| cell(&set[key], &set["confidence"][key]))],
    };
    let label = |part: &str| {
        if key == "distinct_n" {
            format!("distinct_{part}")
        } else if key == "rep_n" {
            part.to_owned()
        } else {
            format!("{key}.{part}")
        }
    };
    let label = |part: &str| if part == "product" { "rep_n product".to_owned() } else { label(part) };
    inner
        .into_iter()
        .map(|part| row(label(part), sets, |set| cell(&set[key][part.as_str()], &Value::Null)))
        .collect()
}

fn row(label: String, sets: &[&Value], cell: impl Fn(&Value) -> String) -> Vec<String> {
    std::iter::once(label).chain(sets.iter().map(|set| cell(set))).collect()
}

fn cell(value: &Value, interval: &Value) -> String {
    match (value, value["mean"].as_f64(), value.as_f64()) {
        (_, Some(mean), _) => format!("{mean:.4} sd {:.4}", value["std"].as_f64().unwrap_or(0.0)),
        (Value::Number(number), _, _) if number.is_u64() => number.to_string(),
        (_, _, Some(number)) => match (interval[0].as_f64(), interval[1].as_f64()) {
            (Some(low), Some(high)) => format!("{number:.4} [{low:.4}, {high:.4}]"),
            _ => format!("{number:.4}"),
        },
        _ => "-".to_owned(),
    }
}
