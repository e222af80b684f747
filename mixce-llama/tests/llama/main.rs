//! The Llama family through the public interface: files in and out, the models against transformers.
mod checkpoint;
mod common;
mod config;
mod export;
mod gguf;
mod model;
mod params;
