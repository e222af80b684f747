//! Llamas in GGUF files (`general.architecture` = `llama`, `qwen2`, `qwen3`; Mistral and SmolLM2 are `llama` there).
//!
//! Source: `LlamaModel`, `Qwen2Model` and `Qwen3Model` in llama.cpp's `convert_hf_to_gguf.py`, `gguf-py/gguf/tensor_mapping.py` for the
//! names, and `LlamaTensorProcessor` in transformers 5.23 for the order of the rows.

use mixce_lm::Result;
use mixce_lm::checkpoint::gguf::{Gguf, GgufFormat, GgufTensor, Metadata, StoredOrder, block_tensor};
use serde_json::{Map, Value, json};

mod rope;

/// How the family is read from GGUF files.
pub(crate) const FORMAT: GgufFormat =
    GgufFormat { architectures: &["llama", "qwen2", "qwen3"], config, tensor };

/// Sizes: keys of `config.json`, and of the metadata behind the architecture's name.
const SIZES: [(&str, &str); 5] = [
    ("max_position_embeddings", "context_length"),
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", HEADS),
];

const HEADS: &str = "attention.head_count";
const KV_HEADS: &str = "attention.head_count_kv";
const KEY_LENGTH: &str = "attention.key_length";
const VALUE_LENGTH: &str = "attention.value_length";
const EPSILON: &str = "attention.layer_norm_rms_epsilon";
const CAUSAL: &str = "attention.causal";
const EXPERTS: &str = "expert_count";

/// Keys that say nothing that is not known otherwise.
const SILENT: [&str; 3] = ["vocab_size", "tensor_data_layout", "expert_used_count"];

/// The metadata of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: String,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn size(&self, key: &str) -> Result<Option<u64>> {
        self.metadata.get(&self.name(key))
    }

    fn required_size(&self, key: &str) -> Result<u64> {
        self.metadata.require(&self.name(key))
    }

    /// Refuses a key whose value is not the one that is computed.
    fn require_only(&self, key: &str, expected: u64) -> Result<()> {
        match self.size(key)? {
            Some(value) if value != expected => Err(self.metadata.unsupported(
                &self.name(key),
                value.to_string(),
                format!("expected {expected}"),
            )),
            _ => Ok(()),
        }
    }

    fn kv_heads(&self) -> Result<u64> {
        Ok(match self.size(KV_HEADS)? {
            Some(heads) => heads,
            None => self.required_size(HEADS)?,
        })
    }

    /// D, the channels of a head, all of which are rotated.
    fn head_dim(&self) -> Result<u64> {
        let (width, heads) = (self.required_size("embedding_length")?, self.required_size(HEADS)?);
        let head_dim = self.size(KEY_LENGTH)?.or_else(|| width.checked_div(heads));
        let head_dim =
            head_dim.ok_or_else(|| self.metadata.unsupported(&self.name(HEADS), "0", "expected heads"))?;
        self.require_only(VALUE_LENGTH, head_dim)?;
        self.require_only(rope::DIMENSIONS, head_dim)?;
        Ok(head_dim)
    }
}

fn config(gguf: &Gguf) -> Result<Map<String, Value>> {
    let keys = Keys { metadata: gguf.metadata(), architecture: gguf.architecture()? };
    let sizes = SIZES.iter().map(|(_, key)| *key);
    let others = [KV_HEADS, KEY_LENGTH, VALUE_LENGTH, EPSILON, CAUSAL, EXPERTS];
    let known: Vec<&str> = sizes.chain(others).chain(SILENT).chain(rope::KEYS).collect();
    keys.metadata.require_known(&keys.architecture, &known)?;
    keys.require_only(EXPERTS, 0)?;
    if keys.metadata.get::<bool>(&keys.name(CAUSAL))? == Some(false) {
        return Err(keys.metadata.unsupported(&keys.name(CAUSAL), "false", "expected true"));
    }
    let mut config = Map::new();
    let mut insert = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    insert("model_type", json!(keys.architecture));
    for (name, key) in SIZES {
        insert(name, json!(keys.required_size(key)?));
    }
    let head_dim = keys.head_dim()?;
    insert("num_key_value_heads", json!(keys.kv_heads()?));
    insert("head_dim", json!(head_dim));
    insert("rms_norm_eps", json!(keys.metadata.require::<f64>(&keys.name(EPSILON))?));
    insert("rope_parameters", rope::parameters(gguf, &keys, head_dim)?);
    // Qwen2 has biases of queries, keys and values in any case; the others have those of all four maps or none.
    if keys.architecture != "qwen2" {
        insert("attention_bias", json!(gguf.tensor("blk.0.attn_q.bias").is_some()));
    }
    if keys.architecture == "llama" {
        insert("mlp_bias", json!(gguf.tensor("blk.0.ffn_gate.bias").is_some()));
    }
    Ok(config)
}

