//! Reading the keys that the configurations of all architectures have in common.

use mixce_kernels::Activation;
use serde_json::{Map, Value};

use super::shown;
use crate::error::{Error, Result};
use crate::special_ids::id_list;

/// Names under which transformers knows an activation. Those in one row compute the same function in f32 up to rounding
/// (`ACT2CLS` in transformers' `activations.py`); the first is the one that is written.
const ACTIVATIONS: [(Activation, &[&str]); 4] = [
    (
        Activation::GeluNew,
        &["gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"],
    ),
    (Activation::Gelu, &["gelu", "gelu_python"]),
    (Activation::Relu, &["relu"]),
    (Activation::Silu, &["silu", "swish"]),
];

/// The activation that a config file calls `name`.
#[must_use]
pub fn activation_from_name(name: &str) -> Option<Activation> {
    ACTIVATIONS.iter().find(|(_, names)| names.contains(&name)).map(|&(activation, _)| activation)
}

/// The name that is written for an activation.
#[must_use]
pub fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::GeluNew => "gelu_new",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    }
}

/// Keys of transformers' `PreTrainedConfig` (of any version) that do not change a language model's forward pass, and those that every
/// architecture writes anew.
const COMMON: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "_num_labels",
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "dtype",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "max_length",
    "model_type",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "prefix",
    "problem_type",
    "pruned_heads",
    "quantization_config",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "use_bfloat16",
    // Defaults of `generate` that old configs carry.
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "length_penalty",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// Whether a key is one of transformers' common part, so that it changes nothing where it is kept but not used.
#[must_use]
pub fn is_common(key: &str) -> bool {
    COMMON.contains(&key)
}

/// The error for a value that a key cannot have.
pub fn wrong(key: &str, expected: impl Into<String>, got: impl ToString) -> Error {
    Error::ConfigValue { key: key.to_owned(), expected: expected.into(), got: got.to_string() }
}

/// The error for a value that asks for a computation which is not there.
#[must_use]
pub fn unsupported(key: &str, value: &Value, reason: &'static str) -> Error {
    Error::ConfigUnsupported { key: key.to_owned(), value: shown(value), reason }
}

/// The keys of a `config.json`, taken out one by one; what is left over is nobody's.
///
/// Every method gives the default where the key is missing, and an [`Error::ConfigValue`] where its value is of another kind.
#[derive(Debug, Clone)]
pub struct ConfigKeys(pub Map<String, Value>);

impl ConfigKeys {
    /// The value under the first of these names, with that name; where several are there they must agree.
    ///
    /// # Errors
    /// When two names of one setting have different values.
    pub fn take(&mut self, names: &[&str]) -> Result<Option<(String, Value)>> {
        let mut found: Option<(String, Value)> = None;
        for &name in names {
            let Some(value) = self.0.remove(name) else { continue };
            match &found {
                None => found = Some((name.to_owned(), value)),
                Some((first, same)) if *same == value => {
                    tracing::debug!("config: `{name}` repeats `{first}`")
                }
                Some((first, other)) => {
                    return Err(wrong(name, format!("equal to its other name `{first}` ({other})"), value));
                }
            }
        }
        Ok(found)
    }

    /// The size under the first of these names (see [`ConfigKeys::take`]).
    ///
    /// # Errors
    /// When the value is something else.
    pub fn size(&mut self, names: &[&str], default: usize) -> Result<usize> {
        match self.take(names)? {
            None => Ok(default),
            Some((key, value)) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| wrong(&key, "a positive integer", value)),
        }
    }

    /// A size, or `None` for null.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn optional_size(&mut self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.0.get(key) {
            Some(Value::Null) => {
                self.0.remove(key);
                Ok(None)
            }
            None => Ok(default),
            Some(_) => self.size(&[key], 0).map(Some),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn number(&mut self, key: &str, default: f64) -> Result<f64> {
        match self.0.remove(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| wrong(key, "a number", value)),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn flag(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.0.remove(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| wrong(key, "true or false", value)),
        }
    }

    /// Token ids: one, a list, or `null` (or the -1 of old files) for none.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn tokens(&mut self, key: &str, default: Option<u32>) -> Result<Vec<u32>> {
        let Some(value) = self.0.remove(key) else { return Ok(default.into_iter().collect()) };
        id_list(&value).ok_or_else(|| wrong(key, "a token id, a list of them or null", value))
    }

    /// A token id, `null`, or a list that names one id.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn token(&mut self, key: &str, default: Option<u32>) -> Result<Option<u32>> {
        let written = self.0.get(key).map_or_else(String::new, Value::to_string);
        match self.tokens(key, default)?.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            _ => Err(wrong(key, "one token id or null", written)),
        }
    }

    /// An activation by one of transformers' names for it.
    ///
    /// # Errors
    /// When it is no name, or [`Error::ConfigUnsupported`] for one that is not known.
    pub fn activation(&mut self, key: &str, default: Activation) -> Result<Activation> {
        let Some(value) = self.0.remove(key) else { return Ok(default) };
        let Some(name) = value.as_str() else { return Err(wrong(key, "a name", value)) };
        activation_from_name(name).ok_or_else(|| unsupported(key, &value, "unknown activation"))
    }
}

/// Refuses keys of any architecture whose value, unless it is the neutral one, asks for another computation.
///
/// # Errors
/// [`Error::ConfigUnsupported`] with the first of them.
pub fn refuse_unsupported(object: &Map<String, Value>) -> Result<()> {
    let refuse = |key: &str, value: &Value, reason| Err(unsupported(key, value, reason));
    for (key, value) in object {
        let empty = value.is_null()
            || value.as_object().is_some_and(Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty);
        match key.as_str() {
            "add_cross_attention" | "is_encoder_decoder" if !empty && value != false => {
                return refuse(key, value, "there is no cross attention");
            }
            "is_causal" if value == false => return refuse(key, value, "attention is always causal"),
            "per_layer_config" if !empty => return refuse(key, value, "all layers have one configuration"),
            "pruned_heads" if !empty => return refuse(key, value, "attention heads cannot be pruned"),
            "quantization_config" if !empty => return refuse(key, value, "weights cannot be quantized"),
            _ => {}
        }
    }
    Ok(())
}
