//! GPT-2 in GGUF files (`general.architecture` = `gpt2`).
//!
//! Source: `GPT2Model` in llama.cpp's `convert_hf_to_gguf.py`, and `gguf-py/gguf/tensor_mapping.py` for the names. The matrices are
//! those of `torch.nn.Linear`, `[out, in]`.

use mixce_lm::Result;
use mixce_lm::checkpoint::gguf::{Gguf, GgufFormat, GgufTensor, Metadata, StoredOrder, block_tensor};
use serde_json::{Map, Value, json};

/// How GPT-2 is read from GGUF files.
pub(crate) const FORMAT: GgufFormat = GgufFormat { architectures: &["gpt2"], config, tensor };

/// Keys of `config.json` and of the metadata, there behind `gpt2.`.
const SIZES: [(&str, &str); 5] = [
    ("n_positions", "context_length"),
    ("n_embd", "embedding_length"),
    ("n_inner", "feed_forward_length"),
    ("n_layer", "block_count"),
    ("n_head", "attention.head_count"),
];

const EPSILON: &str = "attention.layer_norm_epsilon";

fn config(gguf: &Gguf) -> Result<Map<String, Value>> {
    let metadata = gguf.metadata();
    let known: Vec<&str> = SIZES.iter().map(|(_, key)| *key).chain([EPSILON, "vocab_size"]).collect();
    metadata.require_known("gpt2", &known)?;
    let mut keys = Map::new();
    keys.insert("model_type".to_owned(), json!("gpt2"));
    // What llama.cpp computes for this architecture: the tanh approximation.
    keys.insert("activation_function".to_owned(), json!("gelu_new"));
    for (name, key) in SIZES {
        keys.insert(name.to_owned(), json!(metadata.require::<u64>(&format!("gpt2.{key}"))?));
    }
    let epsilon = metadata.require::<f64>(&format!("gpt2.{EPSILON}"))?;
    keys.insert("layer_norm_epsilon".to_owned(), json!(epsilon));
    Ok(keys)
}

fn tensor(name: &str, _: &Metadata) -> Result<Option<GgufTensor>> {
    let parameter = |name: String, order| Ok(Some(GgufTensor::Parameter { name, order }));
    let whole = match name {
        "token_embd.weight" => "wte.weight",
        "position_embd.weight" => "wpe.weight",
        "output_norm.weight" => "ln_f.weight",
        "output_norm.bias" => "ln_f.bias",
        "output.weight" => "lm_head.weight",
        _ => "",
    };
    if !whole.is_empty() {
        return parameter(whole.to_owned(), StoredOrder::Same);
    }
    let Some((layer, part, kind @ ("weight" | "bias"))) = block_tensor(name) else { return Ok(None) };
    let (published, is_matrix) = match part {
        "attn_norm" => ("ln_1", false),
        "attn_qkv" => ("attn.c_attn", true),
        "attn_output" => ("attn.c_proj", true),
        "ffn_norm" => ("ln_2", false),
        "ffn_up" => ("mlp.c_fc", true),
        "ffn_down" => ("mlp.c_proj", true),
        _ => return Ok(None),
    };
    let order = if is_matrix && kind == "weight" { StoredOrder::Transposed } else { StoredOrder::Same };
    parameter(format!("h.{layer}.{published}.{kind}"), order)
}
