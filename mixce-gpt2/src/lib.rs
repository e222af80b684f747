//! GPT-2 on candle: configuration, block and tensor names. The rest of the model is in [`mixce_lm`].

mod block;
pub mod config;
mod embedding;
mod family;
mod flops;
mod gguf;
mod memory;
mod names;
mod parameters;

pub use config::Gpt2Config;
pub use family::FAMILY;

/// A GPT-2 (Radford et al., 2019) with its weights.
pub type Gpt2 = mixce_lm::Transformer<Gpt2Config>;

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
