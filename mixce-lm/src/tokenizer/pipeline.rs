//! Builds the rules of a tokenizer from its files.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer as Engine;

use super::growth::Growth;
use super::settings::Settings;
use super::source::SourceFiles;
use super::{TokenizerClass, bpe, json, word_piece};
use crate::error::{Error, Result};

/// Checks the rules of a `tokenizer.json` and removes those that do not apply.
pub(super) fn prepare(path: &Path, json: &mut Value, settings: &mut Settings) -> Result<Growth> {
    let damaged = |problem: String| Error::malformed(path, problem);
    json::check(json).map_err(damaged)?;
    if let Some(rate) = json::remove_unused(json) {
        settings.notes.push(format!(
            "`model.dropout` = {rate} of tokenizer.json is not applied: it would make every encoding of a text a random one"
        ));
    }
    let steps = json::components(json, "normalizer").map_err(damaged)?;
    Growth::of(&steps).map_err(damaged)
}

/// Checks the added tokens, which the library normalizes too.
pub(super) fn check_added(growth: &Growth, json: Option<&Value>, settings: &Settings) -> Result<(), String> {
    let in_json = json.and_then(|json| json.get("added_tokens")?.as_array()).into_iter().flatten();
    let in_json = in_json.filter_map(|token| token.get("content")?.as_str());
    let named = settings.named.values().map(|named| &named.token);
    let named = named.chain(&settings.extra).chain(settings.added.values());
    let tokens: Vec<&str> = in_json.chain(named.map(|token| token.content.as_str())).collect();
    json::check_added(tokens.iter().copied())?;
    tokens
        .iter()
        .try_for_each(|token| growth.check(token).map_err(|problem| format!("`added_tokens`: {problem}")))
}

/// The tokenizer before the settings' tokens are added to it.
pub(super) fn engine(
    dir: &Path,
    source: &SourceFiles,
    json: Option<&Value>,
    settings: &mut Settings,
) -> Result<Engine> {
    let path = dir.join("tokenizer.json");
    let space = settings.add_prefix_space;
    if let Some(json) = json {
        return match settings.class {
            TokenizerClass::Gpt2 | TokenizerClass::Roberta => {
                bpe::engine_of_json(&path, json, space, &mut settings.notes)
            }
            TokenizerClass::Bert | TokenizerClass::Generic => bpe::engine_from_json(&path, json),
        };
    }
    match (source.get("vocab.json"), source.get("merges.txt"), source.get("vocab.txt")) {
        (Some(vocab), Some(merges), _) => {
            let vocab = bpe::parse_vocab(&dir.join("vocab.json"), vocab)?;
            let merges = bpe::parse_merges(&dir.join("merges.txt"), merges, &vocab)?;
            bpe::engine(vocab, merges, space).map_err(|error| error.in_file(dir))
        }
        (.., Some(vocab)) => word_piece::engine(&dir.join("vocab.txt"), vocab, settings.do_lower_case),
        _ => Err(Error::NoTokenizer { path: dir.to_owned() }),
    }
}
