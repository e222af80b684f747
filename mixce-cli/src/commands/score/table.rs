//! The output of `mixce score`.

use anyhow::{Context as _, Result};
use mixce_eval::metric::{Comparison, Fact, Score, ScoreTable, ScoreValue, SetScores};
use mixce_eval::resample::Interval;
use serde::Serialize;
use serde_json::{Value, json};

use super::settings::Settings;
use crate::output;

/// The one JSON object, keys in alphabetical order.
pub(super) fn json(table: &ScoreTable, settings: &Settings) -> Result<Value> {
    #[derive(Serialize)]
    struct Printed<'a> {
        #[serde(flatten)]
        table: &'a ScoreTable,
        settings: &'a Settings,
    }
    serde_json::to_value(Printed { table, settings }).context("cannot serialize the scores as JSON")
}

/// The values of the texts, for scores that are means over them: `human` and `systems`, each an array for each score.
pub(super) fn per_text(table: &ScoreTable) -> Value {
    let of = |set: &SetScores| -> serde_json::Map<String, Value> {
        let scores = set.scores.scores.iter();
        scores.filter_map(|score| Some((score.key.to_owned(), json!(score.documents.as_ref()?)))).collect()
    };
    let systems = table.systems.iter().map(|set| {
        let mut values = of(set);
        values.insert("name".to_owned(), json!(set.name));
        values
    });
    json!({"human": table.human.as_ref().map(of), "systems": systems.collect::<Vec<_>>()})
}

/// One row per result, named as in the JSON, and one column per set; then details, tests and settings.
pub(super) fn text(table: &ScoreTable, settings: &Settings) -> String {
    let sets: Vec<&SetScores> = table.sets().collect();
    let results = rows_of(&sets, |set| set.scores.scores.iter().flat_map(result_cells).collect());
    let details = rows_of(&sets, detail_cells);
    let mut parts = vec![columns(&sets, "", results), columns(&sets, "details", details)];
    if !table.comparisons.is_empty() {
        parts.push(tests(&table.comparisons));
    }
    let settings = serde_json::to_string(settings).unwrap_or_else(|error| error.to_string());
    parts.push(format!("settings  {settings}"));
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

/// A row's name and one set's cell.
type Cell = (String, String);

/// Rows by name, in order of first appearance; `-` if a set has no such row.
fn rows_of(sets: &[&SetScores], cells: impl Fn(&SetScores) -> Vec<Cell>) -> Vec<Vec<String>> {
    let by_set: Vec<Vec<Cell>> = sets.iter().map(|set| cells(set)).collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in by_set.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let row = |name: &String| {
        let of_set =
            |cells: &Vec<Cell>| cells.iter().find(|(known, _)| known == name).map(|(_, cell)| cell.clone());
        let cells = by_set.iter().map(|cells| of_set(cells).unwrap_or_else(|| "-".to_owned()));
        std::iter::once(name.clone()).chain(cells).collect()
    };
    names.into_iter().map(row).collect()
}

/// A table of these rows with a header, or nothing if there are no rows.
fn columns(sets: &[&SetScores], corner: &str, rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = std::iter::once(corner.to_owned()).chain(sets.iter().map(|set| set.name.clone())).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    output::table(&rows, &[&[false], vec![true; sets.len()].as_slice()].concat())
}

/// Means with their interval, seeds with mean and standard deviation, and one row for each of several parts.
fn result_cells(score: &Score) -> Vec<Cell> {
    value_cells(score.key, &score.value, score.interval)
}

fn value_cells(name: &str, value: &ScoreValue, interval: Option<Interval>) -> Vec<Cell> {
    let one = |cell: Option<String>| vec![(name.to_owned(), cell.unwrap_or_else(|| "-".to_owned()))];
    match value {
        ScoreValue::Number(number) => one(number.map(|number| match interval {
            Some(Interval { low, high }) => format!("{number:.4} [{low:.4}, {high:.4}]"),
            None => format!("{number:.4}"),
        })),
        ScoreValue::Spread(spread) => one(spread.as_ref().map(|s| format!("{:.4} sd {:.4}", s.mean, s.std))),
        ScoreValue::Lengths(None) => one(None),
        ScoreValue::Lengths(Some(lengths)) => vec![
            (format!("{name}.mean"), format!("{:.4}", lengths.mean)),
            (format!("{name}.std"), format!("{:.4}", lengths.std)),
            (format!("{name}.min"), lengths.min.to_string()),
            (format!("{name}.median"), format!("{:.4}", lengths.median)),
            (format!("{name}.max"), lengths.max.to_string()),
        ],
        ScoreValue::Parts(parts) => parts
            .iter()
            .flat_map(|(part, value)| value_cells(&format!("{name}.{part}"), value, None))
            .collect(),
    }
}

/// Text counts, and details that metrics report beside their results.
fn detail_cells(set: &SetScores) -> Vec<Cell> {
    let counts = set.texts.iter().flat_map(|counts| {
        [("texts", counts.texts), ("empty_texts", counts.empty)]
            .map(|(name, n)| (name.to_owned(), n.to_string()))
    });
    counts.chain(set.scores.details.iter().flat_map(|(key, fact)| fact_cells(key, fact))).collect()
}

fn fact_cells(name: &str, fact: &Fact) -> Vec<Cell> {
    let one = |cell: String| vec![(name.to_owned(), cell)];
    match fact {
        Fact::Unset => one("-".to_owned()),
        Fact::Count(count) => one(count.to_string()),
        Fact::Real(number) => one(format!("{number:.4}")),
        Fact::Counts(counts) => one(counts.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")),
        Fact::Group(facts) => {
            facts.iter().flat_map(|(part, fact)| fact_cells(&format!("{name}.{part}"), fact)).collect()
        }
    }
}

fn tests(comparisons: &[Comparison]) -> String {
    let mut rows = vec![["paired test", "difference", "interval", "p"].map(str::to_owned).to_vec()];
    rows.extend(comparisons.iter().map(|Comparison { key, first, second, test }| {
        vec![
            format!("{key}: {first} - {second}"),
            format!("{:.4}", test.difference),
            format!("[{:.4}, {:.4}]", test.interval.low, test.interval.high),
            format!("{:.4}", test.p_value),
        ]
    }));
    output::table(&rows, &[false, true, true, true])
}