fn tensor(name: &str, metadata: &Metadata) -> Result<Option<GgufTensor>> {
    let parameter = |name: String, order| Ok(Some(GgufTensor::Parameter { name, order }));
    let whole = match name {
        "token_embd.weight" => "embed_tokens.weight",
        "output_norm.weight" => "norm.weight",
        "output.weight" => "lm_head.weight",
        // The configuration has the scaling that they were made of.
        rope::FACTORS => return Ok(Some(GgufTensor::Redundant)),
        _ => "",
    };
    if !whole.is_empty() {
        return parameter(whole.to_owned(), StoredOrder::Same);
    }
    let Some((layer, part, kind @ ("weight" | "bias"))) = block_tensor(name) else { return Ok(None) };
    let published = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_output" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return Ok(None),
    };
    parameter(format!("layers.{layer}.{published}.{kind}"), order(part, metadata)?)
}

/// The converter reorders queries and keys of `llama` for a rotation of neighbouring channels; those of `qwen2` and `qwen3` stay.
fn order(part: &str, metadata: &Metadata) -> Result<StoredOrder> {
    let keys = Keys { metadata, architecture: metadata.require("general.architecture")? };
    let heads = match part {
        "attn_q" if keys.architecture == "llama" => keys.required_size(HEADS)?,
        "attn_k" if keys.architecture == "llama" => keys.kv_heads()?,
        _ => return Ok(StoredOrder::Same),
    };
    Ok(StoredOrder::RotaryPairs { heads: usize::try_from(heads).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open(name: &str) -> Gguf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf");
        Gguf::open(&folder.join(name).with_extension("gguf")).unwrap()
    }

    #[test]
    fn the_metadata_give_the_keys_of_a_configuration() {
        let llama3 = json!({
            "model_type": "llama", "max_position_embeddings": 128, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "rms_norm_eps": 1e-6, "attention_bias": false, "mlp_bias": false,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        });
        assert_eq!(Value::Object(config(&open("llama3")).unwrap()), llama3);
        let mistral = config(&open("mistral")).unwrap();
        assert_eq!((&mistral["model_type"], &mistral["attention_bias"]), (&json!("llama"), &json!(true)));
        let smollm = config(&open("smollm")).unwrap();
        assert_eq!(
            smollm["rope_parameters"],
            json!({"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0})
        );
        let qwen3 = config(&open("qwen3")).unwrap();
        assert_eq!((&qwen3["model_type"], &qwen3["head_dim"]), (&json!("qwen3"), &json!(16)));
        assert_eq!(config(&open("qwen2")).unwrap().get("attention_bias"), None);
    }

    #[test]
    fn queries_and_keys_of_llama_alone_are_reordered() {
        let of = |file: &str, name: &str| tensor(name, open(file).metadata()).unwrap();
        let parameter = |name: &str, order| Some(GgufTensor::Parameter { name: name.to_owned(), order });
        let pairs = |heads| StoredOrder::RotaryPairs { heads };
        assert_eq!(of("mistral", "blk.1.attn_q.bias"), parameter("layers.1.self_attn.q_proj.bias", pairs(4)));
        assert_eq!(
            of("mistral", "blk.1.attn_k.weight"),
            parameter("layers.1.self_attn.k_proj.weight", pairs(2))
        );
        let values = parameter("layers.0.self_attn.v_proj.weight", StoredOrder::Same);
        assert_eq!(of("mistral", "blk.0.attn_v.weight"), values);
        let queries = parameter("layers.0.self_attn.q_proj.weight", StoredOrder::Same);
        assert_eq!(of("qwen2", "blk.0.attn_q.weight"), queries);
        assert_eq!(of("llama3", "rope_freqs.weight"), Some(GgufTensor::Redundant));
        for unknown in ["blk.0.ffn_gate_exps.weight", "blk.x.attn_q.weight", "blk.0.attn_q.scale", "other"] {
            assert_eq!(of("llama3", unknown), None, "{unknown}");
        }
    }
}
