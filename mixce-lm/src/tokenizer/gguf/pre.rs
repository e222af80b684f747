//! Byte-level BPE: how a text is cut before its pieces are merged, by the names under `tokenizer.ggml.pre`.

use serde_json::{Value, json};

use super::Rules;
use crate::checkpoint::gguf::Gguf;
use crate::error::{Error, Result};
use crate::tokenizer::bpe::Merges;

/// Llama 3's cuts: as Qwen 2's, but for digits, of which up to three stay together.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Of Mistral's tokenizers since Nemo.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The regular expressions above. With each, a space that a letter follows begins a piece, whatever stands before it.
pub(in crate::tokenizer) const WORD_PATTERNS: [&str; 3] = [LLAMA_3, QWEN_2, TEKKEN];

/// How a text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cuts {
    /// GPT-2's regular expression.
    Gpt2,
    /// The same, with every digit on its own.
    Digits,
    /// Another regular expression.
    Regex(&'static str),
}

/// A pre-tokenizer of llama.cpp.
struct Pre {
    names: &'static [&'static str],
    cuts: Cuts,
    /// Whether the published tokenizer composes characters first (Unicode's NFC), which llama.cpp and transformers' GGUF reader do not.
    composes: bool,
    /// Whether a piece that is a token stays whole, whatever the merges say.
    ignores_merges: bool,
}

const KNOWN: [Pre; 5] = [
    Pre { names: &["gpt-2"], cuts: Cuts::Gpt2, composes: false, ignores_merges: false },
    Pre { names: &["smollm", "starcoder"], cuts: Cuts::Digits, composes: false, ignores_merges: false },
    Pre {
        names: &["llama-bpe", "llama-v3", "llama3"],
        cuts: Cuts::Regex(LLAMA_3),
        composes: false,
        ignores_merges: true,
    },
    Pre { names: &["qwen2"], cuts: Cuts::Regex(QWEN_2), composes: true, ignores_merges: false },
    Pre { names: &["tekken"], cuts: Cuts::Regex(TEKKEN), composes: false, ignores_merges: true },
];

const KEY: &str = "tokenizer.ggml.pre";

/// The rules of a byte-level BPE, and what is worth a note.
pub(super) fn rules(gguf: &Gguf, merges: Option<Merges>) -> Result<(Rules, Option<String>)> {
    let metadata = gguf.metadata();
    let named = metadata.get::<String>(KEY)?;
    let of = |name: &str| KNOWN.iter().find(|pre| pre.names.contains(&name));
    let (pre, note) = match named.as_deref() {
        Some("default") => {
            (of("gpt-2"), Some(format!("`{KEY}` = `default` names no rules: GPT-2's are used")))
        }
        Some(name) => (of(name), None),
        // Files from before May 2024 have no such key. For this architecture there is one answer.
        None if gguf.architecture()? == "gpt2" => (of("gpt-2"), None),
        None => (None, None),
    };
    let Some(pre) = pre else {
        let known = KNOWN.iter().flat_map(|pre| pre.names).copied().collect::<Vec<_>>().join(", ");
        let named = named.unwrap_or_else(|| "(missing)".to_owned());
        return Err(metadata.unsupported(
            KEY,
            named,
            format!("known pre-tokenizers are {known} and default"),
        ));
    };
    let missing = || Error::malformed(metadata.path(), "no metadata key `tokenizer.ggml.merges`");
    let rules = Rules {
        normalizer: if pre.composes { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre_tokenizer(pre.cuts),
        decoder: byte_level(true),
        post_processor: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true}),
        unk_token: None,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: pre.ignores_merges,
        merges: merges.ok_or_else(missing)?,
    };
    Ok((rules, note))
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn pre_tokenizer(cuts: Cuts) -> Value {
    let sequence = |first: Value, last: Value| json!({"type": "Sequence", "pretokenizers": [first, last]});
    match cuts {
        Cuts::Gpt2 => byte_level(true),
        Cuts::Digits => sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true)),
        Cuts::Regex(regex) => {
            let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
            sequence(split, byte_level(false))
        }
    }
}
