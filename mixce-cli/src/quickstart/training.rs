//! Training the three models of the experiment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use candle_core::Device;
use mixce::FAMILIES;
use mixce_core::ObjectiveConfig;
use mixce_gpt2::Gpt2Config;
use mixce_lm::{LanguageModel, ModelConfig, Parameters, checkpoint};
use mixce_train::config::{Every, TrainConfig};
use mixce_train::observer::{StepReport, TrainObserver};
use mixce_train::run_folder::{Provenance, RunFolder};
use mixce_train::trainer::{TrainJob, train};

use super::corpus::{Corpus, MAX_TOKENS};
use super::{Progress, Settings};

/// A trained model and its export folder.
pub(super) struct Trained {
    pub(super) model: Box<dyn LanguageModel>,
    pub(super) dir: PathBuf,
}

pub(super) struct Training<'a> {
    pub(super) settings: &'a Settings,
    pub(super) corpus: &'a Corpus,
    pub(super) device: &'a Device,
    pub(super) progress: &'a mut dyn Progress,
}

/// Forwards steps to the progress display.
struct Watch<'a>(&'a mut dyn Progress);

impl TrainObserver for Watch<'_> {
    fn on_step(&mut self, report: &StepReport) -> mixce_train::Result<()> {
        self.0.update(report.step, &format!("nll {:.3}", report.nll));
        Ok(())
    }
}

impl Training<'_> {
    /// Trains the base model from random weights with MLE.
    pub(super) fn base(&mut self, dir: &Path) -> Result<Trained> {
        let size = self.corpus.tokenizer.vocab_size();
        let end = self.corpus.tokenizer.eos_id();
        let model_config = Gpt2Config {
            vocab_size: size,
            n_positions: MAX_TOKENS,
            n_embd: self.settings.channels,
            n_layer: self.settings.layers,
            n_head: (self.settings.channels / 16).max(1),
            bos_token_id: end,
            eos_token_id: end,
            ..Gpt2Config::default()
        };
        let parameters = Parameters::random(&model_config, self.settings.seed, self.device)?;
        let config = TrainConfig {
            objective: ObjectiveConfig::named("mle")?,
            max_steps: Some(self.settings.base_steps),
            lr: BASE_LR,
            warmup_steps: self.settings.base_steps / 20,
            ..self.common()
        };
        self.run("training the base model (MLE)", &config, Arc::new(model_config), &parameters, dir)
    }

    /// Finetunes the base model with MixCE at this `eta`, or with MLE.
    pub(super) fn finetune(&mut self, base: &Trained, eta: Option<f64>, dir: &Path) -> Result<Trained> {
        let objective = ObjectiveConfig::named(if eta.is_some() { "mixce" } else { "mle" })?;
        let steps = self.settings.finetune_steps;
        let config = TrainConfig { objective, eta, max_steps: Some(steps), lr: FINETUNE_LR, ..self.common() };
        let stage = if eta.is_some() { "finetuning with MixCE" } else { "finetuning with MLE" };
        self.run(stage, &config, base.model.config().clone(), base.model.parameters(), dir)
    }

    fn common(&self) -> TrainConfig {
        TrainConfig {
            batch_size: self.settings.batch_size,
            grad_accum: 1,
            max_length: Some(MAX_TOKENS),
            add_bos: Some(true),
            seed: self.settings.seed,
            dropout: Some(0.0),
            clip_grad_norm: 1.0,
            log_every: 50,
            eval_every: Every::Epoch,
            save_every: Every::Never,
            keep_last: 1,
            ..TrainConfig::default()
        }
    }

    fn run(
        &mut self,
        stage: &str,
        config: &TrainConfig,
        model: Arc<dyn ModelConfig>,
        parameters: &Parameters,
        dir: &Path,
    ) -> Result<Trained> {
        self.progress.begin(stage, config.max_steps.unwrap_or(0));
        let folder = RunFolder::create(dir)?;
        folder.write_run_toml(config, &Provenance::of(self.device))?;
        let job = TrainJob {
            valid: Some(&self.corpus.valid),
            tokenizer: Some(&self.corpus.tokenizer),
            run: Some(&folder),
            ..TrainJob::new(config, model, &self.corpus.train)?
        };
        let outcome = train(&job, parameters.clone(), &mut [&mut Watch(&mut *self.progress)])?;
        self.progress.end();
        let last = outcome.final_model.context("training ended without a model")?;
        let trained = checkpoint::load(&last, FAMILIES, self.device)?;
        Ok(Trained { model: trained.config.build(trained.parameters)?, dir: last })
    }
}

const BASE_LR: f64 = 2e-3;
const FINETUNE_LR: f64 = 1e-3;
