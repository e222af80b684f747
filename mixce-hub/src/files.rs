//! Selects the files of a checkpoint, and validates file names.

use std::{collections::BTreeSet, fs, io::Read, path::Path};

use crate::error::{Error, Result};

/// The model's configuration, required unless the weights are a GGUF file.
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

/// The weights that were found, best first: one safetensors file, shards, a PyTorch file, the only GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Weights {
    Single(String),
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
    /// What to fetch for a part; `Err` says what is missing. `gguf` are the names that [`is_gguf_model`] likes.
    pub(super) fn of(
        part: Part,
        exists: impl Fn(&str) -> bool,
        gguf: &[String],
    ) -> std::result::Result<Self, String> {
        match part {
            Part::Model => Self::choose(exists, gguf),
            Part::Tokenizer => Self::tokenizer(exists, gguf),
        }
    }

    fn tokenizer(exists: impl Fn(&str) -> bool, gguf: &[String]) -> std::result::Result<Self, String> {
        let is_whole =
            exists("tokenizer.json") || exists("vocab.txt") || (exists("vocab.json") && exists("merges.txt"));
        let weights = match (is_whole, gguf) {
            (true, _) => Weights::None,
            // Its tokenizer is in the file.
            (false, [file]) => Weights::Single(file.clone()),
            (false, _) => {
                return Err("a tokenizer (`tokenizer.json`, `vocab.json` with `merges.txt`, or `vocab.txt`)"
                    .to_owned());
            }
        };
        let of_encoder = |name: &&str| {
            ["modules.json", "sentence_bert_config.json", "1_Pooling/config.json"].contains(name)
        };
        let small = [CONFIG].into_iter().chain(OPTIONAL).filter(|name| !of_encoder(name) && exists(name));
        Ok(Self { small: small.collect(), weights })
    }

    /// Chooses among the files that exist; `Err` says what is missing.
    pub(crate) fn choose(
        exists: impl Fn(&str) -> bool,
        gguf: &[String],
    ) -> std::result::Result<Self, String> {
        let weights = if exists(WEIGHTS) {
            Weights::Single(WEIGHTS.to_owned())
        } else if exists(SHARD_INDEX) {
            Weights::Sharded
        } else if exists(PYTORCH_WEIGHTS) {
            Weights::Single(PYTORCH_WEIGHTS.to_owned())
        } else {
            match gguf {
                [file] => Weights::Single(file.clone()),
                [] if !exists(CONFIG) => return Err(format!("`{CONFIG}`")),
                [] => {
                    return Err(
                        "weights (`model.safetensors`, `model.safetensors.index.json`, `pytorch_model.bin` or a GGUF file)"
                            .to_owned(),
                    );
                }
                several => return Err(format!("weights: it has {} GGUF files, expected one", several.len())),
            }
        };
        let is_gguf = matches!(&weights, Weights::Single(name) if gguf.contains(name));
        if !exists(CONFIG) && !is_gguf {
            return Err(format!("`{CONFIG}`"));
        }
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
        match &self.weights {
            Weights::Single(name) => Ok(vec![name.clone()]),
            Weights::None => Ok(Vec::new()),
            Weights::Sharded => shards(&folder.join(SHARD_INDEX), repository),
        }
    }
}

/// Whether a file of a repository can be a model on its own: a GGUF file at its top, which is no vision tower and no quantiser's statistics.
pub(crate) fn is_gguf_model(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".gguf")
        && !lower.contains('/')
        && !["mmproj", "imatrix"].iter().any(|other| lower.starts_with(other))
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

    fn plan(part: Part, files: &[&str]) -> std::result::Result<Plan, String> {
        let gguf: Vec<String> =
            files.iter().filter(|name| is_gguf_model(name)).map(|&name| name.into()).collect();
        Plan::of(part, |name| files.contains(&name), &gguf)
    }

    fn choose(files: &[&str]) -> std::result::Result<Plan, String> {
        plan(Part::Model, files)
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
        let of = |files: &[&str]| plan(Part::Tokenizer, files);
        let plan = of(&[CONFIG, WEIGHTS, "modules.json", "tokenizer.json", "added_tokens.json"]).unwrap();
        assert_eq!(plan.first().collect::<Vec<_>>(), [CONFIG, "tokenizer.json", "added_tokens.json"]);
        assert!(plan.weights(Path::new("/nowhere"), "a/b").unwrap().is_empty());
        assert!(of(&["vocab.json", "merges.txt"]).is_ok() && of(&["vocab.txt"]).is_ok());
        assert!(of(&[CONFIG, WEIGHTS, "vocab.json"]).unwrap_err().starts_with("a tokenizer"));
    }

    #[test]
    fn the_only_gguf_file_is_a_model_and_a_tokenizer() {
        let here = Path::new("/nowhere");
        let plan_of = |part, files: &[&str]| plan(part, files).map(|plan| plan.weights(here, "a/b").unwrap());
        for part in [Part::Model, Part::Tokenizer] {
            let one = ["README.md", "mmproj-f16.gguf", "m-q8.gguf", "old/m.gguf"];
            assert_eq!(plan_of(part, &one).unwrap(), ["m-q8.gguf"]);
            assert!(plan_of(part, &["m-q4.gguf", "m-q8.gguf"]).is_err());
        }
        let several = choose(&[CONFIG, "m-q4.gguf", "m-q8.gguf"]).unwrap_err();
        assert!(several.contains("2 GGUF files"), "{several}");
        assert_eq!(plan_of(Part::Model, &[CONFIG, WEIGHTS, "m.gguf"]).unwrap(), [WEIGHTS]);
        assert!(plan_of(Part::Tokenizer, &["tokenizer.json", "m.gguf"]).unwrap().is_empty());
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
