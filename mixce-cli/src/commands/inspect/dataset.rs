//! A data file.

use std::path::Path;

use anyhow::Result;
use mixce_gpt2::Tokenizer;
use mixce_train::data::EncodeSettings;
use mixce_train::data::cache::encode_file;
use mixce_train::data::read::{DocumentReader, Format};
use serde_json::json;

use crate::context::Context;
use crate::models::{self, Network};
use crate::output::{grouped, table};

#[derive(Debug, Default)]
struct Counts {
    documents: u64,
    empty: u64,
    characters: u64,
    words: u64,
    longest_characters: u64,
    longest_line: u64,
}

pub(super) fn inspect(path: &Path, tokenizer: Option<&str>, context: &Context) -> Result<()> {
    let format = match Format::of(path) {
        Format::Text => "text",
        Format::JsonLines => "jsonl",
    };
    let mut counts = Counts::default();
    for document in DocumentReader::open(path)? {
        let document = document?;
        if document.text.trim().is_empty() {
            counts.empty += 1;
            continue;
        }
        let characters = document.text.chars().count() as u64;
        counts.documents += 1;
        counts.characters += characters;
        counts.words += document.text.split_whitespace().count() as u64;
        if characters > counts.longest_characters {
            (counts.longest_characters, counts.longest_line) = (characters, document.line);
        }
    }
    let tokens = match tokenizer {
        Some(tokenizer) => {
            let tokenizer = Tokenizer::from_dir(&models::locate(tokenizer, Network::Allowed)?.path)?;
            let settings = EncodeSettings { max_length: None, add_bos: false };
            Some(encode_file(path, &tokenizer, settings)?.counts().tokens)
        }
        None => None,
    };
    let report = json!({
        "kind": "dataset",
        "path": path,
        "format": format,
        "documents": counts.documents,
        "empty": counts.empty,
        "characters": counts.characters,
        "words": counts.words,
        "longest": {"line": counts.longest_line, "characters": counts.longest_characters},
        "tokens": tokens,
    });
    context.output.either(&report, || {
        let row = |name: &str, value: u64| vec![name.to_owned(), grouped(value)];
        let mut rows = vec![
            row("documents", counts.documents),
            row("empty lines", counts.empty),
            row("words", counts.words),
            row("characters", counts.characters),
        ];
        rows.extend(tokens.map(|tokens| row("tokens", tokens)));
        let table = table(&rows, &[false, true]);
        format!(
            "{format} file\n{table}longest: line {}, {} characters",
            counts.longest_line,
            grouped(counts.longest_characters)
        )
    })
}
