//! Whether a tokenizer begins every text with BOS.

use mixce_base::panics::caught;
use serde_json::Value;
use tokenizers::Tokenizer as Engine;

use super::source::Object;

const KEYS: [&str; 2] = ["add_bos_token", "add_eos_token"];

/// What `tokenizer_config.json` says of BOS: nothing unless it has one of the two keys, of which each is false by default. They replace
/// the template of `tokenizer.json` (`update_post_processor` in transformers' `tokenization_utils_tokenizers.py`).
pub(super) fn asked_for(config: &Object) -> Option<bool> {
    let named = KEYS.iter().any(|key| config.contains_key(*key));
    named.then(|| config.get(KEYS[0]).and_then(Value::as_bool).unwrap_or_default())
}

/// The token that transformers puts before a text: BOS, if the configuration asks for it or else the template begins with it.
pub(super) fn opening(engine: &Engine, asked: Option<bool>, bos: Option<u32>) -> Option<u32> {
    bos.filter(|bos| {
        // The empty text gives the template alone. A tokenizer that cannot encode it has none.
        let template = || {
            caught(|| engine.encode_fast("", true))
                .is_ok_and(|empty| empty.is_ok_and(|empty| empty.get_ids().first() == Some(bos)))
        };
        asked.unwrap_or_else(template)
    })
}
