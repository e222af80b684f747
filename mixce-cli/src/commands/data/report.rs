//! Report of `data prepare`: counts and lengths.

use std::path::{Path, PathBuf};

use anyhow::Result;
use mixce_data::prepare::{Collection, Prepared, Source, SplitReport, SplitSource, listed};
use mixce_data::quantiles::{LengthSummary, Lengths};
use mixce_data::{Input, ReadSettings};
use mixce_lm::Tokenizer;
use mixce_train::data::EncodeSettings;
use mixce_train::data::cache::count_tokens;
use serde_json::{Value, json};

use crate::commands::inspect::dataset::length_table;
use crate::context::Context;
use crate::interrupt;
use crate::models::{self, Network};
use crate::output::{grouped, table};

pub(super) fn print(
    prepared: &Prepared,
    source: &Source,
    collection: Collection,
    out: &Path,
    tokenizer: Option<&str>,
    context: &Context,
) -> Result<()> {
    let tokenizer = match tokenizer {
        Some(name) => Some(Tokenizer::from_dir(&models::locate_tokenizer(name, Network::Allowed)?.path)?),
        None => None,
    };
    let splits = [("train", &prepared.train), ("valid", &prepared.valid), ("test", &prepared.test)];
    let mut reports = Vec::new();
    for ((name, split), source) in splits.into_iter().zip(&source.splits) {
        let files = source.as_ref().map(SplitSource::files).unwrap_or_default();
        let documents = split.words.summary().documents;
        let tokens = tokenizer.as_ref().filter(|_| documents > 0);
        let tokens = tokens.map(|tokenizer| token_lengths(&split.path, tokenizer)).transpose()?;
        reports.push((name, split, files, split.words.summary(), tokens));
    }
    let sets: Vec<Value> =
        prepared.train_sets.iter().map(|(size, path)| json!({"documents": size, "path": path})).collect();
    let unused = source.unused.iter().map(|file| json!({"file": file.name, "reason": file.reason}));
    let unused: Vec<Value> = unused.collect();
    let mut report = json!({
        "collection": collection.name(),
        "path": out,
        "detokenized": prepared.detokenized,
        "train_sets": sets,
        "unused": unused,
    });
    for (name, split, files, words, tokens) in &reports {
        report[*name] = split_json(split, files, words, tokens.as_ref());
    }
    context.output.either(&report, || {
        let head = ["file", "documents", "read", "dropped", "from train", "words", "tokens"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (_, split, _, words, tokens) in &reports {
            rows.push(vec![
                split.path.display().to_string(),
                grouped(words.documents),
                grouped(split.read),
                grouped(split.dropped.total()),
                grouped(split.topped_up),
                grouped(words.total),
                tokens.map_or_else(|| "-".to_owned(), |tokens| grouped(tokens.total)),
            ]);
        }
        let mut text = table(&rows, &[false, true, true, true, true, true, true]);
        for (name, _, files, ..) in reports.iter().filter(|(_, _, files, ..)| !files.is_empty()) {
            text += &format!("{name} is read from {}\n", listed(files));
        }
        for (size, path) in &prepared.train_sets {
            text += &format!("{}: its first {}\n", path.display(), grouped(*size));
        }
        text +=
            if prepared.detokenized { "texts were detokenised\n" } else { "texts were not detokenised\n" };
        for (name, _, _, words, tokens) in &reports {
            let mut lengths = vec![("words", *words)];
            lengths.extend(tokens.map(|tokens| ("tokens", tokens)));
            text += &format!("\n{name}\n{}", length_table(&lengths));
        }
        text
    })
}

fn split_json(
    split: &SplitReport,
    files: &[PathBuf],
    words: &LengthSummary,
    tokens: Option<&LengthSummary>,
) -> Value {
    json!({
        "path": split.path,
        "files": files,
        "documents": words.documents,
        "read": split.read,
        "dropped": split.dropped,
        "cut": split.cut,
        "topped_up": split.topped_up,
        "words": words,
        "tokens": tokens,
    })
}

/// Tokens of each document of a prepared file, BOS (where the tokenizer asks for it) and EOS included.
fn token_lengths(path: &Path, tokenizer: &Tokenizer) -> Result<LengthSummary> {
    let input = Input::open(&[path], ReadSettings::default())?;
    let mut lengths = Lengths::default();
    let settings = EncodeSettings::of(tokenizer, None);
    let stop = interrupt::install("counting is cancelled");
    count_tokens(&input, tokenizer, settings, stop, |length| lengths.add(length))?;
    Ok(lengths.summary())
}
