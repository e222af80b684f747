//! Reads prompts from a file or the command line and encodes them.

use std::path::Path;

use anyhow::Result;
use mixce_data::{Document, Input, ReadSettings};
use mixce_lm::Tokenizer;

use crate::error::Problem;
use crate::reading::ReadingArgs;

/// An encoded prompt.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// Its text, truncated with the tokens; empty for unconditional sampling.
    pub(super) text: String,
    /// Its tokens, at least one.
    pub(super) tokens: Vec<u32>,
}

/// The prompts of a file, each with a description of its location. In a table they are in the column `prompt`, unless another one is
/// named. Blank ones are counted and skipped, as in training.
pub(super) fn read(path: &Path, reading: &ReadingArgs) -> Result<Vec<(String, String)>> {
    let settings = reading.over(ReadSettings { text_column: "prompt".into(), ..ReadSettings::default() });
    let input = Input::open(&[path], settings)?;
    let mut prompts = Vec::new();
    let (mut blank, mut first_blank) = (0u64, None);
    for document in input.documents() {
        let Document { path, place, text, .. } = document?;
        if text.trim().is_empty() {
            blank += 1;
            first_blank.get_or_insert(place);
        } else {
            prompts.push((format!("`{}` {place}", path.display()), text));
        }
    }
    let name = path.display();
    if prompts.is_empty() {
        let problem = match blank {
            0 => format!("`{name}` is empty"),
            count => format!("`{name}` contains no prompt: all {count} are blank"),
        };
        let hint = "`--unconditional N` samples from the beginning of a text";
        return Err(Problem::new(problem).hint(hint).into());
    }
    if let Some(place) = first_blank {
        tracing::warn!(
            "`{name}`: {blank} blank prompts are skipped, the first at {place}; samples are numbered without them"
        );
    }
    Ok(prompts)
}

/// Encodes prompts, truncated to `length` tokens, and checks that they fit the model.
pub(super) fn encode(
    texts: &[(String, String)],
    tokenizer: &Tokenizer,
    length: Option<usize>,
    positions: usize,
) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::with_capacity(texts.len());
    for (place, text) in texts {
        let mut tokens = tokenizer.encode(text)?;
        let cut = length.is_some_and(|length| length < tokens.len());
        tokens.truncate(length.unwrap_or(usize::MAX));
        if tokens.is_empty() {
            let problem =
                Problem::new(format!("{place}: the prompt is empty, sampling needs a token to continue"));
            return Err(problem.hint("`--unconditional N` samples from the beginning of a text").into());
        }
        let text = if cut { tokenizer.decode(&tokens)? } else { text.clone() };
        // What the model has seen at the beginning of every text.
        tokens.splice(0..0, tokenizer.opening());
        if tokens.len() >= positions {
            let got = tokens.len();
            let problem = Problem::new(format!(
                "{place}: the prompt has {got} tokens, which leaves no room in the model's {positions} positions (config key `n_positions` or `max_position_embeddings`)"
            ));
            return Err(problem.hint("shorten prompts with `--prompt-length`").into());
        }
        prompts.push(Prompt { text, tokens });
    }
    Ok(prompts)
}

/// The prompt of unconditional sampling: the beginning-of-text token.
pub(super) fn beginning(tokenizer: &Tokenizer) -> Result<Prompt> {
    match tokenizer.bos_id().or(tokenizer.eos_id()) {
        Some(id) => Ok(Prompt { text: String::new(), tokens: vec![id] }),
        None => Err(Problem::new("`--unconditional`: the tokenizer has no beginning-of-text token").into()),
    }
}
