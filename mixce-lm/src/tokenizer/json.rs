//! Checks a `tokenizer.json` before the `tokenizers` library builds a tokenizer from it.
//!
//! The library allocates what a number asks for and panics on several values. Unknown fields are left to it.

use serde_json::{Map, Value};

use super::charsmap;
use super::growth::{MAX_GROWTH, replacement_growth};

/// Largest token id: published vocabularies have up to 1.1 million tokens, and a model has a row for each.
pub(super) const MAX_ID: u64 = (1 << 24) - 1;
/// Most tokens of a vocabulary, and most added tokens.
pub(super) const MAX_TOKENS: usize = 1 << 21;
/// Most merges of a BPE.
const MAX_MERGES: usize = 1 << 22;
/// Longest token.
const MAX_TOKEN_BYTES: usize = 4096;
/// Longest token of a Unigram model, whose trie is recursive.
const MAX_PIECE_BYTES: usize = 1024;
/// Most bytes of all tokens of a Unigram model: its trie takes about 300 bytes for each.
const MAX_PIECES_BYTES: usize = 8 << 20;
/// Most bytes of all added tokens: their automaton takes about 100 bytes for each.
const MAX_ADDED_BYTES: usize = 16 << 20;
/// Longest word that WordPiece takes apart, in time that grows with the square; 100 is usual.
const MAX_WORD_CHARS: u64 = 4096;
/// Most steps of a normalizer, pre-tokenizer, post-processor or decoder; published ones have up to a dozen.
const MAX_STEPS: usize = 64;
/// Most pre-tokenizers of a kind that lengthens the text.
const MAX_LENGTHENING: usize = 2;
/// Longest pattern or replacement.
const MAX_PATTERN_BYTES: usize = 16 << 10;
/// Longest piece that `FixedLength` makes.
const MAX_FIXED_LENGTH: u64 = 1 << 16;
/// Most tokens that a template adds to a text.
const MAX_TEMPLATE_TOKENS: usize = 256;

/// A normalizer, pre-tokenizer, post-processor or decoder that contains no others.
#[derive(Debug)]
pub(super) struct Component<'j> {
    /// Its place: `normalizer.normalizers[2]`.
    pub(super) at: String,
    pub(super) value: &'j Value,
}

/// The components under a key of a `tokenizer.json`, in their order.
pub(super) fn components<'j>(json: &'j Value, key: &str) -> Result<Vec<Component<'j>>, String> {
    let mut found = Vec::new();
    if let Some(value) = json.get(key).filter(|value| !value.is_null()) {
        flatten(key.to_owned(), value, &mut found);
    }
    match found.len() > MAX_STEPS {
        true => Err(format!("`{key}` has {} steps; at most {MAX_STEPS} are supported", found.len())),
        false => Ok(found),
    }
}

/// Recursion is limited by the depth that the JSON parser allows.
fn flatten<'j>(at: String, value: &'j Value, found: &mut Vec<Component<'j>>) {
    let mut is_sequence = false;
    for key in ["normalizers", "pretokenizers", "processors", "decoders"] {
        for (i, step) in value.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
            is_sequence = true;
            flatten(format!("{at}.{key}[{i}]"), step, found);
        }
    }
    if !is_sequence {
        found.push(Component { at, value });
    }
}

/// Checks everything that the library would not survive.
pub(super) fn check(json: &Value) -> Result<(), String> {
    check_tokens(json)?;
    for component in components(json, "normalizer")? {
        check_component(&component)?;
    }
    let pre_tokenizers = components(json, "pre_tokenizer")?;
    for component in &pre_tokenizers {
        check_component(component)?;
    }
    for kind in ["ByteLevel", "Metaspace"] {
        let count = pre_tokenizers.iter().filter(|component| component.value["type"] == kind).count();
        if count > MAX_LENGTHENING {
            return Err(format!(
                "`pre_tokenizer` has {count} steps `{kind}`; at most {MAX_LENGTHENING} are supported"
            ));
        }
    }
    check_post_processor(json)?;
    check_decoder(json)
}

/// Checks the post-processor.
pub(super) fn check_post_processor(json: &Value) -> Result<(), String> {
    for Component { at, value } in components(json, "post_processor")? {
        if value.get("single").is_some() || value.get("pair").is_some() {
            check_template(value).map_err(|problem| format!("`{at}` {problem}"))?;
        }
    }
    Ok(())
}

/// Checks vocabulary, merges and added tokens.
pub(super) fn check_tokens(json: &Value) -> Result<(), String> {
    let model = json.get("model").ok_or("no `model`")?;
    check_vocabulary(model)?;
    let merges = model.get("merges").and_then(Value::as_array).map_or(0, Vec::len);
    at_most("model.merges", "merges", merges, MAX_MERGES)?;
    for key in ["unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
        let bytes = model.get(key).and_then(Value::as_str).map_or(0, str::len);
        at_most(&format!("model.{key}"), "bytes", bytes, MAX_TOKEN_BYTES)?;
    }
    if let Some(chars) = model.get("max_input_chars_per_word").filter(|n| n.as_u64() > Some(MAX_WORD_CHARS)) {
        let problem = format!("is {chars}; at most {MAX_WORD_CHARS} is supported");
        return Err(format!("`model.max_input_chars_per_word` {problem}"));
    }
    let added = json.get("added_tokens").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    at_most("added_tokens", "tokens", added.len(), MAX_TOKENS)?;
    check_added(added.iter().filter_map(|token| token.get("content")?.as_str()))
}

