//! Documents from text files (one a line) and JSON-lines files (one object with `text` a line).
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How the lines of a data file are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One document a line.
    Text,
    /// One JSON object a line, the document under the key `text`.
    JsonLines,
}

impl Format {
    /// `.jsonl`, `.ndjson` and `.json` are [`Format::JsonLines`], everything else is [`Format::Text`].
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("jsonl" | "ndjson" | "json") => Self::JsonLines,
            _ => Self::Text,
        }
    }
}

/// One document and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Line of the file, counted from 1.
    pub line: u64,
    /// The text, without its line end. May be empty: the caller counts and skips those.
    pub text: String,
}

/// Reads the documents of a file one after another, in constant memory.
///
/// Line ends are `\n` or `\r\n`; a byte order mark at the start is dropped. Nothing else is trimmed.
#[derive(Debug)]
pub struct DocumentReader {
    path: PathBuf,
    format: Format,
    lines: BufReader<File>,
    line: u64,
    buffer: Vec<u8>,
}

impl DocumentReader {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        if file.metadata().map_err(Error::io("read", path))?.is_dir() {
            let source = std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a folder, not a file");
            return Err(Error::Io { action: "read", path: path.into(), source });
        }
        let lines = BufReader::with_capacity(1 << 18, file);
        Ok(Self { path: path.into(), format: Format::of(path), lines, line: 0, buffer: Vec::new() })
    }

    fn next_document(&mut self) -> Result<Option<Document>> {
        self.buffer.clear();
        let read = self.lines.read_until(b'\n', &mut self.buffer).map_err(Error::io("read", &self.path))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        let mut bytes = self.buffer.as_slice();
        bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|e| Error::NotUtf8 {
            path: self.path.clone(),
            line: self.line,
            byte: e.valid_up_to() + 1,
        })?;
        let text = if self.line == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        let text = match self.format {
            Format::Text => text.to_owned(),
            Format::JsonLines if text.trim().is_empty() => String::new(),
            Format::JsonLines => self.text_of_row(text)?,
        };
        Ok(Some(Document { line: self.line, text }))
    }

    fn text_of_row(&self, row: &str) -> Result<String> {
        let bad = |problem| Error::BadRow { path: self.path.clone(), line: self.line, problem };
        let value: serde_json::Value =
            serde_json::from_str(row).map_err(|e| bad(format!("not a JSON value ({e})")))?;
        let serde_json::Value::Object(mut object) = value else {
            return Err(bad(format!("expected a JSON object, got {}", kind_of(&value))));
        };
        match object.remove("text") {
            Some(serde_json::Value::String(text)) => Ok(text),
            Some(other) => Err(bad(format!("expected a string under `text`, got {}", kind_of(&other)))),
            None => {
                let keys: Vec<_> = object.keys().take(5).map(|k| format!("`{k}`")).collect();
                Err(bad(format!("no key `text` (it has {})", keys.join(", "))))
            }
        }
    }
}

fn kind_of(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

impl Iterator for DocumentReader {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_document().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<Document>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        DocumentReader::open(&path)?.collect()
    }

    #[test]
    fn text_has_one_document_a_line() {
        let documents = read("a.txt", "\u{feff}one \r\n\n  two\nlast".as_bytes()).unwrap();
        let texts: Vec<_> = documents.iter().map(|d| (d.line, d.text.as_str())).collect();
        assert_eq!(texts, [(1, "one "), (2, ""), (3, "  two"), (4, "last")]);
    }

    #[test]
    fn bad_utf8_names_line_and_byte() {
        let error = read("a.txt", b"fine\nab\xffcd\n").unwrap_err();
        assert!(matches!(error, Error::NotUtf8 { line: 2, byte: 3, .. }), "{error}");
        assert!(error.to_string().contains("a.txt` line 2, byte 3"), "{error}");
    }

    #[test]
    fn json_lines_take_the_text_key() {
        let documents = read("a.jsonl", b"{\"id\":1,\"text\":\"a\\nb\"}\n\n{\"text\":\"\"}\n").unwrap();
        let texts: Vec<_> = documents.iter().map(|d| d.text.as_str()).collect();
        assert_eq!(texts, ["a\nb", "", ""]);
    }

    #[test]
    fn bad_rows_name_the_line() {
        for (row, words) in [
            ("{\"a\":1}", "no key `text` (it has `a`)"),
            ("{\"text\":3}", "got a number"),
            ("[1]", "got an array"),
            ("{oops", "not a JSON value"),
        ] {
            let bytes = format!("{{\"text\":\"fine\"}}\n{row}\n");
            let error = read("a.jsonl", bytes.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = DocumentReader::open(Path::new("/nowhere/x.txt")).unwrap_err().to_string();
        assert!(error.contains("cannot read `/nowhere/x.txt`"), "{error}");
    }
}
