//! Prompts: from a file or the command line to token ids.

use std::path::Path;

use anyhow::Result;
use mixce_data::Format;
use mixce_gpt2::{Gpt2Config, Tokenizer};
use serde_json::Value;

use crate::error::Problem;
use crate::files;

/// A prompt as the model sees it.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// Its text: empty for the beginning of a text; as far as its tokens go.
    pub(super) text: String,
    /// Its tokens, at least one.
    pub(super) tokens: Vec<u32>,
}

/// The prompts of a file, each with its place in words.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>> {
    let format = Format::of(path);
    let mut prompts = Vec::new();
    for (line, text) in files::lines(path)? {
        let text = match format {
            Format::JsonLines => prompt_of_row(&text)
                .map_err(|problem| Problem::new(format!("`{}` line {line}: {problem}", path.display())))?,
            _ => text,
        };
        prompts.push((format!("`{}` line {line}", path.display()), text));
    }
    Ok(prompts)
}

fn prompt_of_row(row: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(row).map_err(|e| format!("not a JSON value ({e})"))?;
    match value.get("prompt") {
        Some(Value::String(prompt)) => Ok(prompt.clone()),
        _ => Err("expected a JSON object with a string under `prompt`".to_owned()),
    }
}

/// Encodes prompts, cut to `length` tokens, and checks that they fit the model.
pub(super) fn encode(
    texts: &[(String, String)],
    tokenizer: &Tokenizer,
    length: Option<usize>,
    config: &Gpt2Config,
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
        if tokens.len() >= config.n_positions {
            let (got, positions) = (tokens.len(), config.n_positions);
            let problem = Problem::new(format!(
                "{place}: the prompt has {got} tokens, which leaves no room in the model's {positions} positions (config key `n_positions`)"
            ));
            return Err(problem.hint("cut prompts with `--prompt-length`").into());
        }
        let text = if cut { tokenizer.decode(&tokens)? } else { text.clone() };
        prompts.push(Prompt { text, tokens });
    }
    Ok(prompts)
}

/// The prompt that stands for no prompt: the token that begins a text.
pub(super) fn beginning(tokenizer: &Tokenizer) -> Result<Prompt> {
    match tokenizer.bos_id().or(tokenizer.eos_id()) {
        Some(id) => Ok(Prompt { text: String::new(), tokens: vec![id] }),
        None => Err(Problem::new("`--unconditional`: the tokenizer has no token that begins a text").into()),
    }
}
