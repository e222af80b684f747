//! How the tensors of a checkpoint were understood: which dictionary holds the model, and what was left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::Weights;
use super::names::{self, Plan};
use super::tensor::{TensorInfo, WeightType};
use crate::config::ModelConfig;
use crate::error::{Error, Result, TensorMismatch};

/// What was made of the tensors of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// The dictionary of a PyTorch file that holds the model; empty for the outermost one, and for safetensors.
    pub dictionary: String,
    /// Segments that were taken out of the names, such as `transformer` and `_orig_mod`.
    pub prefixes: Vec<String>,
    /// Tensors that are no part of the language model, with the dictionary before the name: heads of other tasks, optimizer states.
    pub left_out: Vec<String>,
    /// The number of stored buffers (attention masks, tables of rotary embeddings), which are not read.
    pub buffers: usize,
    /// Whether the matrices of the blocks were stored transposed, as nanoGPT does.
    pub transposed: bool,
    /// Tensors that an index lists, no shard holds, and the model does not need.
    pub absent: Vec<String>,
    /// Other weight files of the folder, which are not read.
    pub unused_files: Vec<String>,
    /// Parameters that are stored in blocks of a GGUF file and dequantised: how many of each format.
    pub dequantised: BTreeMap<&'static str, usize>,
    /// The prefix that transformers itself writes.
    #[serde(skip)]
    own_prefix: Option<String>,
}

/// So many names are spelled out in a warning; the rest is counted.
const LISTED: usize = 8;

/// Chooses the dictionary of tensors that fits the configuration.
///
/// # Errors
/// [`Error::TensorMismatch`] when none fits, [`Error::TwoModels`] when several do.
pub(super) fn choose(weights: &Weights, config: &dyn ModelConfig) -> Result<(Plan, Reading)> {
    let path = &weights.path;
    if let Some((name, shard)) = weights.lost.iter().find(|(name, _)| !names::can_be_absent(name, config)) {
        return Err(Error::malformed(path, format!("tensor `{name}` should be in `{shard}` but is not")));
    }
    let tensors = match &weights.gguf {
        Some(gguf) => gguf.parameters(config.family())?,
        None => weights.tensors.clone(),
    };
    let mut dictionaries: BTreeMap<&str, Vec<TensorInfo>> = BTreeMap::new();
    for tensor in &tensors {
        dictionaries.entry(&tensor.dictionary).or_default().push(tensor.clone());
    }
    let own = config.tensor_names();
    let mut fitting: Vec<(&str, Plan)> = Vec::new();
    let mut nearest: Option<TensorMismatch> = None;
    let of_body = |tensors: &[TensorInfo]| tensors.iter().any(|tensor| names::is_of_body(&tensor.name, &own));
    for (&dictionary, tensors) in dictionaries.iter().filter(|(_, tensors)| of_body(tensors)) {
        match names::resolve(tensors, config) {
            Ok(plan) => fitting.push((dictionary, plan)),
            Err(mismatch)
                if nearest.as_ref().is_none_or(|best| mismatch.missing.len() < best.missing.len()) =>
            {
                nearest = Some(mismatch);
            }
            Err(_) => {}
        }
    }
    // One model that was saved under two names is one: any of them will do.
    if fitting.windows(2).any(|pair| !pair[0].1.is_same_as(&pair[1].1)) {
        let candidates = fitting.iter().map(|(dictionary, _)| (*dictionary).to_owned()).collect();
        return Err(Error::TwoModels { path: path.to_owned(), candidates });
    }
    let Some((dictionary, plan)) = fitting.into_iter().next() else {
        let mismatch = match nearest {
            Some(mismatch) => mismatch,
            // Nothing looks like this model: every parameter is missing.
            None => names::resolve(&[], config).err().unwrap_or_default(),
        };
        return Err(Error::TensorMismatch { path: path.to_owned(), mismatch: mismatch.into() });
    };
    let elsewhere = tensors.iter().filter(|tensor| tensor.dictionary != dictionary);
    let left_out = plan.left_out.iter().chain(elsewhere).map(TensorInfo::path).collect();
    let reading = Reading {
        dictionary: dictionary.to_owned(),
        prefixes: plan.wrappers.iter().cloned().collect(),
        left_out,
        buffers: plan.buffers,
        transposed: plan.transposed,
        absent: weights.lost.iter().map(|(name, _)| name.clone()).collect(),
        unused_files: weights.unused_files.clone(),
        dequantised: dequantised(&plan),
        own_prefix: own_prefix(config),
    };
    Ok((plan, reading))
}

/// The first segment of transformers' name of the embedding: `transformer`, `model`.
fn own_prefix(config: &dyn ModelConfig) -> Option<String> {
    let name = config.transformers_name(config.spec().embedding);
    name.split_once('.').map(|(prefix, _)| prefix.to_owned())
}

impl Reading {
    /// What is worth a warning: everything but transformers' own prefixes and masks.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.dictionary.is_empty() {
            notes.push(format!("the model is the dictionary `{}`", self.dictionary));
        }
        let usual = ["transformer", "lm"].into_iter().chain(self.own_prefix.as_deref());
        let usual: BTreeSet<&str> = usual.collect();
        let prefixes: Vec<String> = self
            .prefixes
            .iter()
            .filter(|name| !usual.contains(name.as_str()))
            .map(|name| format!("`{name}.`"))
            .collect();
        if !prefixes.is_empty() {
            notes.push(format!("names are read without {}", prefixes.join(", ")));
        }
        if !self.left_out.is_empty() {
            notes.push(format!(
                "{} tensors are no part of the language model and are left out: {}",
                self.left_out.len(),
                listed(&self.left_out)
            ));
        }
        if self.transposed {
            notes.push("the matrices of the blocks are stored as [out, in] and are transposed".to_owned());
        }
        if !self.dequantised.is_empty() {
            let counts: Vec<String> =
                self.dequantised.iter().map(|(format, count)| format!("{count} {format}")).collect();
            notes.push(format!(
                "quantised tensors ({}) are dequantised to f32; training and export do not quantise them again",
                counts.join(", ")
            ));
        }
        if !self.absent.is_empty() {
            notes.push(format!(
                "the index lists {} tensors that no shard holds and the model does not need: {}",
                self.absent.len(),
                listed(&self.absent)
            ));
        }
        notes
    }

    /// Says all that in the log.
    pub(super) fn warn(&self, path: &Path) {
        for note in self.notes() {
            tracing::warn!("`{}`: {note}", path.display());
        }
    }
}

fn dequantised(plan: &Plan) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for (_, tensor) in &plan.sources {
        if let WeightType::Blocks(format) = &tensor.dtype {
            *counts.entry(format.name()).or_insert(0) += 1;
        }
    }
    counts
}

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(LISTED) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}
