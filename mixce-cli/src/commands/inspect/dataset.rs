//! Describes data files.

use std::path::Path;

use anyhow::Result;
use mixce_data::input::{Decoding, FileReport, STDIN};
use mixce_data::quantiles::{LengthSummary, Lengths};
use mixce_data::{Document, Input};
use mixce_lm::Tokenizer;
use mixce_train::data::EncodeSettings;
use mixce_train::data::cache::count_tokens;
use serde_json::{Value, json};

use super::decoding;
use crate::context::Context;
use crate::interrupt;
use crate::models::{self, Network};
use crate::output::{bytes, grouped, table};
use crate::reading::ReadingArgs;

/// Characters of the sample shown.
const SAMPLE_CHARACTERS: usize = 300;

/// Maximum number of files described individually.
const MAX_DESCRIBED: usize = 10;

/// Results of one pass over the documents.
#[derive(Debug, Default)]
struct Counts {
    empty: u64,
    bad: u64,
    characters: Lengths,
    words: Lengths,
    longest: Option<(Document, u64)>,
    sample: Option<String>,
    reports: Vec<FileReport>,
    decodings: Vec<Decoding>,
}

impl Counts {
    fn of(input: &Input) -> Result<Self> {
        let mut counts = Self::default();
        let mut documents = input.documents();
        for document in documents.by_ref() {
            let document = document?;
            if document.text.trim().is_empty() {
                counts.empty += 1;
                continue;
            }
            let characters = document.text.chars().count() as u64;
            counts.characters.add(characters);
            counts.words.add(document.text.split_whitespace().count() as u64);
            counts.sample.get_or_insert_with(|| document.text.chars().take(SAMPLE_CHARACTERS).collect());
            if counts.longest.as_ref().is_none_or(|(_, longest)| characters > *longest) {
                counts.longest = Some((Document { text: String::new(), ..document }, characters));
            }
        }
        counts.bad = documents.skipped();
        counts.reports = documents.reports();
        counts.decodings = documents.decodings().to_vec();
        Ok(counts)
    }

    /// How each file was interpreted, one line each.
    fn understood(&self) -> String {
        let mut lines = String::new();
        for report in self.reports.iter().take(MAX_DESCRIBED) {
            let FileReport { path, description, rows, bad, empty, blank_lines, .. } = report;
            let blank = if *blank_lines > 0 {
                format!(", {} blank lines", grouped(*blank_lines))
            } else {
                String::new()
            };
            let counts =
                format!("{} rows ({} bad, {} empty){blank}", grouped(*rows), grouped(*bad), grouped(*empty));
            lines += &format!("read as: {description}\n         {counts} of `{}`\n", path.display());
        }
        if self.reports.len() > MAX_DESCRIBED {
            lines += &format!("         {} more files\n", self.reports.len() - MAX_DESCRIBED);
        }
        lines
    }

    fn longest(&self) -> Value {
        self.longest.as_ref().map_or(Value::Null, |(document, characters)| {
            json!({"file": &*document.path, "line": document.place.number(), "characters": characters})
        })
    }
}

pub(super) fn inspect(
    path: &Path,
    tokenizer: Option<&str>,
    reading: &ReadingArgs,
    context: &Context,
) -> Result<()> {
    let input = reading.open(&[path])?;
    let counts = Counts::of(&input)?;
    let tokens = tokenizer.map(|tokenizer| token_lengths(&input, tokenizer)).transpose()?;
    let formats = decoding::formats(&counts.decodings);
    let size = if path == Path::new(STDIN) { None } else { Some(input.bytes()?) };
    let (characters, words) = (counts.characters.summary(), counts.words.summary());
    let report = json!({
        "kind": "dataset",
        "path": path,
        "files": input.paths().collect::<Vec<_>>(),
        "unused": input.unused(),
        "format": formats.join(","),
        "decoding": counts.decodings,
        "bytes": size,
        "documents": characters.documents,
        "rows": counts.reports.iter().map(|report| report.rows).sum::<u64>(),
        "empty": counts.empty,
        "bad": counts.bad,
        "read": counts.reports,
        "characters": characters.total,
        "words": words.total,
        "longest": counts.longest(),
        "lengths": {"words": words, "characters": characters, "tokens": tokens},
        "sample": counts.sample,
        "tokens": tokens.map(|tokens| tokens.total),
    });
    context.output.either(&report, || {
        let row = |name: &str, value: u64| vec![name.to_owned(), grouped(value)];
        let mut rows = vec![
            row("documents", characters.documents),
            row("empty", counts.empty),
            row("words", words.total),
            row("characters", characters.total),
        ];
        if counts.bad > 0 {
            rows.push(row("bad rows", counts.bad));
        }
        rows.extend(tokens.map(|tokens| row("tokens", tokens.total)));
        let size = size.map_or_else(String::new, |size| format!(", {}", bytes(size)));
        let files = input.paths().count();
        let files = if files == 1 { String::new() } else { format!(", {files} files") };
        let mut text = format!("{} file{files}{size}\n{}", formats.join(", "), counts.understood());
        text += &table(&rows, &[false, true]);
        let mut lengths = vec![("words", words), ("characters", characters)];
        lengths.extend(tokens.map(|tokens| ("tokens", tokens)));
        text += &length_table(&lengths);
        text += &decoding::text(&counts.decodings, input.unused());
        if let Some((document, characters)) = &counts.longest {
            let (path, place) = (document.path.display(), document.place);
            text += &format!("longest: `{path}` {place}, {} characters\n", grouped(*characters));
        }
        if let Some(sample) = &counts.sample {
            text += &format!("first: {}", sample.replace(char::is_control, " "));
        }
        text
    })
}

/// Tokens of each document, BOS (where the tokenizer asks for it) and EOS included.
fn token_lengths(input: &Input, tokenizer: &str) -> Result<LengthSummary> {
    let tokenizer = Tokenizer::from_dir(&models::locate_tokenizer(tokenizer, Network::Allowed)?.path)?;
    let settings = EncodeSettings::of(&tokenizer, None);
    let mut lengths = Lengths::default();
    let stop = interrupt::install("counting is cancelled");
    count_tokens(input, &tokenizer, settings, stop, |length| lengths.add(length))?;
    Ok(lengths.summary())
}

/// Length quantiles, one row each.
pub(crate) fn length_table(lengths: &[(&str, LengthSummary)]) -> String {
    let head = ["length in", "min", "5%", "25%", "50%", "75%", "95%", "max", "mean"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (unit, s) in lengths {
        let mut row = vec![(*unit).to_owned()];
        row.extend([s.min, s.p5, s.p25, s.median, s.p75, s.p95, s.max].map(grouped));
        row.push(format!("{:.1}", s.mean));
        rows.push(row);
    }
    table(&rows, &[false, true, true, true, true, true, true, true, true])
}
