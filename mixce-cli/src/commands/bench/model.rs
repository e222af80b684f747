//! Which model is measured.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use mixce_gpt2::Gpt2Config;
use serde::Serialize;

use crate::error::Problem;

/// More tokens than go through any model together; above it a number is a slip.
const MAX_BATCH_TOKENS: usize = 1 << 24;

/// The flags of every measurement.
#[derive(Clone, Debug, Args, Serialize)]
pub(super) struct Common {
    /// gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2; a config.json; or the folder of a model (its config.json)
    #[arg(long, default_value = "gpt2", value_name = "NAME|FILE|FOLDER")]
    pub(super) model_config: String,
    /// Sequences that go through the model together
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(super) batch_size: usize,
    /// Steps that count
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(super) steps: u64,
    /// Steps before those
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(super) warmup: u64,
}

impl Common {
    /// The configuration that `--model-config` means.
    pub(super) fn model_config(&self) -> Result<Gpt2Config> {
        let named = &self.model_config;
        if let Some(preset) = Gpt2Config::preset(named) {
            return Ok(preset);
        }
        let path = Path::new(named);
        let file = self.model_folder().map_or_else(|| path.to_owned(), |folder| folder.join("config.json"));
        if !path.exists() {
            let presets = Gpt2Config::PRESETS.map(|name| format!("`{name}`")).join(", ");
            let problem =
                Problem::new(format!("`--model-config`: expected {presets} or a path, got `{named}`"));
            return Err(problem.hint("a path is a config.json, or a folder with one").into());
        }
        Ok(Gpt2Config::from_file(&file)?)
    }

    /// The folder that `--model-config` names, if it is one.
    pub(super) fn model_folder(&self) -> Option<PathBuf> {
        let path = PathBuf::from(&self.model_config);
        (Gpt2Config::preset(&self.model_config).is_none() && path.is_dir()).then_some(path)
    }

    /// Refuses sizes that cannot be measured: `tokens` of each sequence, as `flag` gave them.
    pub(super) fn check(&self, config: &Gpt2Config, flag: &str, tokens: usize) -> Result<()> {
        at_least("--batch-size", self.batch_size as u64, 1)?;
        at_least("--steps", self.steps, 1)?;
        at_least(flag, tokens as u64, 1)?;
        let positions = config.n_positions;
        if tokens > positions {
            let problem =
                format!("`{flag}`: {tokens} tokens, but the model has {positions} positions (`n_positions`)");
            return Err(Problem::new(problem).hint(format!("use at most {positions} tokens")).into());
        }
        if self.batch_size.saturating_mul(tokens) > MAX_BATCH_TOKENS {
            let problem = format!(
                "`--batch-size {}` of {tokens} tokens: expected at most {MAX_BATCH_TOKENS} tokens together",
                self.batch_size
            );
            return Err(Problem::new(problem).into());
        }
        Ok(())
    }
}

/// Refuses a number below `least`.
pub(super) fn at_least(flag: &str, value: u64, least: u64) -> Result<()> {
    if value < least {
        return Err(Problem::new(format!("`{flag}`: expected at least {least}, got `{value}`")).into());
    }
    Ok(())
}
