//! Converts between the keys of a `config.json` and [`Gpt2Config`].

use mixce_kernels::Activation;
use serde_json::{Map, Value, json};

use super::{Gpt2Config, wrong};
use mixce_lm::special_ids::id_list;
use mixce_lm::{Error, Result};

/// Names of activations in transformers. Those in one row compute the same function in f32 up to rounding
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
pub(super) fn activation_from_name(name: &str) -> Option<Activation> {
    ACTIVATIONS.iter().find(|(_, names)| names.contains(&name)).map(|&(activation, _)| activation)
}

/// The name that is written for an activation.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::GeluNew => "gelu_new",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    }
}

/// Keys of transformers' `PreTrainedConfig` (of any version) and of GPT-2's other heads that do not change the language
/// model's forward pass.
const HARMLESS: &[&str] = &[
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
    "n_ctx",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "predict_special_tokens",
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

/// Whether a key that is kept but not used is a known one.
pub(super) fn is_harmless(key: &str) -> bool {
    HARMLESS.contains(&key) || key.starts_with("summary_")
}

/// Takes keys out of the object one by one; what is left over is `extra`.
struct Keys(Map<String, Value>);

impl Keys {
    /// The value under `key` or one of its aliases, all of which must agree.
    fn take(&mut self, names: &[&str]) -> Result<Option<(String, Value)>> {
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

    fn size(&mut self, names: &[&str], default: usize) -> Result<usize> {
        match self.take(names)? {
            None => Ok(default),
            Some((key, value)) => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| wrong(&key, "a positive integer".to_owned(), value)),
        }
    }

    fn optional_size(&mut self, key: &str) -> Result<Option<usize>> {
        match self.0.get(key) {
            Some(Value::Null) => {
                self.0.remove(key);
                Ok(None)
            }
            None => Ok(None),
            Some(_) => self.size(&[key], 0).map(Some),
        }
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64> {
        match self.0.remove(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| wrong(key, "a number".to_owned(), value)),
        }
    }

    fn flag(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.0.remove(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| wrong(key, "true or false".to_owned(), value)),
        }
    }

    /// Token ids: one, a list, or `null` (or the -1 of old files) for none.
    fn tokens(&mut self, key: &str, default: Option<u32>) -> Result<Vec<u32>> {
        let Some(value) = self.0.remove(key) else { return Ok(default.into_iter().collect()) };
        id_list(&value).ok_or_else(|| wrong(key, "a token id, a list of them or null".to_owned(), value))
    }

    /// A token id, `null`, or a list that names one id.
    fn token(&mut self, key: &str, default: Option<u32>) -> Result<Option<u32>> {
        let written = self.0.get(key).map_or_else(String::new, Value::to_string);
        match self.tokens(key, default)?.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            _ => Err(wrong(key, "one token id or null".to_owned(), written)),
        }
    }

    fn activation(&mut self) -> Result<Activation> {
        let Some(value) = self.0.remove("activation_function") else { return Ok(Activation::GeluNew) };
        let Some(name) = value.as_str() else {
            return Err(wrong("activation_function", "a name".to_owned(), value));
        };
        activation_from_name(name).ok_or_else(|| Error::ConfigUnsupported {
            key: "activation_function".to_owned(),
            value: name.to_owned(),
            reason: "unknown activation",
        })
    }
}

