//! Writes a tokenizer's files.

use std::collections::BTreeMap;
use std::path::Path;

use mixce_base::files::write_atomic;
use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer as Engine};

use super::settings::NAMES;
use super::source::{Object, SourceFiles};
use super::{Tokenizer, TokenizerClass, bpe, failed};
use crate::error::Result;

const CONFIG: &str = "tokenizer_config.json";

impl Tokenizer {
    /// Writes the tokenizer's files into an existing folder. Files it was read from are copied byte for byte, except that a
    /// `tokenizer_config.json` without `tokenizer_class` gets one. Of `tokenizer.json`, `vocab.json` and `merges.txt` (if they can represent
    /// the tokenizer), `tokenizer_config.json` and `special_tokens_map.json`, missing ones are generated.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        for (name, bytes) in self.files()?.iter() {
            write_atomic(&dir.join(name), bytes)?;
        }
        Ok(())
    }

    /// Names and contents of what [`Tokenizer::save`] writes.
    fn files(&self) -> Result<SourceFiles> {
        let mut files = self.source.clone();
        let memory = Path::new("(memory)");
        if files.get("tokenizer.json").is_none() {
            let described = self.engine.to_string(true).map_err(|cause| failed("describe", cause))?;
            files.insert("tokenizer.json", described.into_bytes());
        }
        if files.get(CONFIG).is_none() {
            files.insert(CONFIG, pretty(&self.config()));
        } else {
            // The class may come from the config.json of another folder.
            let named = files.object(memory, CONFIG)?.contains_key("tokenizer_class");
            if !named && let Some(bytes) = files.get(CONFIG).and_then(|bytes| with_class(bytes, self.class)) {
                files.insert(CONFIG, bytes);
            }
        }
        if files.get("special_tokens_map.json").is_none() {
            files.insert("special_tokens_map.json", pretty(&self.special_tokens()));
        }
        let pair = ["vocab.json", "merges.txt"];
        if pair.iter().any(|name| files.get(name).is_none())
            && let Some((vocab, merges)) = bpe::gpt2_files(&self.engine)?
        {
            let mut with_pair = files.clone();
            with_pair.insert("vocab.json", vocab);
            with_pair.insert("merges.txt", merges);
            let again =
                Self::from_source(memory, with_pair.clone().without("tokenizer.json"), &Object::new());
            if again.is_ok_and(|again| same_rules(&again.engine, &self.engine)) {
                files = with_pair;
            } else {
                tracing::info!(
                    "the tokenizer is written without vocab.json and merges.txt, which cannot represent it"
                );
            }
        }
        Ok(files)
    }

    /// The special tokens by transformers' own names for them: the text, or an object where a flag is not the usual one.
    fn special_tokens(&self) -> BTreeMap<&str, Value> {
        let written = |token: &AddedToken| {
            if *token == AddedToken::from(token.content.clone(), true) {
                return json!(token.content);
            }
            json!({
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
            })
        };
        let named = NAMES.iter().filter_map(|name| Some((*name, written(&self.named.get(*name)?.token))));
        named.collect()
    }

    /// A `tokenizer_config.json` for a tokenizer that came without one, sorted by name as transformers writes it.
    fn config(&self) -> BTreeMap<&str, Value> {
        let text = |name: &&str| self.named.get(*name).map(|named| json!(named.token.content));
        let mut config: BTreeMap<&str, Value> =
            NAMES.iter().filter_map(|name| Some((*name, text(name)?))).collect();
        if self.class == TokenizerClass::Gpt2 {
            config.insert("add_prefix_space", json!(false));
            config.insert("errors", json!("replace"));
            // A name that is missing would get the class's default.
            for name in ["bos_token", "eos_token", "unk_token"] {
                config.entry(name).or_insert(Value::Null);
            }
        }
        config.insert("tokenizer_class", json!(self.class.name()));
        config
    }
}

/// A `tokenizer_config.json` with a class put first. Nothing else moves: the order of the other keys decides some ids.
fn with_class(config: &[u8], class: TokenizerClass) -> Option<Vec<u8>> {
    let start = config.iter().position(|&byte| byte == b'{')? + 1;
    let rest = &config[start..];
    let comma = if rest.trim_ascii_start().starts_with(b"}") { "" } else { "," };
    let key = format!("\n  \"tokenizer_class\": \"{}\"{comma}", class.name());
    Some([&config[..start], key.as_bytes(), rest].concat())
}

/// Whether two byte-level BPEs with the same merges encode identically.
fn same_rules(a: &Engine, b: &Engine) -> bool {
    let pieces = |engine: &Engine| {
        (
            serde_json::to_value(engine.get_normalizer()).ok(),
            serde_json::to_value(engine.get_pre_tokenizer()).ok(),
        )
    };
    a.get_added_tokens_decoder() == b.get_added_tokens_decoder()
        && pieces(a) == pieces(b)
        && a.get_vocab(true) == b.get_vocab(true)
}

fn pretty(value: &impl serde::Serialize) -> Vec<u8> {
    // Maps of text always have a textual form.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text.into_bytes()
}
