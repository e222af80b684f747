//! Loads a model from a folder in the hub's layout, or from a GGUF file.
//!
//! Weights may be in `model.safetensors`, in shards listed by `model.safetensors.index.json`, in PyTorch's `pytorch_model.bin` (zip or
//! pre-2020 format, sharded or not), or in the folder's only other weight file. A [GGUF file](gguf) also has the
//! configuration, and is accepted wherever a folder is. If a PyTorch file has several dictionaries, the one that
//! matches the configuration is used. Names may have the prefixes of wrappers. Everything is converted to f32 tensor by tensor, so peak
//! memory is one copy of the weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::config::{self, Family, ModelConfig};
use crate::error::{Error, Result};
use crate::params::Parameters;

use gguf::Gguf;

mod blocks;
mod finite;
pub mod gguf;
mod integrity;
mod names;
mod pickle;
mod pytorch;
mod reading;
mod safetensors;
mod shards;
mod tensor;

pub use blocks::BlockFormat;
pub use finite::index_of;
pub use integrity::{Checksum, verify};
pub use reading::Reading;
pub use tensor::{TensorInfo, WeightType};

/// The file format of a checkpoint's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// Safetensors, whole or in shards.
    Safetensors,
    /// What `torch.save` writes, whole or in shards.
    PyTorch,
    /// llama.cpp's format.
    Gguf,
}

/// A model that was read from a folder.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The content of `config.json`.
    pub config: Arc<dyn ModelConfig>,
    /// All weights in f32.
    pub parameters: Parameters,
    /// The kind of file they came from.
    pub format: WeightFormat,
    /// The weight file, or the index of the shards.
    pub weights_path: PathBuf,
    /// How its tensors were interpreted.
    pub reading: Reading,
}

/// The tensors of a folder, before the configuration says which are wanted.
#[derive(Debug)]
struct Weights {
    path: PathBuf,
    format: WeightFormat,
    tensors: Vec<TensorInfo>,
    lost: Vec<shards::Promise>,
    unused_files: Vec<String>,
    /// The header, of a GGUF file.
    gguf: Option<Gguf>,
}

/// The recognised file names, in order of preference, and their formats.
const CANDIDATES: [(&str, WeightFormat, bool); 4] = [
    ("model.safetensors", WeightFormat::Safetensors, false),
    ("model.safetensors.index.json", WeightFormat::Safetensors, true),
    ("pytorch_model.bin", WeightFormat::PyTorch, false),
    ("pytorch_model.bin.index.json", WeightFormat::PyTorch, true),
];

/// Other tools' files that are not weights despite their extension.
const NO_WEIGHTS: [&str; 7] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state", "mmproj", "imatrix"];

