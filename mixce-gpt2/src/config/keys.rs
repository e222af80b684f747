//! Converts between the keys of a `config.json` and [`Gpt2Config`].

use mixce_lm::Result;
use mixce_lm::config::keys::{ConfigKeys, activation_name, is_common, refuse_unsupported, unsupported};
use serde_json::{Map, Value, json};

use super::Gpt2Config;

/// Whether a key that is kept but not used is a known one: of transformers' common part, or of GPT-2's other heads.
pub(super) fn is_harmless(key: &str) -> bool {
    is_common(key) || matches!(key, "n_ctx" | "predict_special_tokens") || key.starts_with("summary_")
}

pub(super) fn parse(object: Map<String, Value>) -> Result<Gpt2Config> {
    refuse_unsupported(&object)?;
    if let Some(value) = object.get("model_type").filter(|value| *value != "gpt2") {
        return Err(unsupported("model_type", value, "only `gpt2` models can be loaded"));
    }
    let default = Gpt2Config::default();
    let context = object.get("n_ctx").cloned();
    let mut keys = ConfigKeys(object);
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
        n_inner: keys.optional_size("n_inner", None)?,
        activation_function: keys.activation("activation_function", default.activation_function)?,
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
