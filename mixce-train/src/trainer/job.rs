//! Inputs and outcome of a run.
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mixce_core::Objective;
use mixce_lm::{LanguageModel, ModelConfig, Tokenizer};

use crate::config::TrainConfig;
use crate::data::Examples;
use crate::distributed::{Alone, Communicator};
use crate::error::Result;
use crate::observer::BestModel;
use crate::run_folder::RunFolder;
use crate::selector::Selector;

/// The inputs of a run, except its initial parameters.
#[derive(Clone, Debug)]
pub struct TrainJob<'a> {
    /// The settings, validated with [`TrainConfig::validate_settings`] before anything is done.
    pub config: &'a TrainConfig,
    /// The model's configuration, of any architecture; `config.dropout` overrides its dropout rates.
    pub model: Arc<dyn ModelConfig>,
    /// The objective: one of the registry, or the caller's own, which `config` does not name.
    pub objective: Arc<dyn Objective>,
    /// Training examples.
    pub train: &'a Examples,
    /// Development examples, for selecting the best model.
    pub valid: Option<&'a Examples>,
    /// Scores the model at evaluations; needed by, and only by, [`Selection::Mauve`](crate::config::Selection::Mauve).
    pub selector: Option<&'a dyn Selector>,
    /// Saved beside the exported models.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Destination of metrics, checkpoints and models. Without one nothing is written, and the trained model is only in the
    /// [`TrainOutcome`].
    pub run: Option<&'a RunFolder>,
    /// When it becomes true on any rank, the current step is abandoned and the run ends with [`End::Interrupted`].
    pub stop: Option<&'a AtomicBool>,
    /// Connects this process with the others that train the same model; see [`distributed`](crate::distributed).
    pub ranks: Arc<dyn Communicator>,
}

impl<'a> TrainJob<'a> {
    /// A job that trains `model` on `train` with the objective of `config`, in memory: without development examples, files,
    /// interruption or other ranks.
    ///
    /// # Errors
    /// If the objective's parameters are out of range.
    pub fn new(config: &'a TrainConfig, model: Arc<dyn ModelConfig>, train: &'a Examples) -> Result<Self> {
        let objective = config.objective_config().build()?;
        Ok(Self {
            config,
            model,
            objective,
            train,
            valid: None,
            selector: None,
            tokenizer: None,
            run: None,
            stop: None,
            ranks: Arc::new(Alone),
        })
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps were done.
    Finished,
    /// The development score did not improve for `config.patience` evaluations.
    OutOfPatience,
    /// `stop` became true; in a run folder a checkpoint was written.
    Interrupted,
}

/// The outcome of a run.
#[derive(Debug)]
pub struct TrainOutcome {
    /// Why it ended.
    pub end: End,
    /// Optimizer steps done, including those before a resume.
    pub steps: u64,
    /// The model after the last step, outside any gradient graph.
    pub model: Box<dyn LanguageModel>,
    /// The best model, if there were development examples; its weights are in the run folder.
    pub best: Option<BestModel>,
    /// The exported last model; `None` without a run folder and after an interruption.
    pub final_model: Option<PathBuf>,
    /// The newest checkpoint, in a run folder.
    pub checkpoint: Option<PathBuf>,
}
