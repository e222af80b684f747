//! Selects the files of a checkpoint, and validates file names.

use std::{collections::BTreeSet, fs, io::Read, path::Path};

use crate::error::{Error, Result};

/// The model's configuration, which is required.
pub(crate) const CONFIG: &str = "config.json";
/// All weights in one file.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// The table from tensor names to shard files.
pub(crate) const SHARD_INDEX: &str = "model.safetensors.index.json";
/// PyTorch's pickled weights; used only if there are no others.
pub(crate) const PYTORCH_WEIGHTS: &str = "pytorch_model.bin";
/// Optional files.
const OPTIONAL: [&str; 11] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    // Pooling settings of sentence encoders.
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];
/// No shard index is larger: it has a line a tensor.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// The weights that were found, best first: one safetensors file, shards, a PyTorch file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weights {
    Single(&'static str),
    Sharded,
    /// A tokenizer has none.
    None,
}

/// The part of a repository to download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Configuration, tokenizer and weights.
    Model,
    /// The tokenizer's files, and the configurations beside it.
    Tokenizer,
}

/// The files to fetch, before the shards are known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    small: Vec<&'static str>,
    weights: Weights,
}

impl Plan {
    /// What to fetch for a part; `Err` says what is missing.
    pub(super) fn of(part: Part, exists: impl Fn(&str) -> bool) -> std::result::Result<Self, &'static str> {
        match part {
            Part::Model => Self::choose(exists),
            Part::Tokenizer => Self::tokenizer(exists),
        }
    }

    fn tokenizer(exists: impl Fn(&str) -> bool) -> std::result::Result<Self, &'static str> {
        let is_whole =
            exists("tokenizer.json") || exists("vocab.txt") || (exists("vocab.json") && exists("merges.txt"));
        if !is_whole {
            return Err("a tokenizer (`tokenizer.json`, `vocab.json` with `merges.txt`, or `vocab.txt`)");
        }
        let of_encoder = |name: &&str| {
            ["modules.json", "sentence_bert_config.json", "1_Pooling/config.json"].contains(name)
        };
        let small = [CONFIG].into_iter().chain(OPTIONAL).filter(|name| !of_encoder(name) && exists(name));
        Ok(Self { small: small.collect(), weights: Weights::None })
    }

    /// Chooses among the files that exist; `Err` says what is missing.
    pub(crate) fn choose(exists: impl Fn(&str) -> bool) -> std::result::Result<Self, &'static str> {
        if !exists(CONFIG) {
            return Err("`config.json`");
        }
        let weights = if exists(WEIGHTS) {
            Weights::Single(WEIGHTS)
        } else if exists(SHARD_INDEX) {
            Weights::Sharded
        } else if exists(PYTORCH_WEIGHTS) {
            Weights::Single(PYTORCH_WEIGHTS)
        } else {
            return Err(
                "weights (`model.safetensors`, `model.safetensors.index.json` or `pytorch_model.bin`)",
            );
        };
        let small = [CONFIG].into_iter().chain(OPTIONAL).filter(|name| exists(name)).collect();
        Ok(Self { small, weights })
    }

    /// The files that are known without reading another one.
    pub(crate) fn first(&self) -> impl Iterator<Item = &'static str> {
        let index = (self.weights == Weights::Sharded).then_some(SHARD_INDEX);
        self.small.iter().copied().chain(index)
    }

    /// The weight files, read from the shard index in `folder` if there is one.
    pub(crate) fn weights(&self, folder: &Path, repository: &str) -> Result<Vec<String>> {
        match self.weights {
            Weights::Single(name) => Ok(vec![name.to_owned()]),
            Weights::None => Ok(Vec::new()),
            Weights::Sharded => shards(&folder.join(SHARD_INDEX), repository),
        }
    }
}

/// The names of the shard files in an index, each once, in order.
fn shards(path: &Path, repository: &str) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let bad = |reason: String| Error::ShardIndex { path: path.to_owned(), reason };
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(Error::io("open", path))?;
    file.take(MAX_INDEX_BYTES + 1).read_to_end(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > MAX_INDEX_BYTES {
        return Err(bad(format!("it is larger than {MAX_INDEX_BYTES} bytes")));
    }
    let index: Index = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(bad("its `weight_map` is empty".to_owned()));
    }
    for name in &names {
        check_name("shard", name, repository)?;
    }
    Ok(names.into_iter().collect())
}

