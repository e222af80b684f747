//! A checkpoint folder or a single weight file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use mixce::FAMILIES;
use mixce_lm::checkpoint::{TensorInfo, WeightType, list};
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
        "run": run,
        "provenance": provenance,
        "step": state.as_ref().map(|state| state.step),
        "tensors": tensors.iter().map(|t| json!({"name": t.name, "dtype": type_name(&t.dtype), "shape": t.shape})).collect::<Vec<Value>>(),
    });
    context.output.either(&report, || {
        let mut rows =
            vec![vec!["tensor".to_owned(), "dtype".to_owned(), "shape".to_owned(), "numbers".to_owned()]];
        rows.extend(tensors.iter().map(|t| {
            vec![
                t.name.clone(),
                type_name(&t.dtype),
                format!("{:?}", t.shape),
                grouped(t.element_count() as u64),
            ]
        }));
        let mut text = table(&rows, &[false, false, false, true]);
        text += &format!("\n{} tensors, {} numbers, {}", tensors.len(), grouped(numbers), bytes(stored));
        for (dtype, count) in counts_by_type(&tensors) {
            text += &format!(", {count} {dtype}");
        }
        if let Some(config) = &config {
            text += &format!("\n{}, {} parameters", config.describe(), grouped(config.spec().parameters));
        }
        if let Some(tokenizer) = &tokenizer {
            text += &format!("\ntokenizer: {} tokens", tokenizer.vocab_size());
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
