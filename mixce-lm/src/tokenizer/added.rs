//! Adds special and other tokens to a tokenizer in the order of transformers 5.23 (`TokenizersBackend.__init__`), which decides
//! their ids.

use std::collections::HashSet;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Engine};

use super::failed;
use super::settings::Settings;
use crate::error::Result;

/// Adds the tokens of the settings. Notes deviations from the files.
pub(super) fn apply(engine: &mut Engine, settings: &mut Settings) -> Result<()> {
    let present = engine.get_added_tokens_decoder();
    let mut tokens: Vec<AddedToken> = settings
        .added
        .values()
        .filter(|token| !present.values().any(|known| known == *token))
        .cloned()
        .collect();
    // As there, a token that is named twice with different flags is added twice: the last flags count.
    let known: HashSet<String> = present.values().chain(&tokens).map(|token| token.content.clone()).collect();
    for named in settings.named.values() {
        if known.contains(&named.token.content) || tokens.contains(&named.token) {
            continue;
        }
        if named.by_default && engine.token_to_id(&named.token.content).is_none() {
            settings.notes.push(format!(
                "no file names `{}`, which the vocabulary lacks: it is added, as in transformers' {}",
                named.token.content,
                settings.class.name()
            ));
        }
        tokens.push(named.token.clone());
    }
    for token in &settings.extra {
        if !known.contains(&token.content) && !tokens.contains(token) {
            tokens.push(token.clone());
        }
    }
    for token in &mut tokens {
        token.special |= settings.named.values().any(|named| named.token.content == token.content);
    }
    engine.add_tokens(tokens).map_err(|cause| failed("build", cause))?;
    for (id, token) in &settings.added {
        let got = engine.token_to_id(&token.content);
        if got != Some(*id) {
            let got = got.map_or("none".to_owned(), |id| id.to_string());
            settings.notes.push(format!(
                "token `{}` should have id {id} and gets {got}, as in transformers: the next free one",
                token.content
            ));
        }
    }
    Ok(())
}

/// Notes the added tokens of `tokenizer.json` that are not among the result: transformers does not read them where
/// `tokenizer_config.json` has a list of its own.
pub(super) fn note_lost(engine: &Engine, json: Option<&Value>, settings: &mut Settings) {
    let tokens = json.and_then(|json| json.get("added_tokens")?.as_array()).into_iter().flatten();
    for token in tokens.filter_map(|token| token.get("content")?.as_str()) {
        if engine.token_to_id(token).is_none() {
            settings.notes.push(format!(
                "`{token}` of tokenizer.json is not a token: `added_tokens_decoder` of tokenizer_config.json takes precedence and lacks it"
            ));
        }
    }
}
