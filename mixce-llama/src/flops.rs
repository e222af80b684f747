//! How much arithmetic a Llama needs, counted from its shape.

use crate::config::LlamaConfig;

/// Floating-point operations of the matrix products of one forward pass over packed texts of `lengths` tokens, with logits for
/// `logit_tokens` of them. With N the sum of the lengths `t`, `w` the window of a layer (infinite without one), and the letters of
/// [`LlamaConfig`]:
///
/// ```text
/// L * 2 N C (H + 2 K) D                                q_proj, k_proj and v_proj
/// L * 2 N H D C                                        o_proj
/// L * 3 * 2 N C I                                      gate_proj, up_proj and down_proj
/// sum over layers and texts of 2 * 2 H D * pairs       scores and weighted values, pairs = sum_{i=1}^{t} min(i, w)
/// 2 * logit_tokens * C * V                             LM head
/// ```
pub(crate) fn forward(
    config: &LlamaConfig,
    lengths: &mut dyn Iterator<Item = usize>,
    logit_tokens: usize,
) -> u128 {
    let [c, v, inner, h, k, d] = [
        config.hidden_size,
        config.vocab_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    ]
    .map(|n| n as u128);
    let window = config.sliding_window.map_or(u128::MAX, |window| window as u128);
    let (mut tokens, mut pairs, mut in_window) = (0, 0, 0);
    for length in lengths.map(|t| t as u128) {
        tokens += length;
        pairs += length * (length + 1) / 2;
        // The first w queries see all before them, the others w.
        let rising = length.min(window);
        in_window += rising * (rising + 1) / 2 + (length - rising) * rising;
    }
    let layers = config.num_hidden_layers as u128;
    let windowed =
        (0..config.num_hidden_layers).filter(|&layer| config.window(layer).is_some()).count() as u128;
    let matrices = 2 * tokens * c * ((2 * h + 2 * k) * d + 3 * inner);
    let attention = 4 * h * d * ((layers - windowed) * pairs + windowed * in_window);
    layers * matrices + attention + 2 * logit_tokens as u128 * c * v
}

#[cfg(test)]
mod tests {
    use mixce_lm::ModelConfig as _;
    use mixce_lm::flops::{forward, training};

    use crate::LlamaConfig;

    /// C 4, I 6, L 2, H 2, K 1, D 4, V 10.
    fn tiny(model_type: &str, more: &str) -> LlamaConfig {
        LlamaConfig::from_json(&format!(
            r#"{{"model_type":"{model_type}","vocab_size":10,"hidden_size":4,"intermediate_size":6,"num_hidden_layers":2,
            "num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,"max_position_embeddings":8{more}}}"#
        ))
        .unwrap()
    }

    /// By hand, for texts of 3 and 2 tokens, N 5.
    #[test]
    fn a_small_model_counted_by_hand() {
        // q 2*5*4*8 = 320, k and v 2*5*4*4 = 160 each, o 2*5*8*4 = 320, the MLP 3 times 2*5*4*6 = 240.
        let matrices = 320 + 160 + 160 + 320 + 720;
        let head = 2 * 5 * 4 * 10;
        // Pairs 6 + 3 = 9; scores and values 2*8 each.
        let attention = 9 * (16 + 16);
        let llama = tiny("llama", "");
        assert_eq!(forward(&llama, [3, 2], 5), 2 * (matrices + attention) + head);
        assert_eq!(training(&llama, [3, 2]), 3 * (2 * (matrices + attention) + head));
        assert_eq!(forward(&llama, [], 0), 0);
        // Of 3 tokens with a window of 2 the last one sees 2: 1 + 2 + 2 pairs, and 3 of the other text.
        let windowed = 8 * (16 + 16);
        let mistral = tiny("mistral", r#","sliding_window":2"#);
        assert_eq!(forward(&mistral, [3, 2], 0), 2 * (matrices + windowed));
        let qwen = r#","use_sliding_window":true,"sliding_window":2,"max_window_layers":1"#;
        assert_eq!(forward(&tiny("qwen2", qwen), [3, 2], 0), 2 * matrices + attention + windowed);
    }

    /// Every matrix once for each token, 2 operations an entry.
    #[test]
    fn a_token_costs_two_operations_a_weight() {
        let config = tiny("llama", "");
        let matrices = config.parameter_specs().into_iter().filter(|spec| spec.shape.len() == 2);
        let weights: usize = matrices
            .filter(|spec| spec.name != "embed_tokens.weight")
            .map(|spec| spec.shape.iter().product::<usize>())
            .sum();
        let attention = 2 * 2 * 8 * 2;
        assert_eq!(forward(&config, [1], 1), 2 * weights as u128 + attention);
    }
}
