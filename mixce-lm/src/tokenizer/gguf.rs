//! A tokenizer from the metadata of a GGUF file: written as the `tokenizer.json` and `tokenizer_config.json` that the model's own
//! folder would have, and then read as those are.
//!
//! Sources: `llama-vocab.cpp` of llama.cpp (kinds, pre-tokenizers and their regular expressions), `integrations/gguf` of transformers 5.23
//! (SentencePiece), and the published `tokenizer.json` files where these two differ from them.

use std::collections::HashMap;

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::bpe::{self, Merges};
use super::source::SourceFiles;
use crate::checkpoint::gguf::{Gguf, Metadata};
use crate::error::{Error, Result};

mod pre;
mod sentencepiece;

pub(super) use pre::WORD_PATTERNS;

/// `tokenizer.ggml.token_type` of tokens that are found in a text before any rule applies (`enum llama_token_type`).
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

/// Special tokens: transformers' names and llama.cpp's.
const NAMES: [(&str, &str); 4] =
    [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")];

/// The vocabulary of a file.
struct Vocabulary {
    tokens: IndexMap<String, u32>,
    /// By id; empty where the file has none.
    types: Vec<f64>,
}

/// The rules around a vocabulary, as `tokenizer.json` has them.
struct Rules {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    /// The post-processor where nothing is put around a text.
    post_processor: Value,
    unk_token: Option<String>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    merges: Merges,
}

/// `tokenizer.json` but for what is the same in every one.
#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'a str,
    truncation: Value,
    padding: Value,
    added_tokens: Vec<Value>,
    normalizer: &'a Value,
    pre_tokenizer: &'a Value,
    post_processor: Value,
    decoder: &'a Value,
    model: Model<'a>,
}

#[derive(Serialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    dropout: Value,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Value,
    end_of_word_suffix: Value,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: &'a IndexMap<String, u32>,
    merges: &'a Merges,
}

/// The files of the tokenizer in a GGUF file, and what is worth a note; `None` where it has no tokenizer.
///
/// # Errors
/// When a kind of tokenizer or pre-tokenizer is not known, a list is missing or of another length, a token occurs twice, or an id is that of no
/// token.
pub(super) fn source(gguf: &Gguf) -> Result<Option<(SourceFiles, Option<String>)>> {
    let metadata = gguf.metadata();
    let Some(kind) = metadata.get::<String>("tokenizer.ggml.model")? else { return Ok(None) };
    let vocabulary = Vocabulary::read(metadata)?;
    let (rules, note) = match kind.as_str() {
        "gpt2" => pre::rules(gguf, explicit_merges(metadata)?)?,
        "llama" => (sentencepiece::rules(metadata, &vocabulary)?, None),
        _ => {
            let reason = "`gpt2` (byte-level BPE) and `llama` (SentencePiece BPE) are read";
            return Err(metadata.unsupported("tokenizer.ggml.model", kind, reason));
        }
    };
    bpe::check_merges(metadata.path(), &rules.merges, &vocabulary.map(), "")?;
    let ends = Ends::read(metadata, &vocabulary, kind == "llama")?;
    let mut files = SourceFiles::default();
    let json = TokenizerJson {
        version: "1.0",
        truncation: Value::Null,
        padding: Value::Null,
        added_tokens: vocabulary.added(),
        normalizer: &rules.normalizer,
        pre_tokenizer: &rules.pre_tokenizer,
        post_processor: ends.template().unwrap_or(rules.post_processor),
        decoder: &rules.decoder,
        model: Model {
            kind: "BPE",
            dropout: Value::Null,
            unk_token: rules.unk_token.as_deref(),
            continuing_subword_prefix: Value::Null,
            end_of_word_suffix: Value::Null,
            fuse_unk: rules.fuse_unk,
            byte_fallback: rules.byte_fallback,
            ignore_merges: rules.ignore_merges,
            vocab: &vocabulary.tokens,
            merges: &rules.merges,
        },
    };
    files.insert("tokenizer.json", written(&json)?);
    files.insert("tokenizer_config.json", written(&config(metadata, &vocabulary, &ends)?)?);
    Ok(Some((files, note)))
}

