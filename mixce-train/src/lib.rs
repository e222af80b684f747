//! Training of language models, from text to checkpoints.
//!
//! - [`data`]: documents, token cache, epoch order, microbatches;
//! - [`optim`]: AdamW, gradient norm, schedules;
//! - [`trainer`]: the loop; [`observer`]: what it reports; [`metrics`]: `metrics.jsonl` and TensorBoard event files;
//! - [`mod@evaluate`]: negative log-likelihood of a corpus;
//! - [`distributed`]: training over several processes;
//! - [`checkpoint`]: exact stop and resume; [`run_folder`]: the files of a run;
//! - [`plan`]: estimates of memory and arithmetic of a step, and of its time on a GPU; [`room`]: whether a run fits;
//! - [`config`]: the settings of a run, from TOML and flags; [`prepare`]: loads everything for a run.
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod distributed;
pub mod error;
pub mod evaluate;
mod leftovers;
pub mod metrics;
pub mod observer;
pub mod optim;
mod packing;
pub mod plan;
pub mod prepare;
pub mod room;
pub mod run_folder;
pub mod selector;
pub mod trainer;

pub use error::{Error, Result};

/// The example of the README, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
