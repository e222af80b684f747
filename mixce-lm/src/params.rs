//! The weights of a model by their published names, in a fixed order.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use indexmap::IndexMap;
use mixce_kernels::StoredTensor;
use mixce_kernels::rng::{Stream, purpose};
use rayon::prelude::*;

use crate::config::ModelConfig;
use crate::error::{Error, Result, TensorMismatch};

/// The kind of a parameter, which determines its initial values and weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// A table of embeddings: of tokens `[V, C]`, of positions `[T, C]`.
    Embedding,
    /// The matrix of a projection in the layout of its architecture, or an untied LM head `[V, C]`.
    Matrix,
    /// The bias of a projection.
    Bias,
    /// Weight or bias of a norm, `[C]`.
    Norm,
}

impl ParameterKind {
    /// Whether weight decay applies to this kind: matrices and embeddings, but not biases or layer norms.
    #[must_use]
    pub fn decays(self) -> bool {
        matches!(self, Self::Embedding | Self::Matrix)
    }
}

/// Initialisation of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
}

/// Name, shape, kind and initialisation of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSpec {
    /// The published name without prefix, such as `h.0.attn.c_attn.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its kind.
    pub kind: ParameterKind,
    /// Its initial values.
    pub init: Init,
    /// The block it belongs to, from 0; `None` before and behind the blocks.
    pub layer: Option<usize>,
}

impl ParameterSpec {
    /// Whether it is a matrix of a block, which checkpoints of other trainers may store transposed.
    #[must_use]
    pub fn is_block_matrix(&self) -> bool {
        self.layer.is_some() && self.shape.len() == 2
    }
}

/// The weights of one model: every tensor that [`ModelConfig::parameter_specs`] lists, in that order.
///
/// Cloning is cheap (the tensors are shared).
#[derive(Debug, Clone)]
pub struct Parameters {
    tensors: IndexMap<String, StoredTensor>,
    kinds: Vec<ParameterKind>,
}

impl Parameters {
    /// Collects tensors of a model, in any order.
    ///
    /// # Errors
    /// When names or shapes are not those of the configuration; all differences are listed.
    pub fn new(
        config: &dyn ModelConfig,
        tensors: impl IntoIterator<Item = (String, impl Into<StoredTensor>)>,
    ) -> Result<Self> {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name, tensor.into()));
        let mut given: IndexMap<String, StoredTensor> = tensors.collect();
        let mut mismatch = TensorMismatch::default();
        let mut ordered = IndexMap::new();
        let mut kinds = Vec::new();
        for spec in config.parameter_specs() {
            match given.swap_remove(&spec.name) {
                None => mismatch.missing.push((spec.name, spec.shape)),
                Some(tensor) if tensor.dims() != spec.shape => {
                    mismatch.misshapen.push((spec.name, spec.shape, tensor.dims().to_vec()));
                }
                Some(tensor) => {
                    ordered.insert(spec.name, tensor);
                    kinds.push(spec.kind);
                }
            }
        }
        mismatch.unexpected =
            given.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
        mismatch.unexpected.sort();
        if !mismatch.is_empty() {
            return Err(Error::TensorMismatch { path: PathBuf::from("(memory)"), mismatch: mismatch.into() });
        }
        Ok(Self { tensors: ordered, kinds })
    }

    /// Initial weights as the configuration describes them, in f32, from the seed alone (not from the device or thread count).
    ///
    /// # Errors
    /// If the configuration is invalid or the device is out of memory.
    pub fn random(config: &dyn ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        config.validate()?;
        let stream = Stream::new(seed).fold(purpose::INIT);
        let mut tensors = Vec::new();
        for (index, spec) in (0u64..).zip(config.parameter_specs()) {
            let count: usize = spec.shape.iter().product();
            let values = match spec.init {
                Init::Zeros => vec![0f32; count],
                Init::Ones => vec![1f32; count],
                Init::Normal(deviation) => normals(stream.fold(index), count, deviation),
            };
            tensors.push((spec.name, Tensor::from_vec(values, spec.shape, device)?));
        }
        Self::new(config, tensors)
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.stored(name).map(|tensor| &**tensor)
    }

    /// The tensor called `name`, with its copy in bf16 if it is a parameter in training.
    ///
    /// # Errors
    /// When there is none.
    pub fn stored(&self, name: &str) -> Result<&StoredTensor> {
        self.tensors.get(name).ok_or_else(|| Error::UnknownParameter { name: name.to_owned() })
    }

    /// All parameters in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), &**tensor))
    }

    /// All parameters in order, with their kinds.
    pub fn iter_with_kind(&self) -> impl Iterator<Item = (&str, ParameterKind, &Tensor)> {
        self.iter().zip(&self.kinds).map(|((name, tensor), &kind)| (name, kind, tensor))
    }

    /// Consumes the parameters in order, with names and kinds, freeing each as it is taken.
    pub fn into_entries(self) -> impl Iterator<Item = (String, ParameterKind, Tensor)> {
        let entries = self.tensors.into_iter().zip(self.kinds);
        entries.map(|((name, tensor), kind)| (name, kind, tensor.into_tensor()))
    }

    /// How many tensors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor at all (never, for parameters of a model).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// How many numbers all tensors hold together.
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.elem_count()).sum()
    }

    /// The same parameters with every tensor replaced by `change(name, tensor)`: moved to a device, made a variable,
    /// detached.
    ///
    /// # Errors
    /// The first error of `change`, or when it changed a shape.
    pub fn try_map(&self, mut change: impl FnMut(&str, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let mut tensors = IndexMap::with_capacity(self.tensors.len());
        let mut mismatch = TensorMismatch::default();
        for (name, old) in &self.tensors {
            let new = change(name, old)?;
            if new.dims() != old.dims() {
                mismatch.misshapen.push((name.clone(), old.dims().to_vec(), new.dims().to_vec()));
            }
            tensors.insert(name.clone(), new.into());
        }
        if !mismatch.is_empty() {
            return Err(Error::TensorMismatch { path: PathBuf::from("(memory)"), mismatch: mismatch.into() });
        }
        Ok(Self { tensors, kinds: self.kinds.clone() })
    }

    /// The same tensors outside any gradient graph (shared memory, no copy).
    #[must_use]
    pub fn detached(&self) -> Self {
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.detach())).collect();
        Self { tensors, kinds: self.kinds.clone() }
    }
}

/// `count` normal numbers of mean 0; number `i` is [`Stream::normal`]`(i)`, whatever the number of threads.
fn normals(stream: Stream, count: usize, deviation: f64) -> Vec<f32> {
    let mut values = vec![0f32; count];
    values.par_chunks_mut(2).enumerate().with_min_len(4096).for_each(|(pair, chunk)| {
        for (value, normal) in chunk.iter_mut().zip(stream.normal_pair(pair as u64)) {
            *value = (deviation * normal) as f32;
        }
    });
    values
}
