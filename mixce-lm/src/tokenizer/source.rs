//! The files of a tokenizer, kept as they were read, and the settings among them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use crate::error::{Error, Result};
use crate::files;

/// Everything that belongs to a tokenizer, as transformers names it.
const NAMES: [&str; 7] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

const MAX_FILE_BYTES: u64 = 512 << 20;

/// Names and bytes of the files that were there.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceFiles(BTreeMap<&'static str, Arc<[u8]>>);

/// What the files beside the vocabulary say.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) bos_token: Option<String>,
    pub(super) eos_token: Option<String>,
    pub(super) bos_id: Option<u32>,
    pub(super) eos_id: Option<u32>,
    pub(super) add_prefix_space: Option<bool>,
    /// Whether BERT's tokenizer lowers the case of letters; most do.
    pub(super) do_lower_case: bool,
    /// Tokens beside the vocabulary with the ids they must get, in that order.
    pub(super) added: Vec<(u32, AddedToken)>,
}

impl SourceFiles {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let mut found = BTreeMap::new();
        for name in NAMES {
            let path = dir.join(name);
            if path.is_file() {
                found.insert(name, files::read_bytes(&path, MAX_FILE_BYTES)?.into());
            }
        }
        Ok(Self(found))
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|bytes| &**bytes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (*name, &**bytes))
    }

    pub(super) fn settings(&self, dir: &Path) -> Result<Settings> {
        let config = self.object(dir, "tokenizer_config.json")?;
        let map = self.object(dir, "special_tokens_map.json")?;
        let model = match dir.join("config.json") {
            path if path.is_file() => parse(&path, &files::read_bytes(&path, MAX_FILE_BYTES)?)?,
            _ => Map::new(),
        };
        let token = |key: &str| config.get(key).or_else(|| map.get(key)).and_then(spelling);
        let id = |key: &str| model.get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let mut added: BTreeMap<u32, AddedToken> = BTreeMap::new();
        for (text, id) in self.object(dir, "added_tokens.json")? {
            if let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                added.insert(id, AddedToken::from(text, false));
            }
        }
        if let Some(decoder) = config.get("added_tokens_decoder").and_then(Value::as_object) {
            for (id, token) in decoder {
                let path = dir.join("tokenizer_config.json");
                let damaged =
                    || Error::malformed(&path, format!("`added_tokens_decoder` has a damaged entry `{id}`"));
                let id: u32 = id.parse().map_err(|_| damaged())?;
                let token: AddedToken = serde_json::from_value(token.clone()).map_err(|_| damaged())?;
                added.insert(id, token);
            }
        }
        Ok(Settings {
            bos_token: token("bos_token"),
            eos_token: token("eos_token"),
            bos_id: id("bos_token_id"),
            eos_id: id("eos_token_id"),
            add_prefix_space: config.get("add_prefix_space").and_then(Value::as_bool),
            do_lower_case: config.get("do_lower_case").and_then(Value::as_bool).unwrap_or(true),
            added: added.into_iter().collect(),
        })
    }

    fn object(&self, dir: &Path, name: &str) -> Result<Map<String, Value>> {
        self.get(name).map_or_else(|| Ok(Map::new()), |bytes| parse(&dir.join(name), bytes))
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|cause| Error::malformed(path, cause))
}

/// A special token is written as its text, or as an object with the text under `content`.
fn spelling(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// A `tokenizer_config.json` for a tokenizer that came without one.
pub(super) fn tokenizer_config(bos: Option<&str>, eos: Option<&str>, is_gpt2: bool) -> Vec<u8> {
    // Sorted by name, as transformers writes it.
    let mut config = BTreeMap::new();
    if is_gpt2 {
        config.insert("add_prefix_space", json!(false));
        config.insert("errors", json!("replace"));
        // GPT-2 has no unknown token; transformers asks for one and names this.
        config.insert("unk_token", json!(eos));
    }
    config.insert("bos_token", json!(bos));
    config.insert("eos_token", json!(eos));
    let class = if is_gpt2 { "GPT2Tokenizer" } else { "PreTrainedTokenizerFast" };
    config.insert("tokenizer_class", json!(class));
    pretty(&config)
}

/// A `special_tokens_map.json` for a tokenizer that came without one.
pub(super) fn special_tokens_map(bos: Option<&str>, eos: Option<&str>) -> Vec<u8> {
    let tokens = [("bos_token", bos), ("eos_token", eos)];
    let map: BTreeMap<&str, &str> =
        tokens.into_iter().filter_map(|(key, token)| token.map(|token| (key, token))).collect();
    pretty(&map)
}

fn pretty(value: &impl serde::Serialize) -> Vec<u8> {
    // Maps of text always have a textual form.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text.into_bytes()
}
