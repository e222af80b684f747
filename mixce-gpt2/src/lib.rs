//! GPT-2 on candle: configuration, checkpoints, tokenizer, packed forward pass, sampling, hub.

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod export;
mod files;
pub mod params;
pub mod tokenizer;

pub use checkpoint::Checkpoint;
pub use config::Gpt2Config;
pub use error::{Error, Result};
pub use tokenizer::Tokenizer;