pub(super) fn parse(object: Map<String, Value>) -> Result<Gpt2Config> {
    refuse_unsupported(&object)?;
    let default = Gpt2Config::default();
    let context = object.get("n_ctx").cloned();
    let mut keys = Keys(object);
    // Old files have `n_ctx` beside `n_positions`. transformers does not treat it as an alias: it counts only if it is alone.
    let positions_named =
        ["n_positions", "max_position_embeddings"].iter().any(|name| keys.0.contains_key(*name));
    let positions: &[&str] =
        if positions_named { &["n_positions", "max_position_embeddings"] } else { &["n_ctx"] };
    let n_positions = keys.size(positions, default.n_positions)?;
    if let Some(context) = context {
        if context.as_u64() != Some(n_positions as u64) {
            tracing::warn!(
                "config key `n_ctx` ({context}) differs from `n_positions` ({n_positions}); it is not used"
            );
        }
        keys.0.insert("n_ctx".to_owned(), context);
    }
    let ends = keys.tokens("eos_token_id", default.eos_token_id)?;
    let mut config = Gpt2Config {
        vocab_size: keys.size(&["vocab_size"], default.vocab_size)?,
        n_positions,
        n_embd: keys.size(&["n_embd", "hidden_size"], default.n_embd)?,
        n_layer: keys.size(&["n_layer", "num_hidden_layers"], default.n_layer)?,
        n_head: keys.size(&["n_head", "num_attention_heads"], default.n_head)?,
        n_inner: keys.optional_size("n_inner")?,
        activation_function: keys.activation()?,
        resid_pdrop: keys.number("resid_pdrop", default.resid_pdrop)?,
        embd_pdrop: keys.number("embd_pdrop", default.embd_pdrop)?,
        attn_pdrop: keys.number("attn_pdrop", default.attn_pdrop)?,
        layer_norm_epsilon: keys.number("layer_norm_epsilon", default.layer_norm_epsilon)?,
        initializer_range: keys.number("initializer_range", default.initializer_range)?,
        scale_attn_weights: keys.flag("scale_attn_weights", default.scale_attn_weights)?,
        scale_attn_by_inverse_layer_idx: keys.flag("scale_attn_by_inverse_layer_idx", false)?,
        reorder_and_upcast_attn: keys.flag("reorder_and_upcast_attn", false)?,
        tie_word_embeddings: keys.flag("tie_word_embeddings", default.tie_word_embeddings)?,
        use_cache: keys.flag("use_cache", default.use_cache)?,
        bos_token_id: keys.token("bos_token_id", default.bos_token_id)?,
        eos_token_id: ends.first().copied(),
        more_eos_token_ids: ends.iter().skip(1).copied().collect(),
        pad_token_id: keys.token("pad_token_id", None)?,
        extra: Default::default(),
    };
    // Written anew on export.
    for key in ["model_type", "add_cross_attention"] {
        keys.0.remove(key);
    }
    config.extra = keys.0.into_iter().collect();
    for key in config.unknown_keys() {
        tracing::warn!("config key `{key}` is not one of GPT-2's and has no effect");
    }
    Ok(config)
}

/// Keys whose value, unless neutral, requires another computation.
fn refuse_unsupported(object: &Map<String, Value>) -> Result<()> {
    let refuse = |key: &str, value: &Value, reason| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Err(Error::ConfigUnsupported { key: key.to_owned(), value, reason })
    };
    for (key, value) in object {
        let empty = value.is_null()
            || value.as_object().is_some_and(Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty);
        match key.as_str() {
            "model_type" if value != "gpt2" => return refuse(key, value, "only `gpt2` models can be loaded"),
            "add_cross_attention" | "is_encoder_decoder" if !empty && value != false => {
                return refuse(key, value, "there is no cross attention");
            }
            "is_causal" if value == false => return refuse(key, value, "attention is always causal"),
            "pruned_heads" if !empty => return refuse(key, value, "attention heads cannot be pruned"),
            "quantization_config" if !empty => return refuse(key, value, "weights cannot be quantized"),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn write(config: Gpt2Config) -> Map<String, Value> {
    let mut object: Map<String, Value> = config.extra.into_iter().collect();
    let ends: Vec<u32> = config.eos_token_id.into_iter().chain(config.more_eos_token_ids).collect();
    let ends = if ends.len() > 1 { json!(ends) } else { json!(ends.first()) };
    let known = [
        ("model_type", json!("gpt2")),
        ("add_cross_attention", json!(false)),
        ("vocab_size", json!(config.vocab_size)),
        ("n_positions", json!(config.n_positions)),
        ("n_embd", json!(config.n_embd)),
        ("n_layer", json!(config.n_layer)),
        ("n_head", json!(config.n_head)),
        ("n_inner", json!(config.n_inner)),
        ("activation_function", json!(activation_name(config.activation_function))),
        ("resid_pdrop", json!(config.resid_pdrop)),
        ("embd_pdrop", json!(config.embd_pdrop)),
        ("attn_pdrop", json!(config.attn_pdrop)),
        ("layer_norm_epsilon", json!(config.layer_norm_epsilon)),
        ("initializer_range", json!(config.initializer_range)),
        ("scale_attn_weights", json!(config.scale_attn_weights)),
        ("scale_attn_by_inverse_layer_idx", json!(config.scale_attn_by_inverse_layer_idx)),
        ("reorder_and_upcast_attn", json!(config.reorder_and_upcast_attn)),
        ("tie_word_embeddings", json!(config.tie_word_embeddings)),
        ("use_cache", json!(config.use_cache)),
        ("bos_token_id", json!(config.bos_token_id)),
        ("eos_token_id", ends),
        ("pad_token_id", json!(config.pad_token_id)),
    ];
    object.extend(known.into_iter().map(|(key, value)| (key.to_owned(), value)));
    object
}
