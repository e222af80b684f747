//! GPT-2 on candle: configuration, checkpoints, tokenizer, packed forward pass, sampling, hub.

pub mod config;
pub mod error;
mod files;
pub mod params;

pub use config::Gpt2Config;
pub use error::{Error, Result};
