//! The tensors of a GPT-2.

use mixce_lm::{Init, ParameterKind, ParameterSpec};

use crate::config::Gpt2Config;

/// All parameters in the order of the forward pass. The tied LM head is not listed.
///
/// They begin as transformers draws them: matrices and embeddings are normal with deviation `initializer_range`; the projections
/// that end a residual branch (`c_proj`) with `initializer_range / sqrt(2 n_layer)`; biases are 0; layer norms are 1 and 0.
/// Source: `_init_weights` in transformers 5.23 `models/gpt2/modeling_gpt2.py`; GPT-2 report, section 2.3.
pub(crate) fn specs(config: &Gpt2Config) -> Vec<ParameterSpec> {
    use ParameterKind::{Bias, Embedding, Matrix, Norm};
    let (c, inner) = (config.n_embd, config.inner_size());
    let normal = Init::Normal(config.initializer_range);
    let residual = Init::Normal(config.initializer_range / (2.0 * config.n_layer as f64).sqrt());
    let mut specs = Vec::new();
    let mut add = |layer: Option<usize>, name: &str, shape: &[usize], kind, init| {
        let name = layer.map_or_else(|| name.to_owned(), |layer| format!("h.{layer}.{name}"));
        specs.push(ParameterSpec { name, shape: shape.to_vec(), kind, init, layer });
    };
    add(None, "wte.weight", &[config.vocab_size, c], Embedding, normal);
    add(None, "wpe.weight", &[config.n_positions, c], Embedding, normal);
    for layer in 0..config.n_layer {
        let block: [(&str, &[usize], ParameterKind, Init); 12] = [
            ("ln_1.weight", &[c], Norm, Init::Ones),
            ("ln_1.bias", &[c], Norm, Init::Zeros),
            ("attn.c_attn.weight", &[c, 3 * c], Matrix, normal),
            ("attn.c_attn.bias", &[3 * c], Bias, Init::Zeros),
            ("attn.c_proj.weight", &[c, c], Matrix, residual),
            ("attn.c_proj.bias", &[c], Bias, Init::Zeros),
            ("ln_2.weight", &[c], Norm, Init::Ones),
            ("ln_2.bias", &[c], Norm, Init::Zeros),
            ("mlp.c_fc.weight", &[c, inner], Matrix, normal),
            ("mlp.c_fc.bias", &[inner], Bias, Init::Zeros),
            ("mlp.c_proj.weight", &[inner, c], Matrix, residual),
            ("mlp.c_proj.bias", &[c], Bias, Init::Zeros),
        ];
        for (name, shape, kind, init) in block {
            add(Some(layer), name, shape, kind, init);
        }
    }
    add(None, "ln_f.weight", &[c], Norm, Init::Ones);
    add(None, "ln_f.bias", &[c], Norm, Init::Zeros);
    if !config.tie_word_embeddings {
        add(None, "lm_head.weight", &[config.vocab_size, c], Matrix, normal);
    }
    specs
}