/// The configuration of a model: `config.json` of a folder, or what the metadata of a [GGUF file](gguf) say, of one of `families`. A folder
/// whose only weights are a GGUF file has the configuration of that file.
///
/// # Errors
/// When there is none, it is damaged, or it is not supported.
pub fn config(path: &Path, families: &[&'static Family]) -> Result<Arc<dyn ModelConfig>> {
    if let Some(file) = gguf::find(path)? {
        return Gguf::open(&file)?.config(families);
    }
    let file = path.join("config.json");
    if !file.is_file() && path.is_dir() && other_files(path)?.iter().any(|file| gguf::has_extension(file)) {
        // There are several: say so, rather than that they need a configuration.
        open(path)?;
    }
    config::from_file(&file, families)
}

/// Loads the configuration and the weights of a folder or GGUF file onto a device, in f32.
///
/// The architecture is the one of `families` that the configuration names. f16, bf16 and f64 weights are converted; buffers of old
/// checkpoints are ignored. If the head is tied, a stored one must equal the embedding (and replaces it if it is absent). Tensors that are
/// not part of the language model are skipped, and listed in the log and [`Checkpoint::reading`].
///
/// # Errors
/// If a file is missing, damaged (also by its checksums, see [`verify`]) or inconsistent in its sizes, if the configuration is not supported, if two dictionaries match it, and if
/// tensors of the body are missing, unexpected or misshapen (all are listed), or contain NaN or infinite values.
pub fn load(dir: &Path, families: &[&'static Family], device: &Device) -> Result<Checkpoint> {
    let config = config(dir, families)?;
    let weights = open(dir)?;
    let (parameters, reading) = parameters_of(&weights, &*config, device)?;
    Ok(Checkpoint { config, parameters, format: weights.format, weights_path: weights.path, reading })
}

/// Loads only the weights of a folder, for a configuration that is known already.
///
/// # Errors
/// As [`load`].
pub fn load_parameters(dir: &Path, config: &dyn ModelConfig, device: &Device) -> Result<Parameters> {
    Ok(parameters_of(&open(dir)?, config, device)?.0)
}

/// How [`load`] would interpret the tensors of a folder; reads only headers.
///
/// # Errors
/// As [`load`], except errors that depend on values.
pub fn read(dir: &Path, config: &dyn ModelConfig) -> Result<Reading> {
    Ok(reading::choose(&open(dir)?, config)?.1)
}

/// Lists the tensors of a checkpoint folder or of one weight file by the names in the file, sorted, reading headers only.
///
/// Those of every dictionary of a PyTorch file are listed, the outermost first.
///
/// # Errors
/// When there are no weights or a header is damaged.
pub fn list(path: &Path) -> Result<Vec<TensorInfo>> {
    let mut tensors = if path.is_dir() { open(path)? } else { open_file(path, Vec::new())? }.tensors;
    tensors.sort_by(|a, b| (&a.dictionary, &a.name).cmp(&(&b.dictionary, &b.name)));
    Ok(tensors)
}

/// Opens one weight file beside others that are not read.
fn open_file(path: &Path, unused_files: Vec<String>) -> Result<Weights> {
    let is_safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
    let (format, tensors, gguf) = if gguf::is_gguf(path) {
        let gguf = Gguf::open(path)?;
        (WeightFormat::Gguf, gguf.tensors().to_vec(), Some(gguf))
    } else if is_safetensors {
        (WeightFormat::Safetensors, safetensors::open(path)?, None)
    } else {
        (WeightFormat::PyTorch, pytorch::open(path)?, None)
    };
    Ok(Weights { path: path.to_owned(), format, tensors, lost: Vec::new(), unused_files, gguf })
}

/// The weights of a folder, or a GGUF file.
fn open(dir: &Path) -> Result<Weights> {
    if gguf::is_gguf(dir) {
        return open_file(dir, Vec::new());
    }
    let named: Vec<_> = CANDIDATES.iter().filter(|(name, ..)| dir.join(name).exists()).collect();
    if let Some((&&(name, format, sharded), others)) = named.split_first() {
        let path = dir.join(name);
        let unused_files = others.iter().map(|(name, ..)| (*name).to_owned()).collect();
        if !sharded {
            return open_file(&path, unused_files);
        }
        let open_one = if format == WeightFormat::Safetensors { safetensors::open } else { pytorch::open };
        let (tensors, lost) = shards::open(&path, open_one)?;
        return Ok(Weights { path, format, tensors, lost, unused_files, gguf: None });
    }
    let expected = CANDIDATES.map(|(name, ..)| format!("`{name}`")).join(", ");
    match other_files(dir)?.as_slice() {
        [] => Err(Error::NoWeights { path: dir.to_owned(), expected }),
        [path] => open_file(path, Vec::new()),
        several => {
            let found = several.iter().filter_map(|path| path.file_name());
            let found: Vec<String> = found.map(|name| format!("`{}`", name.to_string_lossy())).collect();
            let expected =
                format!("{expected}, or a single weight file of another name; found {}", found.join(", "));
            Err(Error::NoWeights { path: dir.to_owned(), expected })
        }
    }
}

/// Weight files of a folder under names that are not transformers', sorted.
fn other_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("read folder", dir))? {
        let path = entry.map_err(Error::io("read folder", dir))?.path();
        let known = ["safetensors", "bin", "pt", "pth", "ckpt", gguf::EXTENSION];
        let is_weights =
            path.extension().is_some_and(|extension| known.iter().any(|known| extension == *known));
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if is_weights && path.is_file() && !NO_WEIGHTS.iter().any(|other| stem.starts_with(other)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn parameters_of(
    weights: &Weights,
    config: &dyn ModelConfig,
    device: &Device,
) -> Result<(Parameters, Reading)> {
    config.validate()?;
    let (plan, reading) = reading::choose(weights, config)?;
    integrity::verify_tensors(plan.sources.iter().map(|(_, tensor)| tensor))?;
    reading.warn(&weights.path);
    if let Some((embedding, head)) = &plan.must_be_equal {
        check_tied(embedding, head)?;
    }
    let mut loaded = Vec::with_capacity(plan.sources.len());
    for (spec, source) in plan.sources {
        let values = finite::read_finite(&source)?;
        loaded.push((spec.name, Tensor::from_vec(values, spec.shape, device)?));
    }
    Ok((Parameters::new(config, loaded)?, reading))
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
