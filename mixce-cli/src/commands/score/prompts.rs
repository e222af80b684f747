//! Prompts and continuations, for coherence.

use anyhow::Result;
use mixce_eval::windows::words_for_tokens;
use mixce_lm::Tokenizer;
use serde::Serialize;

use super::texts::{Text, TextSet};
use crate::error::Problem;

/// Where the prompt of a text ends if its file does not say so.
pub(super) enum Split<'a> {
    /// After this many tokens.
    Tokens(&'a Tokenizer, usize),
    /// After this many whitespace words.
    Words(usize),
    /// The longest common prefix, in whitespace words, of the human and the model's text, as in the MixCE authors' code.
    CommonPrefix,
}

impl<'a> Split<'a> {
    /// Prompts of this many tokens, or without a tokenizer the corresponding number of words.
    pub(super) fn known(tokenizer: Option<&'a Tokenizer>, prompt_tokens: usize) -> Self {
        match tokenizer {
            Some(tokenizer) => Self::Tokens(tokenizer, prompt_tokens),
            None => Self::Words(words_for_tokens(prompt_tokens)),
        }
    }

    /// Its description in the report.
    pub(super) fn record(&self) -> PromptRecord {
        let (unit, length) = match self {
            Self::Tokens(_, tokens) => ("tokens", PromptLength::Count(*tokens)),
            Self::Words(words) => ("words", PromptLength::Count(*words)),
            Self::CommonPrefix => ("words", PromptLength::Rule("common prefix")),
        };
        PromptRecord { unit, length }
    }

    /// Checks that every system has as many texts as the human side, if the split pairs them.
    pub(super) fn check(&self, sets: &[&TextSet]) -> Result<()> {
        let Some((human, systems)) = sets.split_first().filter(|_| matches!(self, Self::CommonPrefix)) else {
            return Ok(());
        };
        match systems.iter().find(|set| set.texts.len() != human.texts.len()) {
            None => Ok(()),
            Some(other) => {
                let (expected, got) = (human.texts.len(), other.texts.len());
                let problem = format!(
                    "`--compat authors` pairs human and model texts: expected {expected} texts in `{}`, got {got}",
                    other.name
                );
                Err(Problem::new(problem).into())
            }
        }
    }

    /// Prompt and continuation of each text; `partner` holds the texts of the other side.
    ///
    /// `None` if either is empty, except with [`Split::CommonPrefix`], where empty texts are embedded, as the authors do.
    pub(super) fn pairs(&self, set: &TextSet, partner: &TextSet) -> Result<Pairs> {
        let other = |text: usize| partner.wholes.get(text).map_or("", String::as_str);
        let all = set.texts.iter().enumerate().map(|(i, text)| self.pair(text, other(i)));
        let all: Vec<[String; 2]> = all.collect::<Result<_>>()?;
        let is_whole = |pair: &[String; 2]| pair.iter().all(|part| !part.trim().is_empty());
        let present: Vec<bool> =
            all.iter().map(|pair| matches!(self, Self::CommonPrefix) || is_whole(pair)).collect();
        let parts: Vec<[String; 2]> =
            all.into_iter().zip(&present).filter_map(|(pair, present)| present.then_some(pair)).collect();
        if parts.len() < present.len() {
            let (without, texts) = (present.len() - parts.len(), present.len());
            tracing::warn!(
                "{}: {without} of {texts} texts have no prompt or no continuation and are not scored for coherence",
                set.name
            );
        }
        Ok(Pairs { present, parts })
    }

    /// Prompt and continuation of a text; `other` is the text of the same document on the other side.
    fn pair(&self, text: &Text, other: &str) -> Result<[String; 2]> {
        if matches!(self, Self::CommonPrefix) {
            return Ok(split_at_common_prefix(&text.whole(), other));
        }
        if let Some(prompt) = &text.prompt {
            return Ok([prompt.clone(), text.rest.clone()]);
        }
        let end = match self {
            Self::Tokens(tokenizer, tokens) => after_tokens(tokenizer, &text.rest, *tokens)?,
            Self::Words(words) => after_words(&text.rest, *words),
            Self::CommonPrefix => 0,
        };
        let (prompt, continuation) = text.rest.split_at(end);
        Ok([prompt.to_owned(), continuation.to_owned()])
    }
}

