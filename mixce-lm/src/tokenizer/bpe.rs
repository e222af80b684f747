//! Byte-level BPE: reads and checks GPT-2's two files, and trains a tokenizer.
//!
//! The `tokenizers` library does not validate its files: a merge whose result is longer than any token makes it panic. Hence the
//! checks.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    Model, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer as Engine, TokenizerBuilder,
};

use super::failed;
use super::json::{MAX_ID, MAX_TOKENS, at_most, check_post_processor, check_tokens};
use crate::error::{Error, Result};

pub(super) type Vocab = HashMap<String, u32>;
pub(super) type Merges = Vec<(String, String)>;

/// `vocab.json`: an object from token to id.
pub(super) fn parse_vocab(path: &Path, bytes: &[u8]) -> Result<Vocab> {
    let object: HashMap<String, u64> =
        serde_json::from_slice(bytes).map_err(|cause| Error::malformed(path, cause))?;
    at_most("(root)", "tokens", object.len(), MAX_TOKENS)
        .map_err(|problem| Error::malformed(path, problem))?;
    let mut owners: HashMap<u64, &str> = HashMap::new();
    for (token, &id) in &object {
        if id > MAX_ID {
            return Err(Error::malformed(path, format!("token `{token}` has the impossible id {id}")));
        }
        if let Some(other) = owners.insert(id, token) {
            let (first, second) =
                if other < token.as_str() { (other, token.as_str()) } else { (token.as_str(), other) };
            return Err(Error::malformed(
                path,
                format!("tokens `{first}` and `{second}` have the same id {id}"),
            ));
        }
    }
    Ok(object.into_iter().map(|(token, id)| (token, id as u32)).collect())
}

/// `merges.txt`: one pair per line, best first; a first line `#version` and empty lines are skipped.
pub(super) fn parse_merges(path: &Path, bytes: &[u8], vocab: &Vocab) -> Result<Merges> {
    let text = std::str::from_utf8(bytes).map_err(|cause| Error::malformed(path, cause))?;
    let mut merges = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("#version") || line.trim().is_empty() {
            continue;
        }
        let Some((a, b)) =
            line.split_once(' ').filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(' '))
        else {
            return Err(Error::malformed(path, format!("line {number}: expected two tokens, got `{line}`")));
        };
        let pair = (a.to_owned(), b.to_owned());
        check_merge(&pair, vocab, "")
            .map_err(|problem| Error::malformed(path, format!("line {number}: {problem}")))?;
        merges.push(pair);
    }
    Ok(merges)
}

/// Checks every merge of a list; `prefix` begins a piece that continues a word.
pub(super) fn check_merges(
    path: &Path,
    merges: &[(String, String)],
    vocab: &Vocab,
    prefix: &str,
) -> Result<()> {
    for (number, pair) in (1..).zip(merges) {
        check_merge(pair, vocab, prefix)
            .map_err(|problem| Error::malformed(path, format!("merge {number}: {problem}")))?;
    }
    Ok(())
}

fn check_merge((a, b): &(String, String), vocab: &Vocab, prefix: &str) -> Result<(), String> {
    let tail = b.strip_prefix(prefix).ok_or_else(|| format!("token `{b}` lacks the prefix `{prefix}`"))?;
    let merged = format!("{a}{tail}");
    match [a, b, &merged].into_iter().find(|token| !vocab.contains_key(*token)) {
        Some(unknown) => {
            Err(format!("merge `{a} {b}` needs token `{unknown}`, which is not in the vocabulary"))
        }
        None => Ok(()),
    }
}

/// GPT-2's tokenizer over a vocabulary, without added tokens.
pub(super) fn engine(vocab: Vocab, merges: Merges, add_prefix_space: bool) -> Result<Engine> {
    warn_of_missing_bytes(&vocab);
    let bpe = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix(String::new())
        .build()
        .map_err(|cause| failed("build", cause))?;
    let inner = TokenizerBuilder::new()
        .with_model(ModelWrapper::from(bpe))
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(PreTokenizerWrapper::from(ByteLevel::new(add_prefix_space, true, true))))
        .with_post_processor(Some(PostProcessorWrapper::from(ByteLevel::new(true, false, true))))
        .with_decoder(Some(tokenizers::DecoderWrapper::from(ByteLevel::new(true, true, true))))
        .build()
        .map_err(|cause| failed("build", cause))?;
    Ok(Engine::from(inner))
}

