//! Loading a model from a folder as the hub serves it.
//!
//! Weights may lie in `model.safetensors`, in shards under `model.safetensors.index.json`, or in PyTorch's
//! `pytorch_model.bin` (zip or pre-2020 format, sharded or not). Names may carry the prefixes `transformer.` or
//! `lm.transformer.`. Everything is converted to f32 tensor by tensor: peak memory is one copy of the weights.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use crate::config::Gpt2Config;
use crate::error::{Error, Result};
use crate::params::Parameters;

mod finite;
mod names;
mod pickle;
mod pytorch;
mod safetensors;
mod shards;
mod tensor;

pub use tensor::{TensorInfo, WeightType};

/// In which kind of file the weights of a checkpoint were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// `model.safetensors`, whole or in shards.
    Safetensors,
    /// `pytorch_model.bin`, whole or in shards.
    PyTorch,
}

/// A model that was read from a folder.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The content of `config.json`.
    pub config: Gpt2Config,
    /// All weights in f32.
    pub parameters: Parameters,
    /// The kind of file they came from.
    pub format: WeightFormat,
    /// The file that names the weights: the weight file itself, or the index of the shards.
    pub weights_path: PathBuf,
}

/// The file names that are looked for, best first, and how each is read.
const CANDIDATES: [(&str, WeightFormat, bool); 4] = [
    ("model.safetensors", WeightFormat::Safetensors, false),
    ("model.safetensors.index.json", WeightFormat::Safetensors, true),
    ("pytorch_model.bin", WeightFormat::PyTorch, false),
    ("pytorch_model.bin.index.json", WeightFormat::PyTorch, true),
];

/// Loads `config.json` and the weights of a folder onto a device, in f32.
///
/// f16, bf16 and f64 weights are converted. The buffers `attn.bias` and `attn.masked_bias` of old checkpoints are
/// ignored. Where the head is tied, a stored `lm_head.weight` must equal `wte.weight` (or stand in for it).
///
/// # Errors
/// When a file is missing, damaged or lies about its sizes, when the configuration is not supported, and when tensors
/// are missing, unexpected or of another shape than the configuration asks for (all are listed), or hold NaN or infinite values.
pub fn load(dir: &Path, device: &Device) -> Result<Checkpoint> {
    let config = Gpt2Config::from_file(&dir.join("config.json"))?;
    let (weights_path, format, tensors) = open(dir)?;
    let parameters = parameters_of(&weights_path, &tensors, &config, device)?;
    Ok(Checkpoint { config, parameters, format, weights_path })
}

/// Loads only the weights of a folder, for a configuration that is known already.
///
/// # Errors
/// As [`load`].
pub fn load_parameters(dir: &Path, config: &Gpt2Config, device: &Device) -> Result<Parameters> {
    let (weights_path, _, tensors) = open(dir)?;
    parameters_of(&weights_path, &tensors, config, device)
}

/// Lists the tensors of a checkpoint folder or of one weight file by the names in the file, sorted, reading headers only.
///
/// # Errors
/// When there are no weights or a header is damaged.
pub fn list(path: &Path) -> Result<Vec<TensorInfo>> {
    let mut tensors = if path.is_dir() {
        open(path)?.2
    } else if path.extension().is_some_and(|extension| extension == "safetensors") {
        safetensors::open(path)?
    } else {
        pytorch::open(path)?
    };
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

fn open(dir: &Path) -> Result<(PathBuf, WeightFormat, Vec<TensorInfo>)> {
    for (name, format, sharded) in CANDIDATES {
        let path = dir.join(name);
        if !path.is_file() {
            continue;
        }
        let open_one = match format {
            WeightFormat::Safetensors => safetensors::open,
            WeightFormat::PyTorch => pytorch::open,
        };
        let tensors = if sharded { shards::open(&path, open_one)? } else { open_one(&path)? };
        return Ok((path, format, tensors));
    }
    let expected = CANDIDATES.map(|(name, ..)| format!("`{name}`")).join(", ");
    Err(Error::NoWeights { path: dir.to_owned(), expected })
}

fn parameters_of(
    path: &Path,
    tensors: &[TensorInfo],
    config: &Gpt2Config,
    device: &Device,
) -> Result<Parameters> {
    config.validate()?;
    let plan = names::resolve(tensors, config)
        .map_err(|mismatch| Error::TensorMismatch { path: path.to_owned(), mismatch })?;
    if let Some((embedding, head)) = plan.must_be_equal {
        check_tied(&tensors[embedding], &tensors[head])?;
    }
    let mut loaded = Vec::with_capacity(plan.sources.len());
    for (spec, source) in plan.sources {
        let values = finite::read_finite(&tensors[source])?;
        loaded.push((spec.name, Tensor::from_vec(values, spec.shape, device)?));
    }
    Parameters::new(config, loaded)
}

/// A tied head that is stored beside the embedding must be the same matrix; otherwise one of them would be lost silently.
fn check_tied(embedding: &TensorInfo, head: &TensorInfo) -> Result<()> {
    if embedding.same_bytes_as(head) || embedding.read_f32()? == head.read_f32()? {
        return Ok(());
    }
    Err(Error::HeadNotTied {
        path: head.file.clone(),
        embedding: embedding.name.clone(),
        head: head.name.clone(),
    })
}