/// Refuses a file name that, joined to a folder, could lead outside it on any system.
pub(crate) fn check_name(what: &'static str, name: &str, repository: &str) -> Result<()> {
    let harmless = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && !part.contains(['\\', ':', '\0'])
            && !part.ends_with(' ')
    };
    if name.len() <= 1024 && name.split('/').all(harmless) {
        Ok(())
    } else {
        Err(Error::UnsafeName {
            what,
            name: name.chars().take(200).collect(),
            repository: repository.to_owned(),
        })
    }
}

/// Refuses an etag or commit that is not one plain word, since it becomes the name of a file or folder.
pub(crate) fn check_word(what: &'static str, word: &str, repository: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=128).contains(&word.len()) && word.bytes().all(plain) {
        Ok(())
    } else {
        Err(Error::UnsafeName {
            what,
            name: word.chars().take(200).collect(),
            repository: repository.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(files: &[&str]) -> std::result::Result<Plan, &'static str> {
        Plan::choose(|name| files.contains(&name))
    }

    #[test]
    fn safetensors_come_before_shards_and_pickles() {
        let here = Path::new("/nowhere");
        let all =
            choose(&[CONFIG, WEIGHTS, SHARD_INDEX, PYTORCH_WEIGHTS, "tf_model.h5", "vocab.json"]).unwrap();
        assert_eq!(all.first().collect::<Vec<_>>(), [CONFIG, "vocab.json"]);
        assert_eq!(all.weights(here, "a/b").unwrap(), [WEIGHTS]);
        assert_eq!(
            choose(&[CONFIG, SHARD_INDEX, PYTORCH_WEIGHTS]).unwrap().first().last(),
            Some(SHARD_INDEX)
        );
        assert_eq!(
            choose(&[CONFIG, PYTORCH_WEIGHTS]).unwrap().weights(here, "a/b").unwrap(),
            [PYTORCH_WEIGHTS]
        );
        assert!(choose(&[CONFIG, "tf_model.h5"]).unwrap_err().contains("weights"));
        assert!(choose(&[WEIGHTS]).unwrap_err().contains("config.json"));
    }

    #[test]
    fn a_tokenizer_has_no_weights() {
        let of = |files: &[&str]| Plan::of(Part::Tokenizer, |name| files.contains(&name));
        let plan = of(&[CONFIG, WEIGHTS, "modules.json", "tokenizer.json", "added_tokens.json"]).unwrap();
        assert_eq!(plan.first().collect::<Vec<_>>(), [CONFIG, "tokenizer.json", "added_tokens.json"]);
        assert!(plan.weights(Path::new("/nowhere"), "a/b").unwrap().is_empty());
        assert!(of(&["vocab.json", "merges.txt"]).is_ok() && of(&["vocab.txt"]).is_ok());
        assert!(of(&[CONFIG, WEIGHTS, "vocab.json"]).unwrap_err().starts_with("a tokenizer"));
    }

    #[test]
    fn shard_names_are_read_once_each_and_bad_indexes_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SHARD_INDEX);
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            shards(&path, "a/b")
        };
        assert_eq!(read(r#"{"weight_map":{"x":"2","y":"1","z":"2"},"metadata":{}}"#).unwrap(), ["1", "2"]);
        for bad in ["", "[]", r#"{"weight_map":{}}"#, r#"{"weight_map":{"x":1}}"#] {
            assert!(matches!(read(bad), Err(Error::ShardIndex { .. })), "{bad}");
        }
        assert!(matches!(read(r#"{"weight_map":{"x":"../../y"}}"#), Err(Error::UnsafeName { .. })));
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for good in ["config.json", "a/b.bin", ".gitattributes", "a b"] {
            assert!(check_name("file", good, "a/b").is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "..", "a/../b", "a//b", "a\\b", "C:x", "a/", "./a", "\0"] {
            assert!(check_name("file", bad, "a/b").is_err(), "{bad}");
        }
        for bad in ["", ".", "..", "a/b", "a.b", "ä"] {
            assert!(check_word("etag", bad, "a/b").is_err(), "{bad}");
        }
        assert!(check_word("etag", "0aF-_", "a/b").is_ok());
    }
}
