//! A checkpoint folder or a single weight file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use mixce::FAMILIES;
use mixce_lm::checkpoint::{self, Reading, TensorInfo, WeightType, list};
use mixce_lm::{Tokenizer, config};
use mixce_train::checkpoint::{STATE_FILE, TrainState};
use serde_json::{Value, json};

use super::run_folder::{made_by, provenance};
use crate::context::Context;
use crate::models;
use crate::output::{bytes, grouped, table};

pub(super) fn inspect(path: &Path, context: &Context) -> Result<()> {
    let tensors = list(path)?;
    let config_path = path.join("config.json");
    let config = if config_path.is_file() { Some(config::from_file(&config_path, FAMILIES)?) } else { None };
    let tokenizer = match Tokenizer::from_dir(path) {
        Ok(tokenizer) => Some(tokenizer),
        Err(mixce_lm::Error::NoTokenizer { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // What loading would make of it, where the configuration says what is wanted.
    let reading = config.as_ref().map(|config| checkpoint::read(path, &**config));
    let problem = reading.as_ref().and_then(|reading| reading.as_ref().err()).map(ToString::to_string);
    let reading = reading.and_then(Result::ok);
    let state_path = path.join(STATE_FILE);
    let state = if state_path.is_file() { Some(TrainState::read(&state_path)?) } else { None };
    let run = models::run_of(path);
    let provenance = run.as_ref().map(|run| provenance(&run.join("run.toml"))).transpose()?;
    let numbers: u64 = tensors.iter().map(|t| t.element_count() as u64).sum();
    let stored: u64 = tensors.iter().map(stored_bytes).sum();
    let report = json!({
        "kind": if path.is_dir() { "checkpoint" } else { "weights" },
        "path": path,
        "numbers": numbers,
        "bytes": stored,
        "parameters": config.as_ref().map(|config| config.spec().parameters),
        "config": config.as_ref().map(|config| config::json_object(&config.to_json())).transpose()?,
        "vocabulary": tokenizer.as_ref().map(Tokenizer::vocab_size),
        "tokenizer": tokenizer.as_ref().map(|tokenizer| json!({
            "class": tokenizer.class().name(),
            "bos": tokenizer.bos_id(),
            "eos": tokenizer.eos_id(),
            "added_tokens": tokenizer.added_tokens(),
            "notes": tokenizer.notes(),
        })),
        "reading": reading,
        "problem": problem,
        "run": run,
        "provenance": provenance,
        "step": state.as_ref().map(|state| state.step),
        "tensors": tensors.iter().map(described).collect::<Vec<Value>>(),
    });
    context.output.either(&report, || {
        let mut rows =
            vec![vec!["tensor".to_owned(), "dtype".to_owned(), "shape".to_owned(), "numbers".to_owned()]];
        rows.extend(tensors.iter().map(|t| {
            vec![t.path(), type_name(&t.dtype), format!("{:?}", t.shape), grouped(t.element_count() as u64)]
        }));
        let mut text = table(&rows, &[false, false, false, true]);
        text += &format!("\n{} tensors, {} numbers, {}", tensors.len(), grouped(numbers), bytes(stored));
        for (dtype, count) in counts_by_type(&tensors) {
            text += &format!(", {count} {dtype}");
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
        if let (Some(run), Some(provenance)) = (&run, &provenance) {
            text += &format!("\nof run {}, made by {}", run.display(), made_by(provenance));
        }
        if let Some(state) = &state {
            text += &format!("\ntraining checkpoint of step {} of {}", state.step, state.total_steps);
        }
        text
    })
}

fn described(tensor: &TensorInfo) -> Value {
    let mut row = json!({"name": tensor.name, "dtype": type_name(&tensor.dtype), "shape": tensor.shape});
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

fn stored_bytes(tensor: &TensorInfo) -> u64 {
    (tensor.element_count() * tensor.dtype.size_bytes()) as u64
}

fn counts_by_type(tensors: &[TensorInfo]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for tensor in tensors {
        *counts.entry(type_name(&tensor.dtype)).or_insert(0) += 1;
    }
    counts
}

fn type_name(dtype: &WeightType) -> String {
    match dtype {
        WeightType::F64 => "f64".to_owned(),
        WeightType::F32 => "f32".to_owned(),
        WeightType::F16 => "f16".to_owned(),
        WeightType::Bf16 => "bf16".to_owned(),
        WeightType::Other(name) => name.clone(),
    }
}
