//! GPT-2 on candle: configuration, checkpoints, tokenizer, packed forward pass, sampling, hub.

pub mod batch;
mod block;
pub mod cache;
pub mod config;
pub mod error;
mod files;
pub mod generate;
pub mod model;
pub mod params;
pub mod sampling;

pub use batch::PackedBatch;
pub use config::Gpt2Config;
pub use error::{Error, Result};
pub use model::Gpt2;
pub use params::Parameters;
