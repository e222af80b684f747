//! `--dry-run`: prints what would happen.

use anyhow::Result;
use candle_core::Device;
use mixce_train::config::TrainConfig;
use mixce_train::data::{Batcher, Examples};
use mixce_train::prepare::Prepared;
use mixce_train::room::memory_of_rank;
use serde_json::{Value, json};

use crate::commands::plan::memory_rows;
use crate::context::{Context, device_name};
use crate::output::{grouped, table};

pub(super) fn print(
    config: &TrainConfig,
    prepared: &Prepared,
    device: &Device,
    ranks: usize,
    context: &Context,
) -> Result<()> {
    let batcher = Batcher::new(&prepared.train, config.batcher())?;
    let steps_per_epoch = batcher.steps_per_epoch();
    let total_steps = config.total_steps(steps_per_epoch);
    let parameters = prepared.parameters.element_count() as u64;
    // The last token of a document is only a target.
    let microbatch_tokens = config.batch_size.saturating_mul(prepared.train.longest().saturating_sub(1));
    let model = config.with_dropout(&prepared.model);
    let memory = memory_of_rank(config, &*model, &prepared.train, device, ranks);
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
        "memory": memory,
        "config": config,
    });
    context.output.either(&report, || {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let data = |examples: &Examples| {
            let counts = examples.store().counts();
            format!(
                "{} documents, {} tokens ({} cut to length; {} empty, {} without a target and {} bad ones left out)",
                grouped(counts.documents),
                grouped(counts.tokens),
                grouped(counts.truncated),
                grouped(counts.empty),
                grouped(counts.short),
                grouped(counts.bad)
            )
        };
        let mut rows = vec![row("train", data(&prepared.train))];
        rows.extend(prepared.valid.as_ref().map(|valid| row("valid", data(valid))));
        rows.push(row("model", format!("{} parameters, on {}", grouped(parameters), device_name(device))));
        rows.push(row(
            "steps",
            format!(
                "{} ({} per epoch, {} documents each)",
                grouped(total_steps),
                grouped(steps_per_epoch),
                config.batch_size * config.grad_accum
            ),
        ));
        rows.push(row(
            "microbatch",
            format!("at most {} tokens per forward pass", grouped(microbatch_tokens as u64)),
        ));
        rows.extend(memory_rows(&memory, &device_name(device)));
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
        "bad": counts.bad,
        "longest": examples.longest(),
    })
}
