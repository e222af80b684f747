//! GPT-2 through the public interface: files in and out, the model against transformers.
mod checkpoint;
mod checkpoint_extras;
mod common;
mod config;
mod export;
mod features;
mod gguf;
mod model;
mod params;
