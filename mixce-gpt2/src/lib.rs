//! GPT-2 on candle: configuration, checkpoints, tokenizer, packed forward pass, sampling, hub.

mod backward;
pub mod batch;
mod block;
pub mod cache;
pub mod checkpoint;
pub mod config;
mod decoder;
pub mod error;
pub mod export;
mod features;
mod files;
mod fingerprint;
pub mod flops;
pub mod generate;
pub mod hub;
pub mod model;
pub mod params;
pub mod sampling;
mod special_ids;
pub mod tokenizer;

pub use backward::{Forward, Gradients, Pass};
pub use batch::PackedBatch;
pub use checkpoint::Checkpoint;
pub use config::Gpt2Config;
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use model::Gpt2;
pub use params::Parameters;
pub use special_ids::stop_ids;
pub use tokenizer::Tokenizer;

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
