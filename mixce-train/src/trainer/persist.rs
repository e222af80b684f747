//! Writing of checkpoints and exported models.
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use mixce_base::files::{AtomicFolder, write_atomic};
use mixce_lm::export::{self, DataFacts, ExportRequest, NameStyle, TrainingFacts};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Trainer;
use crate::checkpoint::{self, NamedTensors};
use crate::config::DataFiles;
use crate::distributed::lead;
use crate::error::{Error, Result};
use crate::observer::{BestModel, TrainObserver as _};
use crate::run_folder::{RunFolder, RunLock};

/// `selection.json` beside an exported model: its step and scores. Hugging Face tools ignore it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Chosen {
    step: u64,
    valid_nll: f64,
    valid_loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    valid_mauve: Option<f64>,
}

impl Chosen {
    const FILE: &str = "selection.json";

    pub(super) fn of(model: &BestModel) -> Self {
        Self {
            step: model.step,
            valid_nll: model.valid_nll,
            valid_loss: model.valid_loss,
            valid_mauve: model.valid_mauve,
        }
    }

    /// `None` if the file is missing or damaged.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(Self::FILE)).ok()?).ok()
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).map_err(|e| Error::config(format!("cannot serialise: {e}")))?;
        Ok(write_atomic(&folder.join(Self::FILE), &json)?)
    }
}

impl Trainer<'_> {
    /// In a run folder, writes a checkpoint of the current state and removes those that exceed `config.keep_last`.
    pub(super) fn save_checkpoint(&mut self) -> Result<Option<PathBuf>> {
        self.step.check()?;
        self.step.variables.require_finite(self.state.step)?;
        let Some(run) = self.job.run else { return Ok(None) };
        self.require_same_weights()?;
        let (ranks, moments) = (self.ranks.clone(), self.step.whole_moments()?);
        lead(&*ranks, || self.write_checkpoint(run, moments))?;
        Ok(Some(run.checkpoints().join(checkpoint::folder_name(self.state.step))))
    }

    fn write_checkpoint(&mut self, run: &RunFolder, moments: NamedTensors) -> Result<()> {
        self.require_folder()?;
        self.state.grad_norms = self.step.recent_norms();
        let checkpoints = run.checkpoints();
        let config_json = self.step.model.config().to_json();
        let extra = [("config.json", config_json.as_bytes())];
        let parameters = self.step.variables.tensors();
        let path = checkpoint::save(&checkpoints, &self.state, parameters, moments, &extra)?;
        checkpoint::remove_old(&checkpoints, self.config.keep_last)?;
        self.observers.on_checkpoint(self.state.step, &path)
    }

    /// Exports the current parameters to `folder` in the Hugging Face layout, replacing its contents. `scores` are the model's,
    /// if known.
    pub(super) fn export_model(&self, folder: &Path, scores: Option<&BestModel>) -> Result<()> {
        let parameters = self.step.model.parameters().detached();
        let facts = self.facts(scores.map(|s| s.valid_nll));
        let request = ExportRequest {
            config: &**self.step.model.config(),
            parameters: &parameters,
            tokenizer: self.job.tokenizer,
            facts: &facts,
            names: NameStyle::HuggingFace,
            dtype: DType::F32,
        };
        self.require_folder()?;
        let new = AtomicFolder::create(folder)?;
        export::write_files(new.path(), &request)?;
        if let Some(scores) = scores {
            Chosen::of(scores).write(new.path())?;
        }
        Ok(new.replace()?)
    }

    /// Checks that the run folder still exists, before anything is written to it.
    pub(super) fn require_folder(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), RunLock::require_folder)
    }

    /// In a run folder, saves the documents of the step that `error` is about, if its loss or gradient was not finite, and adds the file to the
    /// error.
    pub(super) fn with_documents(&mut self, mut error: Error) -> Error {
        let (Error::NonFiniteLoss { step, documents, .. } | Error::NonFiniteGradient { step, documents, .. }) =
            &mut error
        else {
            return error;
        };
        match self.save_documents(*step) {
            Ok(path) => *documents = path,
            // The loss is the error to report.
            Err(failure) => tracing::warn!("the documents of step {step} are not saved: {failure}"),
        }
        error
    }

    fn save_documents(&mut self, step: u64) -> Result<Option<PathBuf>> {
        let Some(run) = self.job.run.filter(|_| self.leads()) else { return Ok(None) };
        self.require_folder()?;
        let batch = self.batcher.step(self.batcher.position_of(step.saturating_sub(1)));
        let mut lines = String::new();
        for (microbatch, examples) in batch.microbatches.iter().enumerate() {
            for tokens in &examples.examples {
                let text = self.job.tokenizer.map(|tokenizer| tokenizer.decode(tokens)).transpose()?;
                let row = json!({"step": step, "microbatch": microbatch, "text": text, "tokens": tokens});
                lines += &format!("{row}\n");
            }
        }
        let path = run.non_finite(step);
        write_atomic(&path, lines.as_bytes())?;
        Ok(Some(path))
    }

    /// Facts for the model card.
    fn facts(&self, valid_nll: Option<f64>) -> TrainingFacts {
        let name_of =
            |files: &Option<DataFiles>| files.as_ref().map(DataFiles::file_names).unwrap_or_default();
        let mut data = vec![("train", name_of(&self.config.train), self.job.train)];
        if let Some(valid) = self.job.valid {
            data.push(("valid", name_of(&self.config.valid), valid));
        }
        let data = data.into_iter().map(|(role, name, examples)| {
            let counts = examples.store().counts();
            DataFacts {
                role: role.into(),
                name,
                documents: Some(counts.documents),
                tokens: Some(counts.tokens),
            }
        });
        TrainingFacts {
            base_model: self.config.model.clone(),
            objective: Some(self.step.objective.name().to_owned()),
            eta: self.config.eta,
            data: data.collect(),
            steps: Some(self.state.step),
            dev_nll_nats: valid_nll,
            seed: Some(self.config.seed),
        }
    }
}
