//! Text to batches to optimizer steps to checkpoints.
//!
//! - [`data`]: documents, token cache, epoch order, microbatches;
//! - [`optim`]: AdamW, gradient norm, schedules;
//! - [`trainer`]: the loop; [`observer`]: what it reports; [`metrics`]: `metrics.jsonl` and TensorBoard event files;
//! - [`mod@evaluate`]: negative log-likelihood of a corpus;
//! - [`checkpoint`]: stopping and going on exactly; [`run_folder`]: where everything of a run lies;
//! - [`plan`]: memory and arithmetic of a step, before it runs;
//! - [`config`]: the settings of a run, from TOML and flags; [`prepare`]: from settings and files to a run.
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod error;
pub mod evaluate;
mod leftovers;
pub mod metrics;
pub mod observer;
pub mod optim;
mod packing;
pub mod plan;
pub mod prepare;
pub mod run_folder;
pub mod trainer;

pub use error::{Error, Result};

/// The example of the README, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
