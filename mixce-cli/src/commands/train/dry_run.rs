//! `--dry-run`: what would happen.

use anyhow::Result;
use candle_core::Device;
use mixce_gpt2::Gpt2Config;
use mixce_train::config::TrainConfig;
use mixce_train::data::{Batcher, Examples};
use mixce_train::prepare::Prepared;
use serde_json::{Value, json};

use crate::context::{Context, device_name};
use crate::output::{bytes, grouped, table};

pub(super) fn print(
    config: &TrainConfig,
    prepared: &Prepared,
    device: &Device,
    context: &Context,
) -> Result<()> {
    let batcher = Batcher::new(&prepared.train, config.batcher())?;
    let steps_per_epoch = batcher.steps_per_epoch();
    let total_steps = config.total_steps(steps_per_epoch);
    let parameters = prepared.parameters.element_count() as u64;
    let microbatch_tokens = (config.batch_size * prepared.train.longest()) as u64;
    // Weight, gradient and AdamW's two moments, f32.
    let state_bytes = 16 * parameters;
    let activation_bytes =
        activation_bytes(&prepared.model_config, microbatch_tokens, config.activation_checkpointing);
    let report = json!({
        "dry_run": true,
        "device": device_name(device),
        "parameters": parameters,
        "train": counts(&prepared.train),
        "valid": prepared.valid.as_ref().map(counts),
        "steps_per_epoch": steps_per_epoch,
        "total_steps": total_steps,
        "documents_per_step": config.batch_size * config.grad_accum,
        "longest_microbatch_tokens": microbatch_tokens,
        "memory_estimate_bytes": {"weights_gradients_moments": state_bytes, "activations": activation_bytes},
        "config": config,
    });
    context.output.either(&report, || {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let data = |examples: &Examples| {
            let counts = examples.store().counts();
            format!(
                "{} documents, {} tokens ({} cut to length, {} empty)",
                grouped(counts.documents),
                grouped(counts.tokens),
                grouped(counts.truncated),
                grouped(counts.empty)
            )
        };
        let mut rows = vec![row("train", data(&prepared.train))];
        rows.extend(prepared.valid.as_ref().map(|valid| row("valid", data(valid))));
        rows.push(row("model", format!("{} parameters, on {}", grouped(parameters), device_name(device))));
        rows.push(row(
            "steps",
            format!(
                "{} ({} an epoch, {} documents each)",
                grouped(total_steps),
                grouped(steps_per_epoch),
                config.batch_size * config.grad_accum
            ),
        ));
        rows.push(row(
            "memory",
            format!(
                "about {} (weights, gradients, moments {}; activations of the longest microbatch, {} tokens, {})",
                bytes(state_bytes + activation_bytes),
                bytes(state_bytes),
                grouped(microbatch_tokens),
                bytes(activation_bytes)
            ),
        ));
        let settings = config.to_toml().unwrap_or_else(|error| error.to_string());
        format!("{}\nsettings:\n{settings}", table(&rows, &[]))
    })
}

fn counts(examples: &Examples) -> Value {
    let counts = examples.store().counts();
    json!({
        "documents": counts.documents,
        "tokens": counts.tokens,
        "targets": examples.targets(),
        "examples": examples.len(),
        "empty": counts.empty,
        "short": counts.short,
        "truncated": counts.truncated,
        "longest": examples.longest(),
    })
}

/// What a microbatch keeps for its backward pass, f32: in each block 6 C (input, qkv, attended values, residual stream) and I
/// (inside the MLP) numbers a token, the block's input alone when all but one block are `recomputed`; beside that the input of the last
/// layer norm and the hidden states, each with its gradient.
fn activation_bytes(config: &Gpt2Config, tokens: u64, recomputed: bool) -> u64 {
    let (channels, inner, layers) = (config.n_embd as u64, config.inner_size() as u64, config.n_layer as u64);
    let block = 6 * channels + inner;
    let blocks = if recomputed { layers * channels + block } else { layers * block };
    4 * tokens * (blocks + 4 * channels)
}
