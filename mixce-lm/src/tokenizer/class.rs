//! Determines the transformers class that reads a folder (`models/auto/tokenization_auto.py` of transformers 5.23).

use indexmap::IndexMap;
use serde_json::Value;
use tokenizers::AddedToken;

use super::END_OF_TEXT;
use super::settings::NamedToken;
use super::source::{Object, SourceFiles};

/// The transformers class whose rules a tokenizer follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerClass {
    /// `GPT2Tokenizer`: takes vocabulary and merges, also out of `tokenizer.json`, and sets up GPT-2's pipeline around them.
    Gpt2,
    /// `RobertaTokenizer`: the same with other default tokens.
    Roberta,
    /// `BertTokenizer` over a `vocab.txt`.
    Bert,
    /// `PreTrainedTokenizerFast`: `tokenizer.json` as it is.
    Generic,
}

impl TokenizerClass {
    /// The name in transformers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "GPT2Tokenizer",
            Self::Roberta => "RobertaTokenizer",
            Self::Bert => "BertTokenizer",
            Self::Generic => "PreTrainedTokenizerFast",
        }
    }

    /// Whether the rules around the vocabulary are those of `tokenizer.json`, if there is one.
    pub(super) fn reads_pipeline(self) -> bool {
        matches!(self, Self::Bert | Self::Generic)
    }

    /// The class of a folder, and a note if that class is unknown.
    ///
    /// `model` is the content of `config.json`, `config` of `tokenizer_config.json`, `json` of `tokenizer.json`.
    pub(super) fn of(
        source: &SourceFiles,
        config: &Object,
        model: &Object,
        json: Option<&Value>,
    ) -> (Self, Option<String>) {
        let text = |object: &Object, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let asked = text(config, "tokenizer_class").or_else(|| text(model, "tokenizer_class"));
        let has = |name: &str| source.get(name).is_some();
        let is_bpe = json.is_none_or(|json| {
            json.pointer("/model/vocab").is_some_and(Value::is_object)
                && json.pointer("/model/merges").is_some_and(Value::is_array)
        });
        let has_bpe = if json.is_some() { is_bpe } else { has("vocab.json") && has("merges.txt") };
        // The fallback for unknown classes.
        let fallback = match json {
            Some(_) => Self::Generic,
            None if has_bpe => Self::Gpt2,
            None => Self::Bert,
        };
        let plain = asked.as_deref().map(|name| name.strip_suffix("Fast").unwrap_or(name));
        let family = plain.map_or_else(|| text(model, "model_type"), |_| None);
        let class = match (plain, family.as_deref()) {
            (Some("GPT2Tokenizer"), _) | (None, Some("gpt2")) if has_bpe => Self::Gpt2,
            (Some("RobertaTokenizer"), _) | (None, Some("roberta")) if has_bpe => Self::Roberta,
            _ => fallback,
        };
        let known = [
            "GPT2Tokenizer",
            "RobertaTokenizer",
            "BertTokenizer",
            "PreTrainedTokenizer",
            "TokenizersBackend",
        ];
        let note = plain.filter(|name| !known.contains(name)).map(|asked| {
            let how = match class {
                Self::Generic => "tokenizer.json is read as it is",
                _ => "the vocabulary is read as that of a",
            };
            let of = if class == Self::Generic { String::new() } else { format!(" {}", class.name()) };
            format!("tokenizer class `{asked}` is not known: {how}{of}")
        });
        (class, note)
    }

    /// The class's default special tokens.
    pub(super) fn default_tokens(self) -> IndexMap<String, NamedToken> {
        let tokens: &[(&str, &str)] = match self {
            Self::Gpt2 => {
                &[("bos_token", END_OF_TEXT), ("eos_token", END_OF_TEXT), ("unk_token", END_OF_TEXT)]
            }
            Self::Roberta => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
                ("sep_token", "</s>"),
                ("pad_token", "<pad>"),
                ("cls_token", "<s>"),
                ("mask_token", "<mask>"),
            ],
            Self::Bert => &[
                ("unk_token", "[UNK]"),
                ("sep_token", "[SEP]"),
                ("pad_token", "[PAD]"),
                ("cls_token", "[CLS]"),
                ("mask_token", "[MASK]"),
            ],
            Self::Generic => &[],
        };
        let named = |&(name, text): &(&str, &str)| {
            (name.to_owned(), NamedToken { token: AddedToken::from(text, true), by_default: true })
        };
        tokens.iter().map(named).collect()
    }
}
