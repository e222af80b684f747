//! Coherence: how close a continuation is to its prompt, in the eyes of a sentence encoder.

use anyhow::Result;
use mixce_eval::windows::words_for_tokens;
use mixce_lm::Tokenizer;
use serde_json::{Value, json};

use super::embed::Embedder;
use super::surface::Scores;
use super::texts::{Text, TextSet};
use crate::error::Problem;

/// Where the prompt of a text ends when its file does not say so.
pub(super) enum Split<'a> {
    /// After so many tokens.
    Tokens(&'a Tokenizer, usize),
    /// After so many whitespace words.
    Words(usize),
    /// The longest common prefix, in whitespace words, of the human and the model's text, as in the MixCE authors' code.
    CommonPrefix,
}

impl<'a> Split<'a> {
    /// Prompts of this many tokens; without a tokenizer of as many words as stand for them.
    pub(super) fn known(tokenizer: Option<&'a Tokenizer>, prompt_tokens: usize) -> Self {
        match tokenizer {
            Some(tokenizer) => Self::Tokens(tokenizer, prompt_tokens),
            None => Self::Words(words_for_tokens(prompt_tokens)),
        }
    }

    /// What is reported of it.
    pub(super) fn settings(&self) -> Value {
        match self {
            Self::Tokens(_, tokens) => json!({"unit": "tokens", "length": tokens}),
            Self::Words(words) => json!({"unit": "words", "length": words}),
            Self::CommonPrefix => json!({"unit": "words", "length": "common prefix"}),
        }
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

/// Adds the coherence of every set, the human one first.
///
/// A text whose prompt or continuation is empty has none, but with [`Split::CommonPrefix`] both are embedded as they are, as the
/// authors do. There the human texts are split by the first system's.
pub(super) fn add(
    scores: &mut [Scores],
    sets: &[&TextSet],
    split: &Split<'_>,
    embedder: &Embedder,
) -> Result<()> {
    let as_they_are = matches!(split, Split::CommonPrefix);
    let human = sets[0];
    if let Some(other) = sets.iter().find(|set| as_they_are && set.texts.len() != human.texts.len()) {
        let (expected, got) = (human.texts.len(), other.texts.len());
        let problem = format!(
            "`--compat authors` pairs human and model texts: expected {expected} texts in `{}`, got {got}",
            other.name
        );
        return Err(Problem::new(problem).into());
    }
    for (index, (scores, set)) in scores.iter_mut().zip(sets).enumerate() {
        let partner = if index == 0 { sets.get(1).unwrap_or(&human) } else { &human };
        let other = |text: usize| partner.wholes.get(text).map_or("", String::as_str);
        let pairs: Vec<[String; 2]> = set
            .texts
            .iter()
            .enumerate()
            .map(|(i, text)| split.pair(text, other(i)))
            .collect::<Result<_>>()?;
        let is_scored = |pair: &[String; 2]| as_they_are || pair.iter().all(|part| !part.trim().is_empty());
        let scored: Vec<[String; 2]> = pairs.iter().filter(|pair| is_scored(pair)).cloned().collect();
        if scored.len() < pairs.len() {
            let without = pairs.len() - scored.len();
            tracing::warn!(
                "{}: {without} of {} texts have no prompt or no continuation, so no coherence",
                set.name,
                pairs.len()
            );
        }
        let mut cosines = embedder.cosines(&scored)?.into_iter();
        let documents =
            pairs.iter().map(|pair| if is_scored(pair) { cosines.next() } else { None }).collect();
        scores.add_mean("coherence", documents);
        scores.values.insert("coherence_texts".to_owned(), json!(scored.len()));
    }
    Ok(())
}

/// The words that a text shares with another at its beginning, and the rest of them.
fn split_at_common_prefix(text: &str, other: &str) -> [String; 2] {
    let words: Vec<&str> = text.split_whitespace().collect();
    let shared = words.iter().zip(other.split_whitespace()).take_while(|(a, b)| **a == *b).count();
    let (prompt, continuation) = words.split_at(shared);
    [prompt.join(" "), continuation.join(" ")]
}

/// Where a text's first tokens end, in bytes. Tokens that end inside of a character leave it to the continuation.
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

/// Where a text's first words end, in bytes.
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
        // One token a byte: the third is the first half of the letter.
        assert_eq!(split.pair(&text(None, "abédef"), "").unwrap(), ["ab", "édef"]);
        assert_eq!(split.pair(&text(None, "é"), "").unwrap(), ["é", ""]);
        assert_eq!(Split::known(None, 50).settings()["length"], 37);
    }
}