/// GPT-2's tokenizer over the vocabulary and the merges of a `tokenizer.json`; of the rest of that file, the post-processor is kept.
///
/// Notes the parts that are not.
pub(super) fn engine_of_json(
    path: &Path,
    json: &Value,
    add_prefix_space: bool,
    notes: &mut Vec<String>,
) -> Result<Engine> {
    let damaged = |problem: String| Error::malformed(path, problem);
    check_tokens(json).and_then(|()| check_post_processor(json)).map_err(damaged)?;
    let (vocab, merges) = bpe_of_json(json).map_err(damaged)?.ok_or_else(|| damaged("no BPE".to_owned()))?;
    check_merges(path, &merges, &vocab, "")?;
    let mut engine = engine(vocab, merges, add_prefix_space)?;
    if let Some(described) = json.get("post_processor").filter(|value| !value.is_null()) {
        let rules: PostProcessorWrapper = serde_json::from_value(described.clone())
            .map_err(|cause| damaged(format!("`post_processor`: {cause}")))?;
        engine.with_post_processor(Some(rules));
    }
    for part in unused_parts(json, add_prefix_space) {
        notes.push(format!(
            "{part} of tokenizer.json is not used: GPT2Tokenizer of transformers 5 sets up GPT-2's own pipeline around the vocabulary"
        ));
    }
    Ok(engine)
}

/// The parts of a `tokenizer.json` that GPT-2's pipeline does not have.
fn unused_parts(json: &Value, add_prefix_space: bool) -> Vec<&'static str> {
    let is_set = |pointer: &str| {
        json.pointer(pointer)
            .is_some_and(|value| !value.is_null() && *value != false && *value != "" && *value != 0.0)
    };
    let rules = json.pointer("/pre_tokenizer").unwrap_or(&Value::Null);
    let gpt2_pieces = rules["type"] == "ByteLevel"
        && rules["add_prefix_space"] == add_prefix_space
        && rules.get("use_regex").is_none_or(|regex| *regex == true);
    let parts = [
        ("`normalizer`", is_set("/normalizer")),
        ("`pre_tokenizer`", !gpt2_pieces),
        ("`model.dropout`", is_set("/model/dropout")),
        ("`model.unk_token`", is_set("/model/unk_token")),
        ("`model.byte_fallback`", is_set("/model/byte_fallback")),
        ("`model.ignore_merges`", is_set("/model/ignore_merges")),
        ("`model.end_of_word_suffix`", is_set("/model/end_of_word_suffix")),
    ];
    parts.into_iter().filter_map(|(name, unused)| unused.then_some(name)).collect()
}

/// Without an unknown token, the library drops bytes that the vocabulary lacks, silently.
fn warn_of_missing_bytes(vocab: &Vocab) {
    let missing = ByteLevel::alphabet().iter().filter(|byte| !vocab.contains_key(&byte.to_string())).count();
    if missing > 0 {
        tracing::warn!(
            "the vocabulary lacks {missing} of 256 bytes; characters that need them are dropped from texts"
        );
    }
}

/// The tokenizer that a `tokenizer.json` describes, which [`check`](super::json::check) has passed.
pub(super) fn engine_from_json(path: &Path, json: &Value) -> Result<Engine> {
    if let Some((vocab, merges)) = bpe_of_json(json).map_err(|problem| Error::malformed(path, problem))? {
        let prefix = json.pointer("/model/continuing_subword_prefix").and_then(Value::as_str).unwrap_or("");
        check_merges(path, &merges, &vocab, prefix)?;
    }
    // Written anew: of a key that occurs twice, the library may read the occurrence that was not checked. Read by `FromStr`, which the library
    // compiles itself; `from_bytes` is generic and would be compiled here again.
    let text = serde_json::to_string(json).map_err(|cause| Error::malformed(path, cause))?;
    text.parse::<Engine>().map_err(|cause| Error::malformed(path, cause))
}

