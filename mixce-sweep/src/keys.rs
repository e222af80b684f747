//! The known keys of a settings file.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};
use crate::settings::READING;

/// Keys that the caller knows.
#[derive(Clone, Copy, Debug)]
pub struct KnownKeys<'a> {
    /// Settings of training.
    pub train: &'a [&'a str],
    /// Settings of the metrics.
    pub score: &'a [&'a str],
}

const ROOT: &[&str] = &[
    "out",
    "metric",
    "objectives",
    "seeds",
    "train_sizes",
    "max_lengths",
    "keep_checkpoints",
    "corpora",
    "models",
    "train",
    "evaluate",
    "controls",
];
const CORPUS: &[&str] = &["train", "valid", "test"];
const MODEL: &[&str] = &["model", "from_config", "tokenizer", "train"];
const EVALUATE: &[&str] = &[
    "prompt_length",
    "samplings",
    "documents",
    "metrics",
    "tokenizer",
    "featurizer",
    "embedder",
    "batch_size",
    "precision",
    "seed",
    "settings",
];
const CONTROLS: &[&str] = &["top_p", "temperature", "samplings"];

/// Names similar by less than this are not suggested.
const SIMILAR: f64 = 0.8;

impl<'a> KnownKeys<'a> {
    /// The keys of the table at `place`; none where names are free.
    fn of(&self, place: &[&str]) -> Option<Vec<&'a str>> {
        Some(match place {
            [] => ROOT.to_vec(),
            ["corpora", _] => CORPUS.iter().chain(&READING).copied().collect(),
            ["models", _] => MODEL.to_vec(),
            ["train"] | ["models", _, "train"] => self.train.to_vec(),
            ["evaluate"] => EVALUATE.to_vec(),
            ["evaluate", "settings"] => self.score.to_vec(),
            ["controls"] => CONTROLS.to_vec(),
            _ => return None,
        })
    }
}

/// Refuses unknown keys.
pub(crate) fn check(text: &str, path: &Path, known: &KnownKeys<'_>) -> Result<()> {
    let table = DeTable::parse(text).map_err(|error| located(&error, text, path))?;
    check_table(table.get_ref(), &[], (text, path), known)
}

fn check_table(
    table: &DeTable<'_>,
    place: &[&str],
    (text, path): (&str, &Path),
    known: &KnownKeys<'_>,
) -> Result<()> {
    let keys = known.of(place);
    for (key, value) in table {
        let name: &str = key.get_ref();
        if let Some(keys) = keys.as_ref().filter(|keys| !keys.contains(&name)) {
            let within =
                if place.is_empty() { String::new() } else { format!(" in `[{}]`", place.join(".")) };
            return Err(Error::File {
                path: path.into(),
                line: line_of(text, key.span().start),
                message: format!("unknown key `{name}`{within}"),
                hint: nearest(name, keys).map(|known| format!("did you mean `{known}`?")),
            });
        }
        if let DeValue::Table(inner) = value.get_ref() {
            let place: Vec<&str> = place.iter().copied().chain([name]).collect();
            check_table(inner, &place, (text, path), known)?;
        }
    }
    Ok(())
}

/// The key most similar to `unknown`: one edit away, else by Jaro and Winkler, to whom a swapped pair of a short word is nothing alike.
fn nearest<'a>(unknown: &str, keys: &[&'a str]) -> Option<&'a str> {
    let plain = unknown.replace('-', "_").to_ascii_lowercase();
    let similar = |known: &str| {
        let is_one_edit = strsim::damerau_levenshtein(&plain, known) <= 1;
        strsim::jaro_winkler(&plain, known) + if is_one_edit { 1.0 } else { 0.0 }
    };
    let best = keys.iter().map(|known| (similar(known), *known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > SIMILAR).then_some(best.1)
}

/// A TOML error as one line with its place.
pub(crate) fn located(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let lines = error.message().lines().map(str::trim).filter(|line| !line.is_empty());
    Error::File {
        path: path.into(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        message: lines.collect::<Vec<_>>().join(" "),
        hint: None,
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|b| *b == b'\n').count() + 1
}
