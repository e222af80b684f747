//! Describes a checkpoint folder or a single weight file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use mixce::FAMILIES;
use mixce_lm::checkpoint::gguf::{self, Gguf};
use mixce_lm::checkpoint::{self, Reading, TensorInfo, list};
use mixce_lm::{Tokenizer, config};
use mixce_train::checkpoint::{STATE_FILE, TrainState};
use serde_json::{Value, json};

use super::run_folder::{made_by, provenance};
use super::verify::{summary, verified};
use crate::context::Context;
use crate::models;
use crate::output::{bytes, grouped, table};

pub(super) fn inspect(path: &Path, verify: bool, context: &Context) -> Result<()> {
    let verified = verify.then(|| verified(path)).transpose()?;
    let tensors = list(path)?;
    let gguf = gguf::find(path)?.map(|file| Gguf::open(&file)).transpose()?;
    // A GGUF file of another architecture is shown too, with what is in the way.
    let (config, refused) = match &gguf {
        Some(gguf) => split(gguf.config(FAMILIES)),
        None if path.join("config.json").is_file() => (Some(checkpoint::config(path, FAMILIES)?), None),
        None => (None, None),
    };
    let (tokenizer, no_tokenizer) = match Tokenizer::from_dir(path) {
        Err(mixce_lm::Error::NoTokenizer { .. }) => (None, None),
        Err(error) if gguf.is_none() => return Err(error.into()),
        other => split(other),
    };
    // How loading would interpret the tensors, if there is a configuration.
    let reading = config.as_ref().map(|config| checkpoint::read(path, &**config));
    let problem = reading.as_ref().and_then(|reading| reading.as_ref().err()).map(ToString::to_string);
    let problem = refused.or(problem);
    let reading = reading.and_then(Result::ok);
    let state_path = path.join(STATE_FILE);
    let state = if state_path.is_file() { Some(TrainState::read(&state_path)?) } else { None };
    let run = models::run_of(path);
    let provenance = run.as_ref().map(|run| provenance(&run.join("run.toml"))).transpose()?;
    let numbers: u64 = tensors.iter().map(|t| t.element_count() as u64).sum();
    let stored: u64 = tensors.iter().map(TensorInfo::stored_bytes).sum();
    let report = json!({
        "kind": if path.is_dir() || gguf.is_some() { "checkpoint" } else { "weights" },
        "path": path,
        "architecture": gguf.as_ref().map(Gguf::architecture).transpose()?,
        "numbers": numbers,
        "bytes": stored,
        "types": counts_by_type(&tensors),
        "parameters": config.as_ref().map(|config| config.spec().parameters),
        "config": config.as_ref().map(|config| config::json_object(&config.to_json())).transpose()?,
        "vocabulary": tokenizer.as_ref().map(Tokenizer::vocab_size),
        "tokenizer": tokenizer.as_ref().map(tokenizer_row),
        "tokenizer_problem": no_tokenizer,
        "reading": reading,
        "problem": problem,
        "run": run,
        "provenance": provenance,
        "step": state.as_ref().map(|state| state.step),
        "verified": verified,
        "tensors": tensors.iter().map(described).collect::<Vec<Value>>(),
    });
    context.output.either(&report, || {
        let mut text = tensor_table(&tensors);
        text += &format!("\n{} tensors, {} numbers, {}", tensors.len(), grouped(numbers), bytes(stored));
        for (dtype, count) in counts_by_type(&tensors) {
            text += &format!(", {count} {dtype}");
        }
        if let Some(architecture) = report["architecture"].as_str() {
            text += &format!("\nGGUF file, architecture {architecture}");
        }
        if let Some(config) = &config {
            text += &format!("\n{}, {} parameters", config.describe(), grouped(config.spec().parameters));
        }
        text += &reading.as_ref().map(described_reading).unwrap_or_default();
        if let Some(problem) = &problem {
            text += &format!("\ncannot be loaded: {problem}");
        }
        if let Some(tokenizer) = &tokenizer {
            text += &described_tokenizer(tokenizer);
        }
        if let Some(problem) = &no_tokenizer {
            text += &format!("\nits tokenizer cannot be read: {problem}");
        }
        if let (Some(run), Some(provenance)) = (&run, &provenance) {
            text += &format!("\nof run {}, made by {}", run.display(), made_by(provenance));
        }
        if let Some(state) = &state {
            text += &format!("\ntraining checkpoint of step {} of {}", state.step, state.total_steps);
        }
        if let Some(files) = &verified {
            text += &format!("\n{}", summary(files));
        }
        text
    })
}

fn tensor_table(tensors: &[TensorInfo]) -> String {
    let header = ["tensor", "dtype", "shape", "numbers"].map(str::to_owned).to_vec();
    let row = |t: &TensorInfo| {
        let shape = format!("{:?}", t.shape);
        vec![t.path(), t.dtype.name().to_owned(), shape, grouped(t.element_count() as u64)]
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(tensors.iter().map(row)).collect();
    table(&rows, &[false, false, false, true])
}

fn tokenizer_row(tokenizer: &Tokenizer) -> Value {
    json!({
        "class": tokenizer.class().name(),
        "bos": tokenizer.bos_id(),
        "eos": tokenizer.eos_id(),
        "added_tokens": tokenizer.added_tokens(),
        "notes": tokenizer.notes(),
    })
}

fn described(tensor: &TensorInfo) -> Value {
    let mut row = json!({"name": tensor.name, "dtype": tensor.dtype.name(), "shape": tensor.shape});
    if !tensor.dictionary.is_empty() {
        row["dictionary"] = json!(tensor.dictionary);
    }
    row
}

fn described_reading(reading: &Reading) -> String {
    let masks = match reading.buffers {
        0 => None,
        count => Some(format!("{count} stored buffers (attention masks, rotary tables) are not read")),
    };
    let unused = reading.unused_files.iter().map(|file| format!("not read: {file}"));
    masks.into_iter().chain(reading.notes()).chain(unused).map(|line| format!("\n{line}")).collect()
}

fn described_tokenizer(tokenizer: &Tokenizer) -> String {
    let added: Vec<String> =
        tokenizer.added_tokens().iter().map(|token| format!("`{}` {}", token.content, token.id)).collect();
    let mut text =
        format!("\ntokenizer: {} tokens, read as a {}", tokenizer.vocab_size(), tokenizer.class().name());
    if !added.is_empty() {
        text += &format!("; added tokens: {}", added.join(", "));
    }
    for note in tokenizer.notes() {
        text += &format!("\n  {note}");
    }
    text
}

fn counts_by_type(tensors: &[TensorInfo]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for tensor in tensors {
        *counts.entry(tensor.dtype.name()).or_insert(0) += 1;
    }
    counts
}

/// What there is, or why not.
fn split<T>(result: mixce_lm::Result<T>) -> (Option<T>, Option<String>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error.to_string())),
    }
}
