//! What a run writes besides its log: checkpoints and exported models.
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use mixce_gpt2::export::{self, DataFacts, ExportRequest, NameStyle, TrainingFacts};

use super::Trainer;
use crate::checkpoint::{self, Loaded};
use crate::error::{Error, Result};
use crate::fsio;
use crate::observer::TrainObserver as _;

impl Trainer<'_> {
    /// Writes the checkpoint of the present state and removes those that `--keep-last` does not cover.
    pub(super) fn save_checkpoint(&mut self) -> Result<PathBuf> {
        let checkpoints = self.run.checkpoints();
        let config_json = self.model.config().to_json();
        let extra = [("config.json", config_json.as_bytes())];
        let (parameters, moments) = (self.variables.tensors(), self.optimizer.state());
        let path = checkpoint::save(&checkpoints, &self.state, parameters, moments, &extra)?;
        checkpoint::remove_old(&checkpoints, self.config.keep_last)?;
        self.observers.on_checkpoint(self.state.step, &path)?;
        Ok(path)
    }

    /// Takes over a checkpoint, after checking that it belongs to this run.
    pub(super) fn load_checkpoint(&mut self, path: &Path) -> Result<()> {
        let Loaded { state, parameters, optimizer } = checkpoint::load(path)?;
        state.require_same_run(path, &self.config, &self.state.train_fingerprint)?;
        let bad = |problem| Error::BadCheckpoint { path: path.into(), problem };
        self.variables.load(parameters).map_err(bad)?;
        self.optimizer.load_state(optimizer, state.step)?;
        let planned = self.state.total_steps;
        if state.total_steps != planned {
            tracing::warn!(
                "the run was planned for {} steps and is now for {planned}: the learning rate follows the new plan",
                state.total_steps
            );
        }
        let (config, fingerprint) = (self.state.config.clone(), self.state.train_fingerprint.clone());
        self.state = state;
        self.state.total_steps = planned;
        self.state.config = config;
        self.state.train_fingerprint = fingerprint;
        self.restore_best();
        Ok(())
    }

    /// The best model's folder may have moved with the run; without it, the best so far is unknown.
    fn restore_best(&mut self) {
        let Some(best) = &mut self.state.best else { return };
        best.path = self.run.best();
        if !best.path.is_dir() {
            tracing::warn!("`{}` is missing: the best model is chosen anew", best.path.display());
            self.state.best = None;
        }
    }

    /// Exports the present parameters to `folder` in the Hugging Face layout, in place of what was there.
    pub(super) fn export_model(&self, folder: &Path, valid_nll: Option<f64>) -> Result<()> {
        let parameters = self.model.parameters().detached();
        let facts = self.facts(valid_nll);
        let request = ExportRequest {
            config: self.model.config(),
            parameters: &parameters,
            tokenizer: self.job.tokenizer,
            facts: &facts,
            names: NameStyle::HuggingFace,
            dtype: DType::F32,
        };
        let new = fsio::temporary_beside(folder);
        export::export(&new, &request)?;
        let old = fsio::temporary_beside(folder);
        let replaces = folder.exists();
        if replaces {
            fs::rename(folder, &old).map_err(Error::io("rename", folder))?;
        }
        fs::rename(&new, folder).map_err(Error::io("rename a folder to", folder))?;
        if replaces {
            fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
        }
        fsio::sync_folder(self.run.root())
    }

    /// For the model card.
    fn facts(&self, valid_nll: Option<f64>) -> TrainingFacts {
        let name_of = |path: &Option<PathBuf>| {
            path.as_ref()
                .and_then(|p| p.file_name())
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
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
            objective: Some(self.config.objective.to_string()),
            eta: self.config.eta,
            data: data.collect(),
            steps: Some(self.state.step),
            dev_nll_nats: valid_nll,
            seed: Some(self.config.seed),
        }
    }
}
