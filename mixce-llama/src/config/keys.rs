//! From the keys of a `config.json` to [`LlamaConfig`] and back.

use mixce_kernels::Activation;
use mixce_lm::Result;
use mixce_lm::config::keys::{
    ConfigKeys, activation_name, is_common, refuse_unsupported, unsupported, wrong,
};
use serde_json::{Map, Value, json};

use super::{LlamaConfig, MAX_LAYERS, ModelType, Rope};

/// Keys that published configurations have and that change nothing.
const HARMLESS: [&str; 3] = ["is_llama_config", "pretraining_tp", "rope_interleaved"];

/// The window of Mistral and Qwen where the file names none.
const WINDOW: usize = 4096;

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Whether a key that is kept but not used is a known one.
pub(super) fn is_harmless(key: &str) -> bool {
    is_common(key) || HARMLESS.contains(&key)
}

/// What the four configurations of transformers have where a file is silent.
struct Defaults {
    vocab_size: usize,
    intermediate_size: usize,
    /// `None`: as many as heads of queries.
    num_key_value_heads: Option<usize>,
    /// `None`: C / H.
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
}

impl ModelType {
    fn defaults(self) -> Defaults {
        let llama = Defaults {
            vocab_size: 32_000,
            intermediate_size: 11_008,
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            bos_token_id: Some(1),
            eos_token_id: Some(2),
        };
        let qwen = Defaults {
            vocab_size: 151_936,
            intermediate_size: 22_016,
            num_key_value_heads: Some(32),
            head_dim: None,
            max_position_embeddings: 32_768,
            bos_token_id: None,
            eos_token_id: None,
        };
        match self {
            Self::Llama => llama,
            Self::Mistral => Defaults {
                intermediate_size: 14_336,
                num_key_value_heads: Some(8),
                max_position_embeddings: 131_072,
                ..llama
            },
            Self::Qwen2 => qwen,
            Self::Qwen3 => Defaults { head_dim: Some(128), ..qwen },
        }
    }
}

pub(super) fn parse(mut object: Map<String, Value>) -> Result<LlamaConfig> {
    refuse_unsupported(&object)?;
    let model_type = model_type(&object)?;
    refuse_llamas(&object)?;
    let default = model_type.defaults();
    let positions =
        ConfigKeys(object.clone()).size(&["max_position_embeddings"], default.max_position_embeddings)?;
    let rope = Rope::take(&mut object, positions)?;
    let mut keys = ConfigKeys(object);
    let num_hidden_layers = keys.size(&["num_hidden_layers"], 32)?;
    let (sliding_window, windowed_layers) = windows(model_type, &mut keys, num_hidden_layers)?;
    let hidden_size = keys.size(&["hidden_size"], 4096)?;
    let heads = keys.size(&["num_attention_heads"], 32)?;
    let kv = keys.optional_size("num_key_value_heads", default.num_key_value_heads)?;
    let head_dim = keys.optional_size("head_dim", default.head_dim)?;
    let ends = keys.tokens("eos_token_id", default.eos_token_id)?;
    // Of the other architectures these keys are not: there they stay among the unknown ones.
    let mut flag = |key: &str, types: &[ModelType]| match types.contains(&model_type) {
        true => keys.flag(key, false),
        false => Ok(false),
    };
    let attention_bias = flag("attention_bias", &[ModelType::Llama, ModelType::Qwen3])?;
    let mlp_bias = flag("mlp_bias", &[ModelType::Llama])?;
    let mut config = LlamaConfig {
        model_type,
        vocab_size: keys.size(&["vocab_size"], default.vocab_size)?,
        hidden_size,
        intermediate_size: keys.size(&["intermediate_size"], default.intermediate_size)?,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: kv.unwrap_or(heads),
        head_dim: match head_dim {
            Some(size) => size,
            None => by_division(hidden_size, heads)?,
        },
        hidden_act: keys.activation("hidden_act", Activation::Silu)?,
        max_position_embeddings: keys.size(&["max_position_embeddings"], positions)?,
        rope,
        rms_norm_eps: keys.number("rms_norm_eps", 1e-6)?,
        initializer_range: keys.number("initializer_range", 0.02)?,
        attention_bias,
        mlp_bias,
        attention_dropout: keys.number("attention_dropout", 0.0)?,
        tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
        sliding_window,
        windowed_layers,
        use_cache: keys.flag("use_cache", true)?,
        bos_token_id: keys.token("bos_token_id", default.bos_token_id)?,
        eos_token_id: ends.first().copied(),
        more_eos_token_ids: ends.iter().skip(1).copied().collect(),
        pad_token_id: keys.token("pad_token_id", None)?,
        extra: Default::default(),
    };
    // Written anew on export.
    keys.0.remove("model_type");
    config.extra = keys.0.into_iter().collect();
    for key in config.unknown_keys() {
        tracing::warn!("config key `{key}` is not one of {}'s and has no effect", model_type.name());
    }
    Ok(config)
}

fn model_type(object: &Map<String, Value>) -> Result<ModelType> {
    let missing = Value::Null;
    let value = object.get("model_type").unwrap_or(&missing);
    let found = ModelType::ALL.into_iter().find(|known| value == known.key());
    found.ok_or_else(|| {
        unsupported("model_type", value, "of this family are `llama`, `mistral`, `qwen2` and `qwen3`")
    })
}

