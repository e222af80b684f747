//! BPE as SentencePiece has it: merges that follow from the scores of the tokens, spaces as `▁`, bytes for what no token spells.

use serde_json::{Value, json};

use super::{Rules, Vocabulary, explicit_merges};
use crate::checkpoint::gguf::Metadata;
use crate::error::{Error, Result};
use crate::tokenizer::bpe::Merges;

/// Longest token of which merges are derived, in bytes. The work grows with the square; SentencePiece's own limit is 16 characters.
const MAX_TOKEN_BYTES: usize = 4096;

/// How SentencePiece spells a space.
const SPACE: &str = "\u{2581}";

pub(super) fn rules(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Rules> {
    let flag = |name: &str| metadata.get::<bool>(&format!("tokenizer.ggml.{name}"));
    if flag("remove_extra_whitespaces")?.unwrap_or(false) {
        let reason = "expected false: no rule here drops spaces";
        return Err(metadata.unsupported("tokenizer.ggml.remove_extra_whitespaces", "true", reason));
    }
    let begins_with_space = flag("add_space_prefix")?.unwrap_or(true);
    let merges = match explicit_merges(metadata)? {
        Some(merges) => merges,
        None => derived_merges(metadata, vocabulary)?,
    };
    let unknown = vocabulary.named(metadata, "unknown")?;
    let scheme = if begins_with_space { "first" } else { "never" };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    decoders
        .extend(begins_with_space.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
    Ok(Rules {
        normalizer: Value::Null,
        pre_tokenizer: json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false}),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        post_processor: Value::Null,
        unk_token: unknown.map(|(token, _)| token),
        fuse_unk: true,
        byte_fallback: true,
        ignore_merges: false,
        merges,
    })
}

/// Every way to put a token together from two others, best first: by the token's score, then by the length of the left and of the
/// right part, longer ones first (`generate_merges` in transformers' `tokenization_utils_base.py`).
fn derived_merges(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Merges> {
    let key = "tokenizer.ggml.scores";
    let scores = metadata.require::<Vec<f64>>(key)?;
    let damaged = |problem: String| Error::malformed(metadata.path(), problem);
    if scores.len() != vocabulary.tokens.len() {
        return Err(damaged(format!(
            "`{key}` has {} entries for {} tokens",
            scores.len(),
            vocabulary.tokens.len()
        )));
    }
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(damaged(format!("`{key}`: the score of token {id} is no number")));
    }
    let mut merges: Vec<(f64, usize, usize, &str, &str)> = Vec::new();
    for ((token, id), score) in vocabulary.tokens.iter().zip(scores) {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(damaged(format!(
                "token {id} has {} bytes, expected at most {MAX_TOKEN_BYTES}",
                token.len()
            )));
        }
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut parts: Vec<_> = cuts
            .filter_map(|(a, b)| Some(((*vocabulary.tokens.get(a)?, *vocabulary.tokens.get(b)?), (a, b))))
            .collect();
        parts.sort_by_key(|&(ids, _)| ids);
        merges
            .extend(parts.into_iter().map(|(_, (a, b))| (score, a.chars().count(), b.chars().count(), a, b)));
    }
    merges.sort_by(|x, y| y.0.total_cmp(&x.0).then(y.1.cmp(&x.1)).then(y.2.cmp(&x.2)));
    Ok(merges.into_iter().map(|(.., a, b)| (a.to_owned(), b.to_owned())).collect())
}