/// The texts that have a prompt and a continuation.
pub(super) struct Pairs {
    /// Their indices in the set.
    pub(super) present: Vec<bool>,
    /// Their prompts and continuations.
    pub(super) parts: Vec<[String; 2]>,
}

impl Pairs {
    /// From texts that all have both.
    pub(super) fn all(parts: Vec<[String; 2]>) -> Self {
        Self { present: vec![true; parts.len()], parts }
    }
}

/// The description of a [`Split`] in the report.
#[derive(Debug, Serialize)]
pub(super) struct PromptRecord {
    unit: &'static str,
    length: PromptLength,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum PromptLength {
    Count(usize),
    Rule(&'static str),
}

/// Splits a text after the words of its common prefix with another.
fn split_at_common_prefix(text: &str, other: &str) -> [String; 2] {
    let words: Vec<&str> = text.split_whitespace().collect();
    let shared = words.iter().zip(other.split_whitespace()).take_while(|(a, b)| **a == *b).count();
    let (prompt, continuation) = words.split_at(shared);
    [prompt.join(" "), continuation.join(" ")]
}

/// The byte offset after a text's first tokens. A character split by the boundary belongs to the continuation.
fn after_tokens(tokenizer: &Tokenizer, text: &str, tokens: usize) -> Result<usize> {
    let ids = tokenizer.encode(text)?;
    for count in (0..=tokens.min(ids.len())).rev() {
        let prompt = tokenizer.decode(&ids[..count])?;
        if text.starts_with(&prompt) {
            return Ok(prompt.len());
        }
    }
    Ok(0)
}

/// The byte offset after a text's first words.
fn after_words(text: &str, words: usize) -> usize {
    let ends =
        text.split_whitespace().map(|word| word.as_ptr() as usize - text.as_ptr() as usize + word.len());
    ends.take(words).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(prompt: Option<&str>, rest: &str) -> Text {
        Text { prompt: prompt.map(str::to_owned), rest: rest.to_owned() }
    }

    #[test]
    fn prompts_end_where_the_file_says_or_after_a_length() {
        let pair = |split: &Split<'_>, of: Text, other: &str| split.pair(&of, other).unwrap();
        let words = Split::Words(2);
        assert_eq!(pair(&words, text(Some("a b c"), " d"), ""), ["a b c", " d"]);
        assert_eq!(pair(&words, text(None, " a  b\tc d"), ""), [" a  b", "\tc d"]);
        assert_eq!(pair(&words, text(None, "a"), ""), ["a", ""]);
        assert_eq!(pair(&words, text(None, ""), ""), ["", ""]);
        let shared = Split::CommonPrefix;
        assert_eq!(pair(&shared, text(Some("a b"), " c d"), "a b c x"), ["a b c", "d"]);
        assert_eq!(pair(&shared, text(None, "a b"), "a b"), ["a b", ""]);
        assert_eq!(pair(&shared, text(None, "a b"), "b"), ["", "a b"]);
    }

    #[test]
    fn tokens_do_not_cut_characters() {
        let tokenizer = Tokenizer::train(["plain words"], 257).unwrap();
        let split = Split::known(Some(&tokenizer), 3);
        assert_eq!(split.pair(&text(None, "abcdef"), "").unwrap(), ["abc", "def"]);
        // One token per byte: the third is the first half of the letter.
        assert_eq!(split.pair(&text(None, "abédef"), "").unwrap(), ["ab", "édef"]);
        assert_eq!(split.pair(&text(None, "é"), "").unwrap(), ["é", ""]);
        assert!(matches!(Split::known(None, 50).record().length, PromptLength::Count(37)));
    }
}
