//! The benchmarked model.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use mixce_lm::ModelConfig;
use serde::Serialize;

use crate::error::{Problem, at_least, positive};
use crate::models;

/// More tokens than any batch has; a larger number is a typo.
const MAX_BATCH_TOKENS: usize = 1 << 24;

/// The flags of all benchmarks.
#[derive(Clone, Debug, Args, Serialize)]
pub(super) struct Common {
    /// A published size (gpt2, gpt2-large, SmolLM2-135M, Llama-3.2-1B, Qwen3-0.6B and others); a config.json; the folder of a model
    /// (its config.json); or a GGUF file
    #[arg(long, default_value = "gpt2", value_name = "NAME|FILE|FOLDER")]
    pub(super) model_config: String,
    /// Sequences per batch
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(super) batch_size: usize,
    /// Timed steps
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(super) steps: u64,
    /// Warm-up steps before the timed ones
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(super) warmup: u64,
    /// The device's rate of f32 matrix products in GFLOP/s, instead of measuring it
    #[arg(long, value_name = "GFLOP/S", allow_negative_numbers = true)]
    pub(super) gflops: Option<f64>,
}

impl Common {
    /// The configuration of `--model-config`.
    pub(super) fn model_config(&self) -> Result<Arc<dyn ModelConfig>> {
        models::known_config("--model-config", &self.model_config)
    }

    /// The folder or GGUF file that `--model-config` names, if it is one.
    pub(super) fn model(&self) -> Result<Option<PathBuf>> {
        models::known_model(&self.model_config)
    }

    /// Refuses invalid sizes; `tokens` per sequence, as given by `flag`.
    pub(super) fn check(&self, config: &dyn ModelConfig, flag: &str, tokens: usize) -> Result<()> {
        at_least("--batch-size", self.batch_size as u64, 1)?;
        at_least("--steps", self.steps, 1)?;
        at_least(flag, tokens as u64, 1)?;
        positive("--gflops", self.gflops)?;
        let positions = config.spec().positions;
        if tokens > positions {
            let problem = format!(
                "`{flag}`: {tokens} tokens, but the model has {positions} positions (config key `n_positions` or `max_position_embeddings`)"
            );
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
