//! Reads the continuations of a system: JSON lines with `prompt`, and `continuation` or `text`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Error;

/// The longest prompt or continuation; a longer one is no text that a person would judge.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Characters of a prompt in an error message.
const QUOTED_CHARS: usize = 80;

/// The continuations in one file, by prompt.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) path: PathBuf,
    /// Prompts in the order of the file.
    pub(crate) prompts: Vec<String>,
    by_prompt: HashMap<String, Row>,
}

#[derive(Debug)]
struct Row {
    line: usize,
    continuation: String,
}

impl Rows {
    /// Reads a file; blank lines are skipped.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let mut rows = Self { path: path.into(), prompts: Vec::new(), by_prompt: HashMap::new() };
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let number = index + 1;
            let (prompt, continuation) =
                parse(line).map_err(|problem| Error::Line { path: path.into(), line: number, problem })?;
            rows.add(number, prompt, continuation)?;
        }
        Ok(rows)
    }

    fn add(&mut self, line: usize, prompt: String, continuation: String) -> Result<(), Error> {
        if let Some(earlier) = self.by_prompt.get(&prompt) {
            let (path, earlier) = (self.path.clone(), earlier.line);
            return Err(Error::DoublePrompt { path, prompt: quoted(&prompt), line, earlier });
        }
        self.prompts.push(prompt.clone());
        self.by_prompt.insert(prompt, Row { line, continuation });
        Ok(())
    }

    /// The continuation of a prompt.
    pub(crate) fn get(&self, prompt: &str) -> Option<&str> {
        self.by_prompt.get(prompt).map(|row| row.continuation.as_str())
    }

    /// Refuses a file that lacks a prompt of `other`.
    pub(crate) fn must_cover(&self, other: &Self) -> Result<(), Error> {
        let mut missing = other.prompts.iter().filter(|prompt| self.get(prompt).is_none());
        let Some(first) = missing.next() else { return Ok(()) };
        Err(Error::MissingPrompt {
            path: self.path.clone(),
            prompt: quoted(first),
            of: other.path.clone(),
            missing: 1 + missing.count(),
        })
    }
}

fn parse(line: &str) -> Result<(String, String), String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    let Value::Object(mut row) = value else { return Err("expected a JSON object".into()) };
    let mut take = |key: &str| match row.remove(key) {
        Some(Value::String(text)) if text.len() > MAX_TEXT_BYTES => {
            Err(format!("`{key}` has {} bytes, expected at most {MAX_TEXT_BYTES}", text.len()))
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("`{key}` is `{}`, expected a string", quoted(&other.to_string()))),
        None => Ok(None),
    };
    let prompt = take("prompt")?.ok_or("expected a key `prompt`")?;
    let continuation = match take("continuation")? {
        Some(text) => Some(text),
        None => take("text")?,
    };
    Ok((prompt, continuation.ok_or("expected a key `continuation` or `text`")?))
}

/// The beginning of a text on one line.
fn quoted(text: &str) -> String {
    let line = text.replace(char::is_control, " ");
    match line.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Rows, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, text).unwrap();
        Rows::read(&path)
    }

    #[test]
    fn rows_of_both_forms_are_read() {
        let rows = read("\u{feff}{\"index\":0,\"prompt\":\"p\",\"text\":\" x\",\"tokens\":[1]}\n\n{\"prompt\":\"q\",\"continuation\":\"y\",\"text\":\"q y\"}\r\n")
            .unwrap();
        assert_eq!(rows.prompts, ["p", "q"]);
        assert_eq!((rows.get("p"), rows.get("q"), rows.get("r")), (Some(" x"), Some("y"), None));
    }

    #[test]
    fn bad_rows_are_named() {
        for (text, message) in [
            ("{\"prompt\":\"p\",\"text\":\"x\"}\n{", "line 2: not JSON"),
            ("[]", "line 1: expected a JSON object"),
            ("{\"text\":\"x\"}", "expected a key `prompt`"),
            ("{\"prompt\":\"p\"}", "expected a key `continuation` or `text`"),
            ("{\"prompt\":\"p\",\"text\":null}", "`text` is `null`, expected a string"),
            (
                "{\"prompt\":\"p\\nq\",\"text\":\"x\"}\n{\"prompt\":\"p\\nq\",\"text\":\"y\"}",
                "line 2: the prompt `p q` is already in line 1",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let long = format!("{{\"prompt\":\"p\",\"text\":\"{}\"}}", "x".repeat(MAX_TEXT_BYTES + 1));
        assert!(read(&long).unwrap_err().to_string().contains("`text` has 1048577 bytes"));
    }

    #[test]
    fn a_missing_prompt_is_named_with_both_files() {
        let all = read("{\"prompt\":\"p\",\"text\":\"x\"}\n{\"prompt\":\"q\",\"text\":\"x\"}\n{\"prompt\":\"r\",\"text\":\"x\"}").unwrap();
        let one = read("{\"prompt\":\"p\",\"text\":\"x\"}").unwrap();
        all.must_cover(&one).unwrap();
        let error = one.must_cover(&all).unwrap_err().to_string();
        assert!(
            error.contains("has no row for the prompt `q`") && error.contains("missing prompts: 2"),
            "{error}"
        );
    }
}
