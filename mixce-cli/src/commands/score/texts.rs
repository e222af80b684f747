//! Reads the texts to score: documents of any format, or JSON lines with `prompt` and `continuation` (or `text`).

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use mixce_data::{Document, Input, ReadSettings};
use mixce_lm::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::reading::ReadingArgs;

/// One text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Text {
    /// The prompt, if the file has one.
    pub(super) prompt: Option<String>,
    /// The continuation, or the whole text if the file has no prompt.
    pub(super) rest: String,
}

impl Text {
    fn of(document: Document) -> Self {
        let Document { text: mut prompt, prompt_bytes, .. } = document;
        match prompt_bytes {
            None => Self { prompt: None, rest: prompt },
            Some(bytes) => {
                let rest = prompt.split_off(bytes);
                Self { prompt: Some(prompt), rest }
            }
        }
    }

    /// Prompt and continuation.
    pub(super) fn whole(&self) -> String {
        format!("{}{}", self.prompt.as_deref().unwrap_or_default(), self.rest)
    }
}

/// The texts of a file and its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TextSet {
    /// Name of the system in tables and JSON.
    pub(super) name: String,
    /// The texts, in the order of the file; empty lines of plain text are empty texts.
    pub(super) texts: Vec<Text>,
    /// Prompt and continuation of each.
    pub(super) wholes: Vec<String>,
}

impl TextSet {
    /// Reads a file, or those that match a pattern.
    pub(super) fn read(path: &Path, name: String, reading: &ReadingArgs) -> Result<Self> {
        let settings = reading.over(ReadSettings { whole_samples: true, ..ReadSettings::default() });
        let shown = path.display();
        let input = Input::open(&[path], settings)?;
        let texts = input.documents().map(|document| Ok(Text::of(document?))).collect::<Result<Vec<_>>>()?;
        let wholes: Vec<String> = texts.iter().map(Text::whole).collect();
        if texts.is_empty() {
            return Err(Problem::new(format!("`{shown}` is empty")).into());
        }
        if wholes.iter().all(|whole| whole.trim().is_empty()) {
            return Err(
                Problem::new(format!("`{shown}` contains no text: all its documents are empty")).into()
            );
        }
        Ok(Self { name, texts, wholes })
    }

    /// How many texts are empty.
    pub(super) fn empty(&self) -> usize {
        self.wholes.iter().filter(|whole| whole.trim().is_empty()).count()
    }
}

/// Names for files: their stems, or their paths if two stems are equal or a pattern matches several files.
pub(super) fn names(paths: &[std::path::PathBuf]) -> Vec<String> {
    let stem = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let plain =
            [".gz", ".zst", ".zstd"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        match Path::new(plain).file_stem() {
            Some(stem) if !name.contains(['*', '?', '[']) => stem.to_string_lossy().into_owned(),
            _ => path.display().to_string(),
        }
    };
    let mut counts: HashMap<String, usize> = HashMap::new();
    paths.iter().for_each(|path| *counts.entry(stem(path)).or_insert(0) += 1);
    paths
        .iter()
        .map(|path| if counts[&stem(path)] == 1 { stem(path) } else { path.display().to_string() })
        .collect()
}

/// The unit of n-grams.
pub(super) enum Words<'a> {
    /// The tokens of a tokenizer.
    Tokens(&'a Tokenizer),
    /// Whitespace-separated words, numbered in order of appearance.
    Whitespace(HashMap<String, u32>),
}

impl Words<'_> {
    /// The ids of texts.
    pub(super) fn ids(&mut self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        match self {
            Self::Tokens(tokenizer) => Ok(tokenizer.encode_batch(texts)?),
            Self::Whitespace(numbers) => Ok(texts.iter().map(|text| number_words(numbers, text)).collect()),
        }
    }

    /// The name of the unit.
    pub(super) fn unit(&self) -> &'static str {
        match self {
            Self::Tokens(_) => "tokens",
            Self::Whitespace(_) => "words",
        }
    }
}

fn number_words(numbers: &mut HashMap<String, u32>, text: &str) -> Vec<u32> {
    let mut number = |word: &str| match numbers.get(word) {
        Some(number) => *number,
        None => {
            let next = numbers.len() as u32;
            numbers.insert(word.to_owned(), next);
            next
        }
    };
    text.split_whitespace().map(&mut number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_with_a_prompt_is_taken_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.jsonl");
        let rows = "{\"prompt\":\"é a\",\"text\":\" b\"}\n{\"text\":\"c\"}\n{\"prompt\":\"\",\"continuation\":\"d\"}\n";
        std::fs::write(&path, rows).unwrap();
        let set = TextSet::read(&path, "s".to_owned(), &ReadingArgs::default()).unwrap();
        let text = |prompt: Option<&str>, rest: &str| Text {
            prompt: prompt.map(str::to_owned),
            rest: rest.to_owned(),
        };
        assert_eq!(set.texts, [text(Some("é a"), " b"), text(None, "c"), text(Some(""), "d")]);
        assert_eq!(set.wholes, ["é a b", "c", "d"]);
    }

    #[test]
    fn names_are_stems_unless_they_clash() {
        let paths = ["a/x.txt", "b/x.txt", "b/y.jsonl.gz", "c/*.txt"].map(std::path::PathBuf::from);
        assert_eq!(names(&paths), ["a/x.txt", "b/x.txt", "y", "c/*.txt"]);
    }

    #[test]
    fn words_have_one_number_in_all_texts() {
        let mut words = Words::Whitespace(HashMap::new());
        assert_eq!(words.ids(&["a b a".into(), "c  b".into()]).unwrap(), [vec![0, 1, 0], vec![2, 1]]);
        assert_eq!(words.ids(&["b".into()]).unwrap(), [vec![1]]);
    }
}
