//! Llama and its relatives on candle: their configuration, their block, and the names of their tensors. The rest of a language model is
//! [`mixce_lm`]'s.

mod block;
pub mod config;
mod embedding;
mod family;
mod flops;
mod gguf;
mod memory;
mod names;
mod parameters;

pub use config::{LlamaConfig, ModelType};
pub use family::FAMILY;

/// A Llama (Touvron et al., 2023) or one of its relatives, with its weights.
pub type Llama = mixce_lm::Transformer<LlamaConfig>;
