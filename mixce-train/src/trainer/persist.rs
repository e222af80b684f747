//! Writing of checkpoints and exported models.
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use mixce_base::files::{AtomicFolder, write_atomic};
use mixce_lm::export::{self, DataFacts, ExportRequest, NameStyle, TrainingFacts};
use serde::{Deserialize, Serialize};

use super::Trainer;
use crate::checkpoint::{self, Loaded, STATE_FILE};
use crate::config::DataFiles;
use crate::data::Position;
use crate::error::{Error, Result};
use crate::observer::{BestModel, TrainObserver as _};
use crate::run_folder::RunFolder;

/// `selection.json` beside an exported model: its step and scores. Hugging Face tools ignore it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Chosen {
    step: u64,
    valid_nll: f64,
    valid_loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    valid_mauve: Option<f64>,
}

impl Chosen {
    const FILE: &str = "selection.json";

    fn of(model: &BestModel) -> Self {
        Self {
            step: model.step,
            valid_nll: model.valid_nll,
            valid_loss: model.valid_loss,
            valid_mauve: model.valid_mauve,
        }
    }

    /// `None` if the file is missing or damaged.
    fn read(folder: &Path) -> Option<Self> {
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
        let Some(run) = self.job.run else { return Ok(None) };
        let checkpoints = run.checkpoints();
        let config_json = self.step.model.config().to_json();
        let extra = [("config.json", config_json.as_bytes())];
        let (parameters, moments) = (self.step.variables.tensors(), self.step.optimizer.state());
        let path = checkpoint::save(&checkpoints, &self.state, parameters, moments, &extra)?;
        checkpoint::remove_old(&checkpoints, self.config.keep_last)?;
        self.observers.on_checkpoint(self.state.step, &path)?;
        Ok(Some(path))
    }

    /// Restores a checkpoint, after checking that it belongs to this run.
    pub(super) fn load_checkpoint(&mut self, run: &RunFolder, path: &Path) -> Result<()> {
        let Loaded { state, parameters, optimizer } = checkpoint::load(path)?;
        state.require_same_run(path, &self.config, &self.state.train_fingerprint)?;
        checkpoint::require_same_architecture(path, &**self.step.model.config())?;
        let bad = |problem| Error::BadCheckpoint { path: path.into(), problem };
        // With the same data and batch size, the position follows from the step.
        let position = self.batcher.position_of(state.step);
        if state.position != position {
            let Position { epoch, step_in_epoch } = state.position;
            return Err(bad(format!(
                "after step {} the data continue in epoch {} at step {}, but its `{STATE_FILE}` says epoch {epoch}, step {step_in_epoch}",
                state.step, position.epoch, position.step_in_epoch
            )));
        }
        self.step.variables.load(parameters).map_err(bad)?;
        self.step.optimizer.load_state(optimizer, state.step)?;
        let planned = self.state.total_steps;
        if state.total_steps != planned {
            tracing::warn!(
                "the run was planned for {} steps and is now for {planned}: the learning rate follows the new schedule",
                state.total_steps
            );
        }
        let own = std::mem::replace(&mut self.state, state);
        self.state.total_steps = planned;
        self.state.config = own.config;
        self.state.train_fingerprint = own.train_fingerprint;
        let valid = std::mem::replace(&mut self.state.valid_fingerprint, own.valid_fingerprint);
        self.restore_best(run, valid.as_deref());
        checkpoint::remove_above(&run.checkpoints(), self.state.step)
    }

    /// The best model is kept only if it was selected on the same development tokens (`valid` is their previous digest) and its folder, which
    /// may have moved with the run, contains it: after a kill, or after resuming from an older checkpoint, the folder may have a later model.
    fn restore_best(&mut self, run: &RunFolder, valid: Option<&str>) {
        let Some(best) = &mut self.state.best else { return };
        best.path = run.best();
        let folder = best.path.display();
        let are_same = match (valid, self.state.valid_fingerprint.as_deref()) {
            (Some(old), Some(new)) => checkpoint::are_same_tokens(old, new),
            (old, new) => old == new,
        };
        if !are_same {
            tracing::warn!("the development tokens have changed: the best model is selected anew");
        } else if !best.path.is_dir() {
            tracing::warn!("`{folder}` is missing: the best model is selected anew");
        } else if Chosen::read(&best.path) != Some(Chosen::of(best)) {
            tracing::warn!(
                "`{folder}` does not contain the model of step {}: the best model is selected anew",
                best.step
            );
        } else {
            return;
        }
        self.state.best = None;
        self.state.evaluations_without_improvement = 0;
        // Without a remaining step there is no further evaluation.
        self.state.evaluation_due |= self.job.valid.is_some() && self.state.step >= self.state.total_steps;
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
        let new = AtomicFolder::create(folder)?;
        export::write_files(new.path(), &request)?;
        if let Some(scores) = scores {
            Chosen::of(scores).write(new.path())?;
        }
        Ok(new.replace()?)
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