/// Checks the texts of added tokens.
pub(super) fn check_added<'t>(tokens: impl Iterator<Item = &'t str>) -> Result<(), String> {
    let mut bytes = 0usize;
    for token in tokens {
        at_most("added_tokens", "bytes in one token", token.len(), MAX_TOKEN_BYTES)?;
        bytes += token.len();
    }
    at_most("added_tokens", "bytes in all", bytes, MAX_ADDED_BYTES)
}

fn check_vocabulary(model: &Value) -> Result<(), String> {
    match model.get("vocab") {
        Some(Value::Object(vocab)) => check_ids(vocab),
        Some(Value::Array(pieces)) => {
            at_most("model.vocab", "tokens", pieces.len(), MAX_TOKENS)?;
            let mut bytes = 0usize;
            for piece in pieces.iter().filter_map(|piece| piece.get(0)?.as_str()) {
                at_most("model.vocab", "bytes in one token", piece.len(), MAX_PIECE_BYTES)?;
                bytes += piece.len();
            }
            at_most("model.vocab", "bytes in all", bytes, MAX_PIECES_BYTES)
        }
        _ => Ok(()),
    }
}

fn check_ids(vocab: &Map<String, Value>) -> Result<(), String> {
    at_most("model.vocab", "tokens", vocab.len(), MAX_TOKENS)?;
    for (token, id) in vocab {
        at_most("model.vocab", "bytes in one token", token.len(), MAX_TOKEN_BYTES)?;
        if id.as_u64().is_none_or(|id| id > MAX_ID) {
            return Err(format!(
                "`model.vocab`: token `{token}` has the impossible id {id}: expected 0 to {MAX_ID}"
            ));
        }
    }
    Ok(())
}

fn check_component(component: &Component<'_>) -> Result<(), String> {
    let Component { at, value } = component;
    if let Some(table) = value.get("precompiled_charsmap").and_then(Value::as_str) {
        charsmap::check(table).map_err(|problem| format!("`{at}.precompiled_charsmap` {problem}"))?;
    }
    if let Some(pattern) = value.get("pattern") {
        check_pattern(at, pattern)?;
    }
    for key in ["content", "prepend"] {
        let bytes = value.get(key).and_then(Value::as_str).map_or(0, str::len);
        at_most(&format!("{at}.{key}"), "bytes", bytes, MAX_PATTERN_BYTES)?;
    }
    if value["type"] == "FixedLength" {
        // A missing length has a default.
        let length = value.get("length").map_or(Some(1), Value::as_u64);
        if !length.is_some_and(|length| (1..=MAX_FIXED_LENGTH).contains(&length)) {
            let got = value.get("length").unwrap_or(&Value::Null);
            return Err(format!("`{at}.length` is {got}; expected 1 to {MAX_FIXED_LENGTH}"));
        }
    }
    Ok(())
}

fn check_pattern(at: &str, pattern: &Value) -> Result<(), String> {
    for key in ["String", "Regex"] {
        let Some(text) = pattern.get(key).and_then(Value::as_str) else { continue };
        if text.is_empty() {
            return Err(format!("`{at}.pattern` is empty"));
        }
        at_most(&format!("{at}.pattern"), "bytes", text.len(), MAX_PATTERN_BYTES)?;
    }
    Ok(())
}

/// A template: the library looks its special tokens up without checking that they exist, and repeats what it names more than once.
fn check_template(template: &Value) -> Result<(), String> {
    for key in ["single", "pair"] {
        let pieces = template.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut sequences: Vec<&str> = Vec::new();
        let mut tokens = 0;
        for piece in pieces {
            let id = |kind: &str| piece.get(kind)?.get("id")?.as_str();
            if let Some(id) = id("Sequence") {
                let is_known = id == "A" || (id == "B" && key == "pair");
                if !is_known || sequences.contains(&id) {
                    return Err(format!(
                        "`{key}` names the sequence `{id}`, which is not there or used twice"
                    ));
                }
                sequences.push(id);
            }
            if let Some(id) = id("SpecialToken") {
                let ids =
                    template.get("special_tokens").and_then(|tokens| tokens.get(id)?.get("ids")?.as_array());
                tokens += ids
                    .ok_or_else(|| format!("`{key}` names `{id}`, which is not in `special_tokens`"))?
                    .len();
            }
        }
        at_most(key, "special tokens", tokens, MAX_TEMPLATE_TOKENS)?;
    }
    Ok(())
}

fn check_decoder(json: &Value) -> Result<(), String> {
    let mut growth = 1usize;
    for component in components(json, "decoder")? {
        check_component(&component)?;
        let value = component.value;
        let factor = match (value.get("pattern"), value.get("content").and_then(Value::as_str)) {
            (Some(pattern), Some(content)) => replacement_growth(pattern, content),
            // An empty suffix or delimiter becomes a space between any two characters.
            _ if value["type"] == "BPEDecoder" || value["type"] == "CTC" => 2,
            _ => 1,
        };
        growth = growth.saturating_mul(factor);
    }
    at_most("decoder", "times the length of a token in its result", growth, MAX_GROWTH)
}

pub(super) fn at_most(at: &str, unit: &str, count: usize, limit: usize) -> Result<(), String> {
    match count > limit {
        true => Err(format!("`{at}` has {count} {unit}; at most {limit} are supported")),
        false => Ok(()),
    }
}

/// Removes what does not apply: truncation and padding, as in transformers, and BPE-dropout, which makes encodings random. Returns the
/// dropout that was removed.
pub(super) fn remove_unused(json: &mut Value) -> Option<f64> {
    for key in ["truncation", "padding"] {
        if let Some(value) = json.get_mut(key) {
            *value = Value::Null;
        }
    }
    let dropout = json.pointer_mut("/model/dropout").map(Value::take);
    dropout.as_ref().and_then(Value::as_f64).filter(|&rate| rate != 0.0)
}
