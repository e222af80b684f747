//! What goes into a run and what comes out.
use std::path::PathBuf;

use mixce_gpt2::{Gpt2Config, Tokenizer};

use crate::config::TrainConfig;
use crate::data::Examples;
use crate::observer::BestModel;

/// Everything that a run needs beside its initial parameters, loaded.
#[derive(Clone, Copy, Debug)]
pub struct TrainJob<'a> {
    /// The settings; checked with [`TrainConfig::validate_settings`] before anything is done.
    pub config: &'a TrainConfig,
    /// The model's configuration; `--dropout` is applied on top of it.
    pub model_config: &'a Gpt2Config,
    /// Training examples.
    pub train: &'a Examples,
    /// Development examples.
    pub valid: Option<&'a Examples>,
    /// Saved beside the exported models.
    pub tokenizer: Option<&'a Tokenizer>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps were done.
    Finished,
    /// The development score had not improved for `--patience` evaluations.
    OutOfPatience,
    /// It was asked to stop; a checkpoint was written.
    Interrupted,
}

/// What a run leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOutcome {
    /// Why it ended.
    pub end: End,
    /// Optimizer steps done, those before a resume included.
    pub steps: u64,
    /// The best model, if there were development examples.
    pub best: Option<BestModel>,
    /// The exported last model; not after an interruption.
    pub final_model: Option<PathBuf>,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
}