/// Keys that ask for what only some Llamas have and this crate has not.
fn refuse_llamas(object: &Map<String, Value>) -> Result<()> {
    for (key, value) in object {
        match key.as_str() {
            "pretraining_tp" if !value.is_null() && value.as_u64() != Some(1) => {
                return Err(unsupported(
                    key,
                    value,
                    "products are not split as in tensor-parallel pretraining",
                ));
            }
            "rope_interleaved" if !value.is_null() && value != false => {
                return Err(unsupported(key, value, "the rotary embedding turns the halves of a head"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// C / H, where no `head_dim` says otherwise.
fn by_division(hidden_size: usize, heads: usize) -> Result<usize> {
    if heads == 0 {
        return Err(wrong("num_attention_heads", "a positive integer", heads));
    }
    if !hidden_size.is_multiple_of(heads) {
        let expected = format!("a multiple of `num_attention_heads` ({heads}), as there is no `head_dim`");
        return Err(wrong("hidden_size", expected, hidden_size));
    }
    Ok(hidden_size / heads)
}

/// The window, and the layers that have it.
fn windows(
    model_type: ModelType,
    keys: &mut ConfigKeys,
    layers: usize,
) -> Result<(Option<usize>, Vec<bool>)> {
    if layers > MAX_LAYERS {
        return Err(wrong("num_hidden_layers", format!("between 1 and {MAX_LAYERS}"), layers));
    }
    if model_type == ModelType::Llama {
        return Ok((None, vec![false; layers]));
    }
    if model_type == ModelType::Mistral {
        let window = keys.optional_size("sliding_window", Some(WINDOW))?;
        return Ok((window, vec![window.is_some(); layers]));
    }
    let used = keys.flag("use_sliding_window", false)?;
    let window = keys.optional_size("sliding_window", Some(WINDOW))?.filter(|_| used);
    let first = keys.size(&["max_window_layers"], 28)?;
    let types = match keys.0.remove("layer_types") {
        None | Some(Value::Null) => (0..layers).map(|layer| window.is_some() && layer >= first).collect(),
        Some(types) => layer_types(&types, layers)?,
    };
    if window.is_none() && types.contains(&true) {
        let expected = format!("a window for the layers that `layer_types` calls `{SLIDING}`");
        return Err(wrong("sliding_window", expected, "none (null, or `use_sliding_window` is false)"));
    }
    let window = window.filter(|_| types.contains(&true));
    Ok((window, types))
}

/// Which layers `layer_types` gives a window.
fn layer_types(value: &Value, layers: usize) -> Result<Vec<bool>> {
    let list = value.as_array().filter(|list| list.len() == layers);
    let list = list.ok_or_else(|| {
        wrong("layer_types", format!("a list of `num_hidden_layers` ({layers}) names or null"), value)
    })?;
    list.iter()
        .map(|name| match name.as_str() {
            Some(FULL) => Ok(false),
            Some(SLIDING) => Ok(true),
            _ => Err(unsupported("layer_types", name, "known are `full_attention` and `sliding_attention`")),
        })
        .collect()
}

pub(super) fn write(config: LlamaConfig) -> Map<String, Value> {
    let mut object: Map<String, Value> = config.extra.into_iter().collect();
    let ends: Vec<u32> = config.eos_token_id.into_iter().chain(config.more_eos_token_ids).collect();
    let ends = if ends.len() > 1 { json!(ends) } else { json!(ends.first()) };
    let mut known = vec![
        ("model_type", json!(config.model_type.key())),
        ("vocab_size", json!(config.vocab_size)),
        ("hidden_size", json!(config.hidden_size)),
        ("intermediate_size", json!(config.intermediate_size)),
        ("num_hidden_layers", json!(config.num_hidden_layers)),
        ("num_attention_heads", json!(config.num_attention_heads)),
        ("num_key_value_heads", json!(config.num_key_value_heads)),
        ("hidden_act", json!(activation_name(config.hidden_act))),
        ("max_position_embeddings", json!(config.max_position_embeddings)),
        ("rope_parameters", config.rope.to_value()),
        ("rms_norm_eps", json!(config.rms_norm_eps)),
        ("initializer_range", json!(config.initializer_range)),
        ("attention_dropout", json!(config.attention_dropout)),
        ("tie_word_embeddings", json!(config.tie_word_embeddings)),
        ("use_cache", json!(config.use_cache)),
        ("bos_token_id", json!(config.bos_token_id)),
        ("eos_token_id", ends),
        ("pad_token_id", json!(config.pad_token_id)),
    ];
    // Qwen2 has no such key in transformers, which reads it all the same: written where it says something.
    let by_division = config.head_dim.checked_mul(config.num_attention_heads) == Some(config.hidden_size);
    if config.model_type != ModelType::Qwen2 || !by_division {
        known.push(("head_dim", json!(config.head_dim)));
    }
    if matches!(config.model_type, ModelType::Llama | ModelType::Qwen3) {
        known.push(("attention_bias", json!(config.attention_bias)));
    }
    if config.model_type == ModelType::Llama {
        known.push(("mlp_bias", json!(config.mlp_bias)));
    } else {
        known.push(("sliding_window", json!(config.sliding_window)));
    }
    if config.model_type.has_layer_types() {
        let name = |windowed: &bool| if *windowed { SLIDING } else { FULL };
        let types: Vec<&str> = config.windowed_layers.iter().map(name).collect();
        let first = config.windowed_layers.iter().position(|windowed| *windowed);
        known.push(("use_sliding_window", json!(config.sliding_window.is_some())));
        known.push(("max_window_layers", json!(first.unwrap_or(config.num_hidden_layers))));
        known.push(("layer_types", json!(types)));
    }
    object.extend(known.into_iter().map(|(key, value)| (key.to_owned(), value)));
    object
}
