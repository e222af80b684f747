//! GGUF files, llama.cpp's format: configuration, weights and tokenizer of a model in one file.
//!
//! A family reads them through its [`GgufFormat`]. Quantised weights are dequantised to f32, one tensor at a time.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::tensor::TensorInfo;
use crate::config::{Family, SharedConfig};
use crate::error::{Error, Result, TensorMismatch};

mod header;
mod metadata;

pub use metadata::{FromMetadata, Metadata};

/// The extension of the files.
pub(super) const EXTENSION: &str = "gguf";

/// The token embedding, in every architecture.
const EMBEDDING: &str = "token_embd.weight";

/// The LM head, in every architecture; a tied one is not stored.
const HEAD: &str = "output.weight";

/// How a family reads GGUF files.
#[derive(Debug, Clone, Copy)]
pub struct GgufFormat {
    /// The values of `general.architecture` that it reads.
    pub architectures: &'static [&'static str],
    /// The keys of a `config.json` that the metadata stand for, `model_type` among them. `vocab_size`, `tie_word_embeddings` and the
    /// ids of special tokens are not its concern: they are found alike in every architecture.
    pub config: fn(&Gguf) -> Result<Map<String, Value>>,
    /// What a tensor of this name is; `None` for one that the architecture does not have.
    pub tensor: fn(&str, &Metadata) -> Result<Option<GgufTensor>>,
}

/// What a tensor of a GGUF file is to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GgufTensor {
    /// A parameter.
    Parameter {
        /// Its published name, without prefix.
        name: String,
        /// How it is stored.
        order: StoredOrder,
    },
    /// Nothing that the configuration does not say.
    Redundant,
}

/// How llama.cpp's converter stores a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredOrder {
    /// As it is published.
    Same,
    /// The matrix transposed.
    Transposed,
    /// The rows of each head in pairs of one rotation, `r_0, r_{D/2}, r_1, r_{D/2+1}, ..`, for rotary embeddings on
    /// neighbouring channels (`LlamaModel.permute` in `convert_hf_to_gguf.py`).
    RotaryPairs {
        /// The heads that share the rows.
        heads: usize,
    },
}

