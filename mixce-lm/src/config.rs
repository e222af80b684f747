//! The interface of model configurations.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexSet;
use serde_json::{Map, Value, json};

use crate::checkpoint::gguf::GgufFormat;
use crate::error::{Error, Result};
use crate::files;
use crate::memory::{BlockMemory, PassShape};
use crate::model::LanguageModel;
use crate::params::{ParameterSpec, Parameters};

pub mod keys;

/// Maximum number of parameters (2^34, 64 GiB in f32), so that an absurd configuration is an error before memory is allocated.
pub const MAX_PARAMETERS: u64 = 1 << 34;

/// Largest `config.json` that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Sizes and special tokens of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// The architecture as people write it: `GPT-2`.
    pub name: &'static str,
    /// The value of `model_type`, which is also the tag of a model card.
    pub model_type: &'static str,
    /// V, the number of token ids.
    pub vocabulary: usize,
    /// The context length in tokens.
    pub positions: usize,
    /// C, the channels of the hidden states.
    pub channels: usize,
    /// The number of blocks.
    pub layers: usize,
    /// The attention heads of a block.
    pub heads: usize,
    /// The number of weights; a tied LM head is counted once.
    pub parameters: u64,
    /// The name of the token embedding `[V, C]`.
    pub embedding: &'static str,
    /// The name of the LM head `[V, C]`: that of the embedding when they are tied.
    pub head: &'static str,
    /// The token that begins a text, if the vocabulary has it.
    pub bos: Option<u32>,
    /// The token that ends a text, if the vocabulary has it.
    pub eos: Option<u32>,
}

impl ModelSpec {
    /// Whether the LM head is the token embedding.
    #[must_use]
    pub fn is_tied(&self) -> bool {
        self.head == self.embedding
    }
}

/// The configuration of a model: the content of its `config.json`, and derived properties.
pub trait ModelConfig: Debug + Send + Sync {
    /// The family that reads such configurations.
    fn family(&self) -> &'static Family;

    /// Sizes and special tokens.
    fn spec(&self) -> ModelSpec;

    /// Checks that the values describe a valid model.
    ///
    /// # Errors
    /// The first invalid key.
    fn validate(&self) -> Result<()>;

    /// The text of a `config.json` that transformers loads: keys sorted, two spaces of indentation, a final newline.
    fn to_json(&self) -> String;

    /// The parameters in the order of the forward pass. A tied LM head is not listed. The configuration is taken as valid.
    fn parameter_specs(&self) -> Vec<ParameterSpec>;

    /// A model with these weights.
    ///
    /// # Errors
    /// When the configuration is invalid or a parameter is missing.
    fn build(&self, parameters: Parameters) -> Result<Box<dyn LanguageModel>>;

    /// The dropout probabilities: of the embeddings, of attention, of a block's contributions to the residual stream.
    fn dropout(&self) -> Vec<f64>;

    /// The same with every dropout probability at `p`.
    fn with_dropout(&self, p: f64) -> Arc<dyn ModelConfig>;

    /// The keys that affect results, with their effective values (defaults filled in).
    fn decisive_keys(&self) -> Map<String, Value>;

    /// Unknown keys of the file that are not among transformers' common ones: typing errors, most likely.
    fn unknown_keys(&self) -> Vec<String>;

    /// The sizes in one line, such as `GPT-2: 12 layers, 768 channels, ...`.
    fn describe(&self) -> String;

    /// How to recognise the model's tensors in a checkpoint.
    fn tensor_names(&self) -> TensorNames;

    /// Whether a checkpoint stores the matrices of the blocks transposed, judged by the shapes of its tensors by published name.
    fn is_transposed(&self, shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> bool;

    /// The name under which transformers' language model stores a parameter.
    fn transformers_name(&self, name: &str) -> String;

    /// The configuration to export, with the `keys` that describe the stored weights and the tokenizer.
    fn exported(&self, keys: &ExportedKeys<'_>) -> Arc<dyn ModelConfig>;

    /// Multiply-adds times two of the matrix products of one forward pass over packed texts of `lengths` tokens, with logits
    /// for `logit_tokens` of them.
    fn forward_flops(&self, lengths: &mut dyn Iterator<Item = usize>, logit_tokens: usize) -> u128;

    /// The memory of one block in a pass of training.
    fn block_memory(&self, shape: PassShape) -> BlockMemory;
}

/// How to recognise the tensors of a family in a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct TensorNames {
    /// The first segments of the published names of everything but the LM head.
    pub body: &'static [&'static str],
    /// Whether a published name is that of a buffer that old checkpoints store and no model needs.
    pub is_buffer: fn(&str) -> bool,
}