impl Vocabulary {
    fn read(metadata: &Metadata) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let listed = metadata.require::<Vec<String>>(key)?;
        let mut tokens = IndexMap::with_capacity(listed.len());
        for (id, token) in (0u32..).zip(listed) {
            if let Some(first) = tokens.insert(token, id) {
                let problem = format!("`{key}`: tokens {first} and {id} are the same");
                return Err(Error::malformed(metadata.path(), problem));
            }
        }
        let types = metadata.get::<Vec<f64>>("tokenizer.ggml.token_type")?.unwrap_or_default();
        if !types.is_empty() && types.len() != tokens.len() {
            let problem = format!(
                "`tokenizer.ggml.token_type` has {} entries for {} tokens",
                types.len(),
                tokens.len()
            );
            return Err(Error::malformed(metadata.path(), problem));
        }
        Ok(Self { tokens, types })
    }

    fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get_index(id as usize).map(|(token, _)| token.as_str())
    }

    /// The token whose id is under `tokenizer.ggml.NAME_token_id`.
    fn named(&self, metadata: &Metadata, name: &str) -> Result<Option<(String, u32)>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = metadata.get::<u64>(&key)? else { return Ok(None) };
        let token = u32::try_from(id).ok().and_then(|id| Some((self.token(id)?.to_owned(), id)));
        let reason = || format!("there are {} tokens", self.tokens.len());
        token.map(Some).ok_or_else(|| metadata.unsupported(&key, id.to_string(), reason()))
    }

    fn map(&self) -> HashMap<String, u32> {
        self.tokens.iter().map(|(token, id)| (token.clone(), *id)).collect()
    }

    /// Control tokens, which are special, and user-defined ones, which are not.
    fn added(&self) -> Vec<Value> {
        let typed = self.tokens.iter().zip(&self.types);
        let added = typed.filter(|(_, kind)| [CONTROL, USER_DEFINED].contains(kind));
        added
            .map(|((token, id), kind)| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind == CONTROL,
                })
            })
            .collect()
    }
}

/// The special tokens that are put before and after a text by the model's convention.
struct Ends {
    bos: Option<(String, u32)>,
    eos: Option<(String, u32)>,
    add_bos: bool,
    add_eos: bool,
}

impl Ends {
    fn read(metadata: &Metadata, vocabulary: &Vocabulary, add_bos_by_default: bool) -> Result<Self> {
        let flag = |key: &str| metadata.get::<bool>(&format!("tokenizer.ggml.{key}"));
        Ok(Self {
            bos: vocabulary.named(metadata, "bos")?,
            eos: vocabulary.named(metadata, "eos")?,
            add_bos: flag("add_bos_token")?.unwrap_or(add_bos_by_default),
            add_eos: flag("add_eos_token")?.unwrap_or(false),
        })
    }

    /// The post-processor that puts them there.
    fn template(&self) -> Option<Value> {
        let before = self.bos.as_ref().filter(|_| self.add_bos);
        let after = self.eos.as_ref().filter(|_| self.add_eos);
        if before.is_none() && after.is_none() {
            return None;
        }
        let special =
            |token: &(String, u32), text: u32| json!({"SpecialToken": {"id": token.0, "type_id": text}});
        let text = |name: &str, text: u32| {
            let sequence = json!({"Sequence": {"id": name, "type_id": text}});
            let before = before.map(|token| special(token, text));
            let after = after.map(|token| special(token, text));
            before.into_iter().chain([sequence]).chain(after).collect::<Vec<Value>>()
        };
        let tokens = before.into_iter().chain(after);
        let tokens: Map<String, Value> = tokens
            .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        let pair = [text("A", 0), text("B", 1)].concat();
        Some(json!({
            "type": "TemplateProcessing",
            "single": text("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        }))
    }
}

/// `tokenizer_config.json`: the special tokens by name, the convention of BOS and EOS, and the chat template.
fn config(metadata: &Metadata, vocabulary: &Vocabulary, ends: &Ends) -> Result<Map<String, Value>> {
    let mut config = Map::new();
    for (name, own_name) in NAMES {
        if let Some((token, _)) = vocabulary.named(metadata, own_name)? {
            config.insert(name.to_owned(), json!(token));
        }
    }
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    config.insert("add_bos_token".to_owned(), json!(ends.add_bos && ends.bos.is_some()));
    config.insert("add_eos_token".to_owned(), json!(ends.add_eos && ends.eos.is_some()));
    if let Some(template) = metadata.get::<String>("tokenizer.chat_template")? {
        config.insert("chat_template".to_owned(), json!(template));
    }
    Ok(config)
}

/// The merges that the file lists, best first; `None` where it has no such list.
fn explicit_merges(metadata: &Metadata) -> Result<Option<Merges>> {
    let key = "tokenizer.ggml.merges";
    let Some(lines) = metadata.get::<Vec<String>>(key)? else { return Ok(None) };
    let pair = |(number, line): (usize, String)| match line.split_once(' ') {
        Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ') => {
            Ok((a.to_owned(), b.to_owned()))
        }
        _ => {
            let problem = format!("`{key}`, entry {number}: expected two tokens, got `{line}`");
            Err(Error::malformed(metadata.path(), problem))
        }
    };
    (1..).zip(lines).map(pair).collect::<Result<_>>().map(Some)
}

fn written(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value)
        .map_err(|cause| Error::Tokenizer { action: "write down", problem: cause.to_string() })
}
