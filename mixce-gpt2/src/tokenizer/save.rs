//! Writing a tokenizer's files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::source::SourceFiles;
use super::{Tokenizer, TokenizerClass, bpe, failed};
use crate::error::Result;
use crate::files;

const CONFIG: &str = "tokenizer_config.json";

impl Tokenizer {
    /// Writes the tokenizer's files into an existing folder. Files it was read from are copied byte for byte, but that a
    /// `tokenizer_config.json` without `tokenizer_class` gets one; of `tokenizer.json`, `vocab.json` and `merges.txt` (where they
    /// say all that the others say), `tokenizer_config.json` and `special_tokens_map.json` those that did not exist are made.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        for (name, bytes) in self.files()?.iter() {
            files::write_atomic(&dir.join(name), bytes)?;
        }
        Ok(())
    }

    /// Names and contents of what [`Tokenizer::save`] writes.
    fn files(&self) -> Result<SourceFiles> {
        let mut files = self.source.clone();
        let memory = Path::new("(memory)");
        let described = self.engine.to_string(true).map_err(|cause| failed("describe", cause))?;
        let whole = files.get("tokenizer.json").is_some();
        if !whole {
            files.insert("tokenizer.json", described.clone().into_bytes());
        }
        if files.get(CONFIG).is_none() {
            files.insert(CONFIG, pretty(&self.config()));
        } else {
            // The class may come from the config.json of another folder.
            let mut config = files.object(memory, CONFIG)?;
            if config.get("tokenizer_class").is_none_or(Value::is_null) {
                config.insert("tokenizer_class".to_owned(), json!(self.class.name()));
                files.insert(CONFIG, pretty(&config));
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
            let again = Self::from_source(memory, with_pair.clone().without("tokenizer.json"), &Map::new());
            if again.is_ok_and(|again| again.engine.to_string(true).is_ok_and(|text| text == described)) {
                files = with_pair;
            } else {
                tracing::info!("the tokenizer is written without vocab.json and merges.txt, which cannot hold all of it");
            }
        }
        Ok(files)
    }

    /// The named special tokens that a file names, or all of the class.
    fn special_tokens(&self) -> BTreeMap<&str, &str> {
        self.named.iter().map(|(name, named)| (name.as_str(), named.token.content.as_str())).collect()
    }

    /// A `tokenizer_config.json` for a tokenizer that came without one, sorted by name as transformers writes it.
    fn config(&self) -> BTreeMap<&str, Value> {
        let mut config: BTreeMap<&str, Value> =
            self.special_tokens().into_iter().map(|(name, token)| (name, json!(token))).collect();
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

fn pretty(value: &impl serde::Serialize) -> Vec<u8> {
    // Maps of text always have a textual form.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text.into_bytes()
}
