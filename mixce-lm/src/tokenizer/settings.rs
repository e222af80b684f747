//! Reads the tokenizer settings like transformers 5.23 (`tokenization_utils_base.py`, `_from_pretrained`): the class, the named tokens,
//! the added tokens.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;
use tokenizers::AddedToken;

use super::class::TokenizerClass;
use super::opening;
use super::source::{Object, SourceFiles};
use crate::error::{Error, Result};

/// transformers' names for special tokens, in the order in which it adds them.
pub(super) const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// A named token and its source.
#[derive(Debug, Clone)]
pub(super) struct NamedToken {
    pub(super) token: AddedToken,
    /// Named by the class, not by a file.
    pub(super) by_default: bool,
}

/// Tokens under names that are not transformers' own (`image_token`), which are added after the others.
#[derive(Default)]
struct OtherNames {
    /// Those that transformers comes upon when it sets up the class: they are added first.
    found: IndexMap<String, NamedToken>,
    /// Those that it takes out of `tokenizer_config.json` before.
    declared: IndexMap<String, NamedToken>,
}

/// The settings in a tokenizer's files.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) class: TokenizerClass,
    /// Special tokens by name, in the order in which they are added.
    pub(super) named: IndexMap<String, NamedToken>,
    /// Special tokens without a name of their own.
    pub(super) extra: Vec<AddedToken>,
    /// Tokens with the ids that the files give them.
    pub(super) added: BTreeMap<u32, AddedToken>,
    pub(super) add_prefix_space: bool,
    /// Whether BERT's tokenizer lowers the case of letters; most do.
    pub(super) do_lower_case: bool,
    pub(super) split_special_tokens: bool,
    /// Whether `tokenizer_config.json` asks for BOS before every text, or against it.
    pub(super) add_bos: Option<bool>,
    /// Deviations from the files.
    pub(super) notes: Vec<String>,
}

impl Settings {
    /// The defaults without such files.
    pub(super) fn of_class(class: TokenizerClass) -> Self {
        Self {
            class,
            named: class.default_tokens(),
            extra: Vec::new(),
            added: BTreeMap::new(),
            add_prefix_space: false,
            do_lower_case: true,
            split_special_tokens: false,
            add_bos: None,
            notes: Vec::new(),
        }
    }

    /// Reads the files of a folder. `json` is the parsed `tokenizer.json`.
    pub(super) fn read(
        dir: &Path,
        source: &SourceFiles,
        json: Option<&Value>,
        class: TokenizerClass,
    ) -> Result<Self> {
        let config = source.object(dir, CONFIG)?;
        let nested = |name: &str| source.nested(dir, name, "extra_special_tokens");
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let mut settings = Self::of_class(class);
        settings.add_prefix_space = flag("add_prefix_space").unwrap_or(settings.add_prefix_space);
        settings.do_lower_case = flag("do_lower_case").unwrap_or(settings.do_lower_case);
        settings.split_special_tokens = flag("split_special_tokens").unwrap_or(settings.split_special_tokens);
        settings.add_bos = opening::asked_for(&config);
        let mut other = OtherNames::default();
        settings.read_named(&dir.join(CONFIG), &config, nested(CONFIG)?, &mut other)?;
        let map = source.object(dir, MAP)?;
        let decoder = config.get("added_tokens_decoder").filter(|value| !value.is_null());
        match decoder {
            Some(decoder) => {
                settings.added = decoder_tokens(&dir.join(CONFIG), decoder)?;
                settings.note_ignored_map(&map);
            }
            None => {
                settings.read_named(&dir.join(MAP), &map, nested(MAP)?, &mut other)?;
                settings.read_added(dir, source)?;
                settings.read_json_tokens(dir, json)?;
            }
        }
        let map_counts = decoder.is_none() && map.contains_key("pad_token");
        if !map_counts && !config.contains_key("pad_token") {
            settings.name_padding(json);
        }
        settings.named.sort_by_cached_key(|name, _| NAMES.iter().position(|known| known == name));
        settings.named.extend(other.found);
        settings.named.extend(other.declared);
        settings.note_flags(&config, json);
        Ok(settings)
    }

    /// Named and extra special tokens of `tokenizer_config.json` or `special_tokens_map.json`; later files override earlier ones.
    /// Names that are not transformers' own go to `other`.
    fn read_named(
        &mut self,
        path: &Path,
        object: &Object,
        named_extra: Object,
        other: &mut OtherNames,
    ) -> Result<()> {
        let named = |token| NamedToken { token, by_default: false };
        for (key, value) in object.iter().filter(|(key, _)| key.ends_with("_token")) {
            let known = NAMES.contains(&key.as_str());
            match special_token(value).map_err(|problem| at_key(path, key, &problem))? {
                Some(token) if known => drop(self.named.insert(key.clone(), named(token))),
                Some(token) if value.is_string() && path.ends_with(CONFIG) => {
                    drop(other.declared.insert(key.clone(), named(token)));
                }
                Some(token) => drop(other.found.insert(key.clone(), named(token))),
                // `add_bos_token` and the like are not tokens; a null removes the class's default.
                None if known => drop(self.named.shift_remove(key)),
                None => {}
            }
        }
        for (name, value) in named_extra {
            let token = special_token(&value).map_err(|problem| at_key(path, &name, &problem))?;
            other.declared.extend(token.map(|token| (name, named(token))));
        }
        for key in ["extra_special_tokens", "additional_special_tokens"] {
            let damaged = |problem: String| at_key(path, key, &problem);
            let tokens = object.get(key).and_then(Value::as_array);
            // The old name counts only where the new one is not used.
            let counts = key == "extra_special_tokens" || self.extra.is_empty();
            for value in tokens.filter(|_| counts).into_iter().flatten() {
                let token = special_token(value).map_err(damaged)?;
                self.extra
                    .push(token.ok_or_else(|| damaged("contains something that is not a token".to_owned()))?);
            }
        }
        Ok(())
    }

