//! The shared parts of decoder-only language models.
//!
//! - [`LanguageModel`]: the trait used by trainer, evaluation and sampling; [`ModelConfig`] and [`Family`]: configurations from a
//!   `config.json`;
//! - [`Architecture`], [`Block`], [`Embedding`]: the traits of an architecture; [`Transformer`] implements the loops over them;
//! - [`Parameters`], [`Gradients`]: tensors by their published names;
//! - [`checkpoint`], [`export`]: loading and saving weights; [`Tokenizer`]; [`PackedBatch`];
//! - [`generate()`](generate::generate): sampling, through a [`Decoder`].

mod architecture;
pub mod batch;
pub mod cache;
pub mod checkpoint;
pub mod config;
mod decoder;
pub mod error;
pub mod export;
mod features;
pub mod files;
mod fingerprint;
pub mod flops;
pub mod generate;
mod gradients;
pub mod memory;
mod model;
pub mod params;
mod sampler;
pub mod sampling;
mod session;
pub mod special_ids;
mod tensor_digest;
pub mod tokenizer;
mod training;
mod transformer;

pub use architecture::{
    Architecture, Attention, Block, Embedding, LayerOptions, Masks, ResidualStream, StreamGradient,
};
pub use batch::PackedBatch;
pub use cache::KvCache;
pub use checkpoint::Checkpoint;
pub use config::{Family, ModelConfig, ModelSpec};
pub use decoder::TransformerDecoder;
pub use error::{Error, Result};
pub use gradients::Gradients;
pub use mixce_kernels::Heads;
pub use model::{DEFAULT_BATCH_TOKENS, Decoder, Forward, LanguageModel, PassOptions, ScoringOptions};
pub use params::{Init, ParameterKind, ParameterSpec, Parameters};
pub use sampler::Sampler;
pub use session::{Session, Started};
pub use special_ids::stop_ids;
pub use tokenizer::Tokenizer;
pub use transformer::Transformer;
