//! Which format a file has.
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::compression::Compression;

/// How a data file is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One document per line, or documents with a separator between them.
    Text,
    /// JSON objects: one per line, spanning several lines, or in an array.
    #[serde(rename = "jsonl", alias = "json")]
    JsonLines,
    /// Comma separated values; the first record names the columns.
    Csv,
    /// The same with tabs.
    Tsv,
    /// Apache parquet.
    Parquet,
}

impl Format {
    /// By the file's ending, that of a compression (`.gz`, ...) taken off: `.jsonl`, `.jsonlines`, `.ndjson`, `.json`; `.csv`; `.tsv`; `.parquet`; all else is text.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let (_, plain) = Compression::of_name(&name);
        match plain.rsplit_once('.').map(|(_, ending)| ending) {
            Some("jsonl" | "jsonlines" | "ndjson" | "json") => Self::JsonLines,
            Some("csv") => Self::Csv,
            Some("tsv") => Self::Tsv,
            Some("parquet") => Self::Parquet,
            _ => Self::Text,
        }
    }

    /// By the first bytes of a file without a name (standard input): parquet's magic, the beginning of a JSON object or of an array of
    /// objects; else text.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        // What decodes to UTF-8 has no mark any more by now.
        let text = bytes.trim_ascii_start();
        let is_json = match text.split_first() {
            Some((b'{', rest)) => rest.trim_ascii_start().starts_with(b"\""),
            Some((b'[', rest)) => rest.trim_ascii_start().starts_with(b"{"),
            _ => false,
        };
        if bytes.starts_with(b"PAR1") {
            Self::Parquet
        } else if is_json {
            Self::JsonLines
        } else {
            Self::Text
        }
    }

    /// The word for it on the command line and in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_decide_and_compression_does_not_hide_them() {
        for (name, format) in [
            ("a.txt", Format::Text),
            ("a", Format::Text),
            ("a.gz", Format::Text),
            ("train.wp_source", Format::Text),
            ("a.JSONL", Format::JsonLines),
            ("a.json.gz", Format::JsonLines),
            ("a.jsonlines", Format::JsonLines),
            ("a.ndjson.zst", Format::JsonLines),
            ("a.csv.zst", Format::Csv),
            ("a.tsv", Format::Tsv),
            ("x/train-00000-of-00002.parquet", Format::Parquet),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn nameless_bytes_are_recognised() {
        assert_eq!(Format::of_bytes(b"PAR1\x15"), Format::Parquet);
        assert_eq!(Format::of_bytes(b" {\"text\":1}"), Format::JsonLines);
        assert_eq!(Format::of_bytes(b"{\n  \"text\": 1}"), Format::JsonLines);
        assert_eq!(Format::of_bytes(b"[\n {\"text\":1}]"), Format::JsonLines);
        assert_eq!(Format::of_bytes(b"{curly} talk"), Format::Text);
        assert_eq!(Format::of_bytes(b"[brackets]"), Format::Text);
        assert_eq!(Format::of_bytes(b""), Format::Text);
    }
}
