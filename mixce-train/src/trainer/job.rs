//! What goes into a run and what comes out.
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mixce_core::Objective;
use mixce_lm::{LanguageModel, ModelConfig, Tokenizer};

use crate::config::TrainConfig;
use crate::data::Examples;
use crate::error::Result;
use crate::observer::BestModel;
use crate::run_folder::RunFolder;

/// Everything that a run needs beside its initial parameters.
#[derive(Clone, Debug)]
pub struct TrainJob<'a> {
    /// The settings; checked with [`TrainConfig::validate_settings`] before anything is done.
    pub config: &'a TrainConfig,
    /// The model's configuration, of any architecture; `config.dropout` is applied on top of it.
    pub model: Arc<dyn ModelConfig>,
    /// What is minimised: an objective of the registry or one of the caller's own, which `config` then does not name.
    pub objective: Arc<dyn Objective>,
    /// Training examples.
    pub train: &'a Examples,
    /// Development examples: with them the best model is found.
    pub valid: Option<&'a Examples>,
    /// Saved beside the exported models.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Takes metrics, checkpoints and models. Without one nothing is written, and the trained model is in the [`TrainOutcome`]
    /// alone.
    pub run: Option<&'a RunFolder>,
    /// When it becomes true the current step is abandoned and the run ends with [`End::Interrupted`].
    pub stop: Option<&'a AtomicBool>,
}

impl<'a> TrainJob<'a> {
    /// Trains `model` on `train` with the objective that `config` names, in memory: no development examples, no files, no
    /// interruption.
    ///
    /// # Errors
    /// When the objective's parameters are out of range.
    pub fn new(config: &'a TrainConfig, model: Arc<dyn ModelConfig>, train: &'a Examples) -> Result<Self> {
        let objective = config.objective_config().build()?;
        Ok(Self { config, model, objective, train, valid: None, tokenizer: None, run: None, stop: None })
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps were done.
    Finished,
    /// The development score had not improved for `config.patience` evaluations.
    OutOfPatience,
    /// It was asked to stop; in a run folder a checkpoint was written.
    Interrupted,
}

/// What a run leaves.
#[derive(Debug)]
pub struct TrainOutcome {
    /// Why it ended.
    pub end: End,
    /// Optimizer steps done, those before a resume included.
    pub steps: u64,
    /// The model after the last step, outside of any gradient graph.
    pub model: Box<dyn LanguageModel>,
    /// The best model, if there were development examples; its weights are in the run folder.
    pub best: Option<BestModel>,
    /// The exported last model; without a run folder and after an interruption there is none.
    pub final_model: Option<PathBuf>,
    /// The newest checkpoint, in a run folder.
    pub checkpoint: Option<PathBuf>,
}
