//! Exports a model as a folder for Hugging Face tools.
//!
//! Names and metadata are those that `save_pretrained` of transformers 5.23 writes: keys with the prefix of the model's class
//! (`transformer.`, `model.`), the metadata `{"format": "pt"}` (without which transformers refuses the file), no second copy of a
//! tied head, `lm_head.weight` without prefix for a head of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use serde_json::json;

use crate::config::{ExportedKeys, ModelConfig, json_object};
use crate::error::{Error, Result};
use crate::files;
use crate::params::Parameters;
use crate::tokenizer::Tokenizer;

mod card;
mod safetensors;

pub use card::{DataFacts, TrainingFacts};
pub use safetensors::write_safetensors;

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
/// Everything is written to a temporary folder beside `dir` and renamed at the end, so `dir` is complete or does not exist.
///
/// # Errors
/// When `dir` exists and is not empty, parameters do not belong to the configuration, or a file cannot be written. Nothing is
/// left behind.
pub fn export(dir: &Path, request: &ExportRequest<'_>) -> Result<()> {
    request.config.validate()?;
    if let Some(tokenizer) = request.tokenizer {
        tokenizer.check_vocabulary(request.config.spec().vocabulary);
    }
    refuse_occupied(dir)?;
    let partial = PartialFolder::create(dir)?;
    write_folder(&partial.path, request)?;
    partial.finish(dir)
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

fn write_folder(dir: &Path, request: &ExportRequest<'_>) -> Result<()> {
    let config = exported_config(request)?;
    files::write_atomic(&dir.join("config.json"), config.to_json().as_bytes())?;
    files::write_atomic(&dir.join("generation_config.json"), &generation_config(&*config)?)?;
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
    files::write_atomic(&dir.join("README.md"), model_card(request.config, request.facts).as_bytes())
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

/// The folder in which [`export`] writes `dir` until it is complete: `.NAME.partial-PID` beside it. A killed process leaves it behind.
///
/// # Errors
/// When `dir` has no name, or the working folder is gone.
pub fn partial_beside(dir: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(dir).map_err(Error::io("create", dir))?;
    let Some(name) = absolute.file_name() else {
        return Err(Error::NotEmpty { path: dir.to_owned() });
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".partial-{}", std::process::id()));
    Ok(absolute.with_file_name(hidden))
}

/// A temporary folder beside the final one, removed on drop unless it was renamed.
struct PartialFolder {
    path: PathBuf,
    finished: bool,
}

impl PartialFolder {
    fn create(target: &Path) -> Result<Self> {
        let path = partial_beside(target)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        fs::create_dir(&path).map_err(Error::io("create", &path))?;
        Ok(Self { path, finished: false })
    }

    fn finish(mut self, target: &Path) -> Result<()> {
        sync_folder(&self.path);
        if target.exists() {
            // Fails unless the folder is empty, so nothing is lost.
            fs::remove_dir(target).map_err(Error::io("replace", target))?;
        }
        fs::rename(&self.path, target).map_err(Error::io("create", target))?;
        self.finished = true;
        if let Some(parent) = target.parent() {
            sync_folder(parent);
        }
        Ok(())
    }
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: the error that led here is the one to report.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Syncs a folder's entries to disk, on systems that support it.
fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}