/// The header of a GGUF file.
#[derive(Debug, Clone)]
pub struct Gguf {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

impl Gguf {
    /// Reads the header of a file and checks it.
    ///
    /// # Errors
    /// When it is no GGUF file of version 2 or 3, is cut short or lies about its sizes; when it is one of several parts, or no model.
    pub fn open(path: &Path) -> Result<Self> {
        let (metadata, tensors) = header::read(path)?;
        if let Some(parts) = metadata.get::<u64>("split.count")?.filter(|&parts| parts > 1) {
            let reason = "one file is read; `llama-gguf-split --merge` makes one of the parts";
            return Err(metadata.unsupported("split.count", parts.to_string(), reason));
        }
        let kind = metadata.get::<String>("general.type")?.unwrap_or_else(|| "model".to_owned());
        if kind != "model" {
            return Err(metadata.unsupported("general.type", kind, "expected `model`"));
        }
        Ok(Self { metadata, tensors })
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors by their names in the file, in its order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor by its name in the file.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The value of `general.architecture`.
    ///
    /// # Errors
    /// When the file has none.
    pub fn architecture(&self) -> Result<String> {
        self.metadata.require("general.architecture")
    }

    /// The configuration of the model, of one of these families.
    ///
    /// # Errors
    /// When the architecture is of no family, a key is missing, or asks for what the family does not have.
    pub fn config(&self, families: &[&'static Family]) -> Result<SharedConfig> {
        let architecture = self.architecture()?;
        let formats = families.iter().filter_map(|family| Some((*family, family.gguf.as_ref()?)));
        let found = formats.clone().find(|(_, format)| format.architectures.contains(&architecture.as_str()));
        let Some((family, format)) = found else {
            let known: Vec<&str> = formats.flat_map(|(_, format)| format.architectures).copied().collect();
            let reason = format!("known architectures are {}", known.join(", "));
            return Err(self.metadata.unsupported("general.architecture", architecture, reason));
        };
        let mut keys = (format.config)(self)?;
        keys.extend(self.common_keys()?);
        (family.parse)(keys).map_err(|error| error.in_file(self.metadata.path()))
    }

    /// What every architecture says alike.
    fn common_keys(&self) -> Result<Map<String, Value>> {
        let Some([vocabulary, _]) = self.tensor(EMBEDDING).map(|tensor| tensor.shape.as_slice()) else {
            return Err(Error::malformed(self.metadata.path(), format!("no matrix `{EMBEDDING}`")));
        };
        let mut keys = Map::new();
        keys.insert("vocab_size".to_owned(), json!(vocabulary));
        keys.insert("tie_word_embeddings".to_owned(), json!(self.tensor(HEAD).is_none()));
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            let ids = self.named_ids(key)?;
            let value = if let [id] = ids.as_slice() { json!(id) } else { json!(ids) };
            keys.insert(key.to_owned(), if ids.is_empty() { Value::Null } else { value });
        }
        Ok(keys)
    }

    /// The ids of a special token by its name in a `config.json`. A text ends at EOS, and at the end of a turn where the file names one.
    pub(crate) fn named_ids(&self, key: &str) -> Result<Vec<u32>> {
        let names: &[&str] = match key {
            "bos_token_id" => &["bos"],
            "eos_token_id" => &["eos", "eot"],
            "pad_token_id" => &["padding"],
            _ => &[],
        };
        let mut ids = Vec::new();
        for name in names {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = self.metadata.get::<u64>(&key)? else { continue };
            let id = u32::try_from(id);
            let id = id.map_err(|_| {
                self.metadata.unsupported(&key, self.metadata.shown(&key), "no token has this id")
            })?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// The tensors by published names and in published order, as the family of their configuration understands them.
    pub(super) fn parameters(&self, family: &Family) -> Result<Vec<TensorInfo>> {
        let Some(format) = &family.gguf else {
            let reason = format!("{} is not read from GGUF files", family.name);
            return Err(self.metadata.unsupported("general.architecture", self.architecture()?, reason));
        };
        let mut parameters = Vec::new();
        let mut mismatch = TensorMismatch::default();
        for tensor in &self.tensors {
            match (format.tensor)(&tensor.name, &self.metadata)? {
                Some(GgufTensor::Parameter { name, order }) => {
                    let ordered = match order {
                        StoredOrder::Same => Some(tensor.clone()),
                        StoredOrder::Transposed => Some(tensor.transposed()),
                        StoredOrder::RotaryPairs { heads } => tensor.without_rotary_pairs(heads),
                    };
                    let odd = || {
                        let rows = tensor.shape.first().copied().unwrap_or(1);
                        let problem =
                            format!("tensor `{}` has {rows} rows, expected pairs for the heads", tensor.name);
                        Error::malformed(self.metadata.path(), problem)
                    };
                    parameters.push(TensorInfo { name, ..ordered.ok_or_else(odd)? });
                }
                Some(GgufTensor::Redundant) => {}
                None => mismatch.unexpected.push((tensor.name.clone(), tensor.shape.clone())),
            }
        }
        if mismatch.is_empty() {
            return Ok(parameters);
        }
        Err(Error::TensorMismatch { path: self.metadata.path().to_owned(), mismatch: mismatch.into() })
    }
}

/// The parts of the name of a block's tensor, `blk.LAYER.PART.KIND`: the layer as it is written, `attn_q` or the like, `weight` or `bias`.
#[must_use]
pub fn block_tensor(name: &str) -> Option<(&str, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.split_once('.')?;
    layer.parse::<u32>().is_ok().then_some((layer, part, kind))
}

/// Whether a path is that of a GGUF file.
#[must_use]
pub(super) fn is_gguf(path: &Path) -> bool {
    path.is_file() && (has_extension(path) || header::is_gguf(path))
}

/// Whether a file is called as a GGUF file is.
pub(super) fn has_extension(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
}

/// The GGUF file that a model's path means: itself, or that of a folder without other weights.
///
/// # Errors
/// When the folder cannot be read.
pub fn find(path: &Path) -> Result<Option<PathBuf>> {
    if is_gguf(path) {
        return Ok(Some(path.to_owned()));
    }
    if !path.is_dir() || super::CANDIDATES.iter().any(|(name, ..)| path.join(name).is_file()) {
        return Ok(None);
    }
    match super::other_files(path)?.as_slice() {
        [file] if has_extension(file) => Ok(Some(file.clone())),
        _ => Ok(None),
    }
}