/// Keys of an exported `config.json` beside the model's own.
#[derive(Debug, Clone, Copy)]
pub struct ExportedKeys<'a> {
    /// The element type of the stored weights as transformers writes it: `float32`, ...
    pub dtype: &'a str,
    /// The tokenizer's token that begins a text, for a configuration whose own lies outside the vocabulary.
    pub bos: Option<u32>,
    /// The tokenizer's token that ends a text, likewise.
    pub eos: Option<u32>,
}

impl ExportedKeys<'_> {
    /// The ends of a text for `config.json`: the tokenizer's EOS, which training appends, first; then those that the configuration
    /// names, which end a sample as before.
    #[must_use]
    pub fn ends(&self, own: impl Iterator<Item = u32>, vocabulary: usize) -> Vec<u32> {
        let appended = self.eos.filter(|&id| (id as usize) < vocabulary);
        let ends: IndexSet<u32> = appended.into_iter().chain(own).collect();
        ends.into_iter().collect()
    }

    /// The keys that no configuration reads: which class of transformers loads the weights, and their type; without what another
    /// origin would need.
    pub fn write(&self, class: &str, keys: &mut BTreeMap<String, Value>) {
        for key in ["_name_or_path", "auto_map", "torch_dtype"] {
            keys.remove(key);
        }
        keys.insert("architectures".to_owned(), json!([class]));
        keys.insert("dtype".to_owned(), json!(self.dtype));
    }
}

/// A shared configuration of any family.
pub type SharedConfig = Arc<dyn ModelConfig>;

/// A model architecture that the program can read: one entry of its list of architectures.
#[derive(Debug)]
pub struct Family {
    /// The name in messages: `GPT-2`.
    pub name: &'static str,
    /// The values of `model_type` that it reads.
    pub model_types: &'static [&'static str],
    /// Whether a `config.json` without `model_type` belongs to it.
    pub reads_untyped: bool,
    /// Parses and validates the keys of a `config.json`.
    pub parse: fn(Map<String, Value>) -> Result<SharedConfig>,
    /// The names of built-in published sizes.
    pub presets: &'static [&'static str],
    /// A published size by name, with or without its owner on the hub.
    pub preset: fn(&str) -> Option<SharedConfig>,
    /// How its models are read from GGUF files, if they are.
    pub gguf: Option<GgufFormat>,
}

/// The architectures among which a `config.json` chooses.
pub type Families = &'static [&'static Family];

/// Reads and validates a `config.json` of one of these families.
///
/// # Errors
/// When the file cannot be read or is larger than 16 MiB; as [`from_json`].
pub fn from_file(path: &Path, families: &[&'static Family]) -> Result<Arc<dyn ModelConfig>> {
    let text = files::read_text(path, MAX_CONFIG_BYTES)?;
    from_json(&text, families).map_err(|error| error.in_file(path))
}

/// Parses and validates the text of a `config.json` of one of these families.
///
/// # Errors
/// [`Error::ConfigValue`] when it is not a JSON object; [`Error::UnknownArchitecture`] when `model_type` is of no family; what the
/// family refuses.
pub fn from_json(text: &str, families: &[&'static Family]) -> Result<Arc<dyn ModelConfig>> {
    let keys = json_object(text)?;
    let found = match keys.get("model_type").and_then(Value::as_str) {
        Some(model_type) => families.iter().find(|family| family.model_types.contains(&model_type)),
        None => families.iter().find(|family| family.reads_untyped),
    };
    match found {
        Some(family) => (family.parse)(keys),
        None => {
            let known: Vec<&str> = families.iter().flat_map(|family| family.model_types).copied().collect();
            Err(Error::UnknownArchitecture {
                model_type: keys.get("model_type").map_or_else(|| "(missing)".to_owned(), shown),
                known: known.join(", "),
            })
        }
    }
}

/// A published size by name.
#[must_use]
pub fn preset(name: &str, families: &[&'static Family]) -> Option<Arc<dyn ModelConfig>> {
    families.iter().find_map(|family| (family.preset)(name))
}

/// The keys of a `config.json`.
///
/// # Errors
/// [`Error::ConfigValue`] when it is not a JSON object.
pub fn json_object(text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text).map_err(|cause| Error::ConfigValue {
        key: "(whole file)".to_owned(),
        expected: "a JSON object".to_owned(),
        got: cause.to_string(),
    })
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
