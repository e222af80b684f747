//! Files of samples and of human texts.

use std::path::Path;

use serde::Deserialize;

use super::read::read_lines;
use crate::error::Result;

/// A prompt and its continuation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Number of the document or prompt; texts with the same number belong together.
    pub index: u64,
    /// The prompt.
    pub prompt: String,
    /// The continuation.
    pub text: String,
}

/// The texts of a file.
pub type Texts = Vec<Text>;

#[derive(Deserialize)]
struct Line {
    index: Option<u64>,
    #[serde(default)]
    prompt: String,
    #[serde(alias = "continuation")]
    text: String,
}

/// Reads JSON lines with `text` (or `continuation`), and perhaps `prompt` and `index`; `None` if there is no such file. Without `index` it is
/// the number of the row.
///
/// # Errors
/// When it cannot be read or a line has another form.
pub(crate) fn read_texts(path: &Path) -> Result<Option<Texts>> {
    let Some(lines) = read_lines::<Line>(path, false)? else { return Ok(None) };
    let texts = lines.into_iter().enumerate().map(|(row, line)| Text {
        index: line.index.unwrap_or(row as u64),
        prompt: line.prompt,
        text: line.text,
    });
    Ok(Some(texts.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_a_number_and_both_spellings_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.jsonl");
        std::fs::write(
            &path,
            "{\"index\":7,\"prompt\":\"a\",\"text\":\"b\",\"tokens\":[1]}\n{\"continuation\":\"c\"}\n",
        )
        .unwrap();
        let text = |index, prompt: &str, text: &str| Text { index, prompt: prompt.into(), text: text.into() };
        assert_eq!(read_texts(&path).unwrap(), Some(vec![text(7, "a", "b"), text(1, "", "c")]));
        std::fs::write(&path, "{\"prompt\":\"a\"}\n").unwrap();
        let error = read_texts(&path).unwrap_err().to_string();
        assert!(error.contains("line 1: missing field `text`"), "{error}");
    }
}
