//! The tensors of a Llama.

use mixce_lm::{Init, ParameterKind, ParameterSpec};

use crate::config::LlamaConfig;

/// All parameters in the order of the forward pass, by transformers' names without `model.`. Matrices are stored `[out, in]`, as
/// `torch.nn.Linear` does. The tied LM head is not listed.
///
/// They begin as transformers draws them: matrices and embeddings are normal with deviation `initializer_range`, biases are 0, norms
/// are 1. Source: `_init_weights` in transformers 5.23 `modeling_utils.py`, but for the row of a padding token, which is 0 there.
pub(crate) fn specs(config: &LlamaConfig) -> Vec<ParameterSpec> {
    let table = (config.vocab_size, config.hidden_size);
    let normal = Init::Normal(config.initializer_range);
    let mut specs = vec![matrix("embed_tokens".to_owned(), table, ParameterKind::Embedding, normal)];
    for layer in 0..config.num_hidden_layers {
        let block = block(config, normal).into_iter();
        specs.extend(block.map(|spec| ParameterSpec {
            name: format!("layers.{layer}.{}", spec.name),
            layer: Some(layer),
            ..spec
        }));
    }
    specs.push(norm("norm", config.hidden_size));
    if !config.tie_word_embeddings {
        specs.push(matrix("lm_head".to_owned(), table, ParameterKind::Matrix, normal));
    }
    specs
}

/// Those of one block, by their names inside it.
fn block(config: &LlamaConfig, normal: Init) -> Vec<ParameterSpec> {
    let (c, inner, d) = (config.hidden_size, config.intermediate_size, config.head_dim);
    let (queries, keys) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    let mut specs = vec![norm("input_layernorm", c)];
    let linear = |specs: &mut Vec<ParameterSpec>, name: &str, shape, has_bias| {
        specs.push(matrix(name.to_owned(), shape, ParameterKind::Matrix, normal));
        if has_bias {
            specs.push(vector(format!("{name}.bias"), shape.0, ParameterKind::Bias, Init::Zeros));
        }
    };
    for (name, n_out) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
        linear(&mut specs, &format!("self_attn.{name}"), (n_out, c), config.has_qkv_bias());
    }
    if config.has_head_norms() {
        specs.extend([norm("self_attn.q_norm", d), norm("self_attn.k_norm", d)]);
    }
    linear(&mut specs, "self_attn.o_proj", (c, queries), config.attention_bias);
    specs.push(norm("post_attention_layernorm", c));
    for (name, shape) in [("gate_proj", (inner, c)), ("up_proj", (inner, c)), ("down_proj", (c, inner))] {
        linear(&mut specs, &format!("mlp.{name}"), shape, config.mlp_bias);
    }
    specs
}

/// `NAME.weight`, `[out, in]`.
fn matrix(name: String, (n_out, n_in): (usize, usize), kind: ParameterKind, init: Init) -> ParameterSpec {
    ParameterSpec { name: format!("{name}.weight"), shape: vec![n_out, n_in], kind, init, layer: None }
}

fn vector(name: String, size: usize, kind: ParameterKind, init: Init) -> ParameterSpec {
    ParameterSpec { name, shape: vec![size], kind, init, layer: None }
}

fn norm(name: &str, size: usize) -> ParameterSpec {
    vector(format!("{name}.weight"), size, ParameterKind::Norm, Init::Ones)
}
