//! The files of a tokenizer, kept as read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

/// The file names of tokenizers in transformers.
const NAMES: [&str; 7] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Largest file: the largest published ones have about 35 MB. Parsed JSON can take 25 times the memory.
const MAX_FILE_BYTES: u64 = 96 << 20;

/// A JSON object in the order of its file, which decides the ids of some tokens.
pub(super) type Object = IndexMap<String, Value>;

/// Names and bytes of the files that were there.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceFiles(BTreeMap<&'static str, Arc<[u8]>>);

impl SourceFiles {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let mut found = BTreeMap::new();
        for name in NAMES {
            let path = dir.join(name);
            if path.exists() {
                found.insert(name, files::read_bytes(&path, MAX_FILE_BYTES)?.into());
            }
        }
        Ok(Self(found))
    }

    /// Whether they have the tokens of any kind of tokenizer.
    pub(super) fn has_vocabulary(&self) -> bool {
        ["tokenizer.json", "vocab.json", "vocab.txt"].iter().any(|name| self.get(name).is_some())
    }

    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|bytes| &**bytes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (*name, &**bytes))
    }

    /// The content of a JSON file; empty where there is no such file.
    pub(super) fn object(&self, dir: &Path, name: &str) -> Result<Object> {
        self.get(name).map_or_else(|| Ok(Object::new()), |bytes| parse(&dir.join(name), bytes))
    }

    /// The object under a key of a JSON file; empty where there is none.
    pub(super) fn nested(&self, dir: &Path, name: &str, key: &str) -> Result<Object> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Field {
            Object(Object),
            Other(IgnoredAny),
        }
        let Some(bytes) = self.get(name) else { return Ok(Object::new()) };
        let mut fields: IndexMap<String, Field> =
            serde_json::from_slice(bytes).map_err(|cause| Error::malformed(&dir.join(name), cause))?;
        match fields.swap_remove(key) {
            Some(Field::Object(object)) => Ok(object),
            Some(Field::Other(_)) | None => Ok(Object::new()),
        }
    }

    pub(super) fn insert(&mut self, name: &'static str, bytes: Vec<u8>) {
        self.0.insert(name, bytes.into());
    }

    /// The same files without one of them.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }
}

/// The content of a JSON file of a model's folder; empty where there is no such file.
pub(super) fn model_object(dir: &Path, name: &str) -> Result<Object> {
    match dir.join(name) {
        path if path.exists() => parse(&path, &files::read_bytes(&path, MAX_FILE_BYTES)?),
        _ => Ok(Object::new()),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Object> {
    serde_json::from_slice(bytes).map_err(|cause| Error::malformed(path, cause))
}
