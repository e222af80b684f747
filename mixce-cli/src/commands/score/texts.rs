//! The texts that are scored: lines, or JSON lines with `prompt` and `continuation` (or `text`).

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use mixce_data::input::Format;
use mixce_gpt2::Tokenizer;
use serde_json::Value;

use crate::error::Problem;
use crate::files;

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// What it was asked to continue, if the file says.
    pub(super) prompt: Option<String>,
    /// The continuation, or all of the text where the file names no prompt.
    pub(super) rest: String,
}

impl Text {
    /// Prompt and continuation.
    pub(super) fn whole(&self) -> String {
        format!("{}{}", self.prompt.as_deref().unwrap_or_default(), self.rest)
    }
}

/// The texts of a file and what to call it.
#[derive(Clone, Debug)]
pub(super) struct TextSet {
    /// Name of the system in tables and JSON.
    pub(super) name: String,
    /// The texts, in the order of the file; empty lines are empty texts.
    pub(super) texts: Vec<Text>,
    /// Prompt and continuation of each.
    pub(super) wholes: Vec<String>,
}

impl TextSet {
    /// Reads a file.
    pub(super) fn read(path: &Path, name: String) -> Result<Self> {
        let json = match Format::of(path) {
            Format::Text => false,
            Format::JsonLines => true,
            other => {
                let problem =
                    format!("`{}`: expected text lines or .jsonl, got {}", path.display(), other.name());
                return Err(Problem::new(problem).into());
            }
        };
        let mut texts = Vec::new();
        for (line, text) in files::lines(path)? {
            texts.push(match json {
                false => Text { prompt: None, rest: text },
                true if text.trim().is_empty() => Text { prompt: None, rest: String::new() },
                true => of_row(&text).map_err(|problem| {
                    Problem::new(format!("`{}` line {line}: {problem}", path.display()))
                        .hint("a row is an object with `text`, or with `prompt` and `continuation` (or `text`), all strings")
                })?,
            });
        }
        let wholes: Vec<String> = texts.iter().map(Text::whole).collect();
        if wholes.iter().all(|whole| whole.trim().is_empty()) {
            return Err(
                Problem::new(format!("`{}` holds no text: all its lines are empty", path.display())).into()
            );
        }
        Ok(Self { name, texts, wholes })
    }

    /// How many texts are empty.
    pub(super) fn empty(&self) -> usize {
        self.wholes.iter().filter(|whole| whole.trim().is_empty()).count()
    }
}

fn of_row(row: &str) -> Result<Text, String> {
    let value: Value = serde_json::from_str(row).map_err(|e| format!("not a JSON value ({e})"))?;
    let Value::Object(object) = value else { return Err("expected a JSON object".to_owned()) };
    let string = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("expected a string under `{key}`")),
    };
    let rest = match string("continuation")? {
        Some(continuation) => Some(continuation),
        None => string("text")?,
    };
    match rest {
        Some(rest) => Ok(Text { prompt: string("prompt")?, rest }),
        None => {
            let keys: Vec<_> = object.keys().take(5).map(|key| format!("`{key}`")).collect();
            Err(format!("no key `text` or `continuation` (it has {})", keys.join(", ")))
        }
    }
}

/// Names for files: their stems, or their paths where two stems are equal.
pub(super) fn names(paths: &[std::path::PathBuf]) -> Vec<String> {
    let stem =
        |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut counts: HashMap<String, usize> = HashMap::new();
    paths.iter().for_each(|path| *counts.entry(stem(path)).or_insert(0) += 1);
    paths
        .iter()
        .map(|path| if counts[&stem(path)] == 1 { stem(path) } else { path.display().to_string() })
        .collect()
}

/// What n-grams are made of.
pub(super) enum Words<'a> {
    /// The tokens of a tokenizer.
    Tokens(&'a Tokenizer),
    /// Whitespace-separated words, numbered as they come.
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
    fn rows_are_read_in_three_shapes() {
        let text = |prompt: Option<&str>, rest: &str| Text {
            prompt: prompt.map(str::to_owned),
            rest: rest.to_owned(),
        };
        assert_eq!(of_row(r#"{"text":"a b"}"#), Ok(text(None, "a b")));
        assert_eq!(of_row(r#"{"prompt":"a","continuation":" b","text":"x"}"#), Ok(text(Some("a"), " b")));
        assert_eq!(of_row(r#"{"prompt":"a","text":" b","seed":3}"#).map(|t| t.whole()), Ok("a b".to_owned()));
        for (row, words) in [
            ("[1]", "a JSON object"),
            ("{", "not a JSON value"),
            (r#"{"prompt":"a"}"#, "no key `text` or `continuation` (it has `prompt`)"),
            (r#"{"prompt":1,"text":"a"}"#, "a string under `prompt`"),
            (r#"{"continuation":["a"]}"#, "a string under `continuation`"),
        ] {
            let told = of_row(row).unwrap_err();
            assert!(told.contains(words), "{row}: {told}");
        }
    }

    #[test]
    fn names_are_stems_unless_they_clash() {
        let paths = ["a/x.txt", "b/x.txt", "b/y.jsonl"].map(std::path::PathBuf::from);
        assert_eq!(names(&paths), ["a/x.txt", "b/x.txt", "y"]);
    }

    #[test]
    fn words_have_one_number_in_all_texts() {
        let mut words = Words::Whitespace(HashMap::new());
        assert_eq!(words.ids(&["a b a".into(), "c  b".into()]).unwrap(), [vec![0, 1, 0], vec![2, 1]]);
        assert_eq!(words.ids(&["b".into()]).unwrap(), [vec![1]]);
    }
}