/// Vocabulary and merges of a `tokenizer.json`; `None` if its model is not BPE.
fn bpe_of_json(json: &Value) -> Result<Option<(Vocab, Merges)>, String> {
    let (Some(vocab), Some(merges)) = (
        json.pointer("/model/vocab").and_then(Value::as_object),
        json.pointer("/model/merges").and_then(Value::as_array),
    ) else {
        return Ok(None);
    };
    let mut known = Vocab::new();
    for (token, id) in vocab {
        let id = id.as_u64().filter(|&id| id <= MAX_ID);
        let id = id.ok_or_else(|| format!("token `{token}` has an impossible id"))?;
        known.insert(token.clone(), id as u32);
    }
    let pair = |(number, merge): (usize, &Value)| {
        let pair = match merge {
            Value::String(line) => line.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                _ => None,
            },
            _ => None,
        };
        let (a, b) = pair.ok_or_else(|| format!("merge {number} is not a pair of tokens"))?;
        Ok((a.to_owned(), b.to_owned()))
    };
    let merges = (1..).zip(merges).map(pair).collect::<Result<Merges, String>>()?;
    Ok(Some((known, merges)))
}

/// Whether this is a byte-level BPE like GPT-2's.
pub(super) fn is_byte_level(engine: &Engine) -> bool {
    matches!(engine.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(_)))
        && matches!(engine.get_model(), ModelWrapper::BPE(_))
}

/// `vocab.json` and `merges.txt` of a byte-level BPE as GPT-2 publishes them; `None` for any other kind.
pub(super) fn gpt2_files(engine: &Engine) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    if !is_byte_level(engine) {
        return Ok(None);
    }
    let described = serde_json::to_value(engine.get_model())
        .map_err(|cause| Error::Tokenizer { action: "describe", problem: cause.to_string() })?;
    let mut text = String::from("#version: 0.2\n");
    for merge in described.get("merges").and_then(Value::as_array).into_iter().flatten() {
        match merge {
            Value::String(line) => text.push_str(line),
            Value::Array(pair) => {
                let pair: Vec<&str> = pair.iter().filter_map(Value::as_str).collect();
                text.push_str(&pair.join(" "));
            }
            _ => {}
        }
        text.push('\n');
    }
    // Added tokens are part of GPT-2's own vocab.json.
    let mut vocab: Vec<(String, u32)> = engine.get_vocab(true).into_iter().collect();
    vocab.sort_by_key(|&(_, id)| id);
    let vocab: indexmap::IndexMap<String, u32> = vocab.into_iter().collect();
    let vocab = serde_json::to_vec(&vocab)
        .map_err(|cause| Error::Tokenizer { action: "describe", problem: cause.to_string() })?;
    Ok(Some((vocab, text.into_bytes())))
}

/// Tokens in order and merges of a byte-level BPE trained on texts, one id below `vocab_size` left for `<|endoftext|>`.
pub(super) fn train<'t>(
    texts: impl IntoIterator<Item = &'t str>,
    vocab_size: usize,
) -> Result<(Vec<String>, Merges)> {
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size.saturating_sub(1).max(256))
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut engine =
        engine(ByteLevel::alphabet().into_iter().map(|c| c.to_string()).zip(0..).collect(), vec![], false)?;
    let texts: Vec<&str> = texts.into_iter().collect();
    let mut model = BPE::default();
    {
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};
        let rules = ByteLevel::new(false, true, true);
        trainer
            .feed(texts.iter(), |text| {
                let mut pieces = PreTokenizedString::from(text);
                rules.pre_tokenize(&mut pieces)?;
                let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
                Ok(pieces.into_iter().map(|(piece, ..)| piece.to_owned()).collect())
            })
            .map_err(|cause| failed("train", cause))?;
        trainer.train(&mut model).map_err(|cause| failed("train", cause))?;
    }
    engine.with_model(ModelWrapper::from(model));
    let mut tokens: Vec<(String, u32)> = engine.get_model().get_vocab().into_iter().collect();
    tokens.sort_by_key(|&(_, id)| id);
    let described = serde_json::to_value(engine.get_model())
        .map_err(|cause| Error::Tokenizer { action: "describe", problem: cause.to_string() })?;
    let merges = described.get("merges").and_then(Value::as_array).into_iter().flatten();
    let merges = merges.filter_map(|merge| match merge.as_array().map(Vec::as_slice) {
        Some([Value::String(a), Value::String(b)]) => Some((a.clone(), b.clone())),
        _ => None,
    });
    let merges = merges.collect();
    Ok((tokens.into_iter().map(|(token, _)| token).collect(), merges))
}
