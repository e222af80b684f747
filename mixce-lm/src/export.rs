//! Exports a model as a folder for Hugging Face tools.
//!
//! Names and metadata are those that `save_pretrained` of transformers 5.23 writes: keys with the prefix of the model's class
//! (`transformer.`, `model.`), the metadata `{"format": "pt"}` (without which transformers refuses the file), no second copy of a
//! tied head, `lm_head.weight` without prefix for a head of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use mixce_base::files::{AtomicFolder, remove_stale, write_atomic};
use serde_json::json;

use crate::config::{ExportedKeys, ModelConfig, json_object};
use crate::error::{Error, Result};
use crate::params::Parameters;
use crate::tokenizer::Tokenizer;

mod card;
mod safetensors;

pub use card::{DataFacts, TrainingFacts};
pub use safetensors::{write_safetensors, write_safetensors_without_digest};

/// Tensor names in `model.safetensors`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NameStyle {
    /// With the prefix of transformers' class (`transformer.`, `model.`), as it saves a language model.
    #[default]
    HuggingFace,
    /// Without prefix, as `openai-community/gpt2` is published.
    Published,
}

/// What to export.
#[derive(Debug, Clone)]
pub struct ExportRequest<'a> {
    /// The configuration.
    pub config: &'a dyn ModelConfig,
    /// The weights.
    pub parameters: &'a Parameters,
    /// The tokenizer; without one the folder only contains the model.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The facts in the model card.
    pub facts: &'a TrainingFacts,
    /// The names of the tensors.
    pub names: NameStyle,
    /// The element type of the stored weights: f32, f16 or bf16.
    pub dtype: DType,
}

/// Writes `config.json`, `generation_config.json`, `model.safetensors`, the tokenizer's files and `README.md` into `dir`.
///
/// Everything is written to a temporary folder beside `dir` and renamed at the end, so `dir` is complete or does not exist. What a killed
/// export to `dir` left is removed first.
///
/// # Errors
/// When `dir` exists and is not empty, parameters do not belong to the configuration, or a file cannot be written. Nothing is
/// left behind.
pub fn export(dir: &Path, request: &ExportRequest<'_>) -> Result<()> {
    refuse_occupied(dir)?;
    let target = std::path::absolute(dir).map_err(Error::io("write to", dir))?;
    if let (Some(parent), Some(name)) = (target.parent(), target.file_name()) {
        remove_stale(parent, &|found| name == found)?;
    }
    let folder = AtomicFolder::create(dir)?;
    write_files(folder.path(), request)?;
    Ok(folder.finish()?)
}

/// The model card, `README.md`.
#[must_use]
pub fn model_card(config: &dyn ModelConfig, facts: &TrainingFacts) -> String {
    card::render(config, facts)
}

/// Checks whether [`export`] can write to this folder, for use before long work.
///
/// # Errors
/// When `dir` exists and is not an empty folder.
pub fn refuse_occupied(dir: &Path) -> Result<()> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(Error::NotEmpty { path: dir.to_owned() }),
            None => Ok(()),
        },
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(Error::Io { action: "read folder", path: dir.to_owned(), cause }),
    }
}

/// Writes the files of [`export`] into an existing folder, for callers that add other files before renaming it.
///
/// # Errors
/// As [`export`]; files already written are left.
pub fn write_files(dir: &Path, request: &ExportRequest<'_>) -> Result<()> {
    request.config.validate()?;
    if let Some(tokenizer) = request.tokenizer {
        tokenizer.check_vocabulary(request.config.spec().vocabulary);
    }
    let config = exported_config(request)?;
    write_atomic(&dir.join("config.json"), config.to_json().as_bytes())?;
    write_atomic(&dir.join("generation_config.json"), &generation_config(&*config)?)?;
    // Refuses parameters of another model before anything is written.
    let checked = Parameters::new(
        request.config,
        request.parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())),
    )?;
    let tensors: BTreeMap<String, &candle_core::Tensor> = checked
        .iter()
        .map(|(name, tensor)| match request.names {
            NameStyle::HuggingFace => (request.config.transformers_name(name), tensor),
            NameStyle::Published => (name.to_owned(), tensor),
        })
        .collect();
    write_safetensors(&dir.join("model.safetensors"), tensors, request.dtype)?;
    if let Some(tokenizer) = request.tokenizer {
        tokenizer.save(dir)?;
    }
    Ok(write_atomic(&dir.join("README.md"), model_card(request.config, request.facts).as_bytes())?)
}

/// The configuration with the keys that describe the stored weights.
fn exported_config(request: &ExportRequest<'_>) -> Result<Arc<dyn ModelConfig>> {
    let dtype = match request.dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        other => {
            return Err(
                candle_core::Error::Msg(format!("weights cannot be exported as {}", other.as_str())).into()
            );
        }
    };
    let (bos, eos) =
        (request.tokenizer.and_then(Tokenizer::bos_id), request.tokenizer.and_then(Tokenizer::eos_id));
    Ok(request.config.exported(&ExportedKeys { dtype, bos, eos }))
}

/// `generation_config.json`: the special tokens of `config.json`.
fn generation_config(config: &dyn ModelConfig) -> Result<Vec<u8>> {
    let model = json_object(&config.to_json())?;
    let mut keys = BTreeMap::from([("_from_model_config", json!(true))]);
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = model.get(key).filter(|id| !id.is_null()) {
            keys.insert(key, id.clone());
        }
    }
    // A map of JSON values always has a textual form.
    let mut text = serde_json::to_string_pretty(&keys).unwrap_or_default();
    text.push('\n');
    Ok(text.into_bytes())
}