    /// `added_tokens.json`: an object from token to id. A token is special if a file names it as one.
    fn read_added(&mut self, dir: &Path, source: &SourceFiles) -> Result<()> {
        for (text, id) in source.object(dir, ADDED)? {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| {
                Error::malformed(&dir.join(ADDED), format!("token `{text}` has no id: expected an integer"))
            })?;
            let named = self.named.values().filter(|named| !named.by_default).map(|named| &named.token);
            let special = named.chain(&self.extra).any(|token| token.content == text);
            self.added.insert(id, AddedToken::from(text, special));
        }
        Ok(())
    }

    /// The `added_tokens` of `tokenizer.json`, each an object with its id.
    fn read_json_tokens(&mut self, dir: &Path, json: Option<&Value>) -> Result<()> {
        let path = dir.join("tokenizer.json");
        for value in json.and_then(|json| json.get("added_tokens")?.as_array()).into_iter().flatten() {
            let id = value.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            let token = described(value, false).map_err(|problem| at_key(&path, "added_tokens", &problem))?;
            match (id, token) {
                (Some(id), Some(token)) => drop(self.added.insert(id, token)),
                _ => return Err(at_key(&path, "added_tokens", "has a damaged entry")),
            }
        }
        Ok(())
    }

    /// A generic tokenizer takes its padding token from `tokenizer.json` where nothing else names one.
    fn name_padding(&mut self, json: Option<&Value>) {
        let token = json.and_then(|json| json.get("padding")?.get("pad_token")?.as_str());
        if let Some(token) = token.filter(|_| self.class == TokenizerClass::Generic) {
            let token = AddedToken::from(token, true);
            self.named.insert("pad_token".to_owned(), NamedToken { token, by_default: false });
        }
    }

    fn note_ignored_map(&mut self, map: &Object) {
        for (name, value) in map.iter().filter(|(name, _)| NAMES.contains(&name.as_str())) {
            let Ok(Some(token)) = special_token(value) else { continue };
            if self.named.get(name).is_none_or(|named| named.token.content != token.content) {
                self.notes.push(format!(
                    "`{name}` = `{}` of {MAP} is not used: {CONFIG} has `added_tokens_decoder`, and transformers then reads no {MAP}",
                    token.content
                ));
            }
        }
    }

    fn note_flags(&mut self, config: &Object, json: Option<&Value>) {
        let set = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
        if set("add_eos_token") {
            self.notes.push(format!(
                "`add_eos_token` of {CONFIG} is not applied: documents get a trailing EOS, prompts do not"
            ));
        }
        let is_bpe = json.is_none_or(|json| json.pointer("/model/merges").is_some());
        if set("clean_up_tokenization_spaces") && is_bpe && self.class != TokenizerClass::Bert {
            self.notes.push(format!(
                "`clean_up_tokenization_spaces` of {CONFIG} is not applied: transformers does not apply it to a BPE either"
            ));
        }
        if set("add_prefix_space") && self.class == TokenizerClass::Generic {
            self.notes.push(format!(
                "`add_prefix_space` of {CONFIG} is not applied: for this class transformers takes it from tokenizer.json"
            ));
        }
    }
}

/// `added_tokens_decoder`: an object from id to described token.
fn decoder_tokens(path: &Path, decoder: &Value) -> Result<BTreeMap<u32, AddedToken>> {
    let key = "added_tokens_decoder";
    let object = decoder.as_object().ok_or_else(|| at_key(path, key, "is not an object"))?;
    let mut tokens = BTreeMap::new();
    for (id, value) in object {
        let damaged = || at_key(path, key, &format!("has a damaged entry `{id}`"));
        let token = described(value, false).map_err(|_| damaged())?.ok_or_else(damaged)?;
        tokens.insert(id.parse().map_err(|_| damaged())?, token);
    }
    Ok(tokens)
}

/// A special token: its text, or an object that describes it. `None` for null, true and false.
fn special_token(value: &Value) -> Result<Option<AddedToken>, String> {
    match value {
        Value::String(text) => Ok(Some(AddedToken::from(text.clone(), true))),
        Value::Object(_) => described(value, true).map(|token| token.map(|token| token.special(true))),
        Value::Null | Value::Bool(_) => Ok(None),
        other => Err(format!("is not a token: `{other}`")),
    }
}

/// A token as an object with its text under `content`; flags that are missing have transformers' defaults.
fn described(value: &Value, special: bool) -> Result<Option<AddedToken>, String> {
    let Some(content) = value.get("content").and_then(Value::as_str) else {
        return Err("has a token without `content`".to_owned());
    };
    let flag = |key: &str, default: bool| match value.get(key) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(format!("has a token `{content}` whose `{key}` is `{other}`")),
    };
    let special = flag("special", special)?;
    Ok(Some(AddedToken {
        content: content.to_owned(),
        single_word: flag("single_word", false)?,
        lstrip: flag("lstrip", false)?,
        rstrip: flag("rstrip", false)?,
        normalized: flag("normalized", !special)?,
        special,
    }))
}

fn at_key(path: &Path, key: &str, problem: &str) -> Error {
    Error::malformed(path, format!("`{key}` {problem}"))
}
