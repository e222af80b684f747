//! Floating-point operations of a GPT-2, computed from its shape.

use crate::config::Gpt2Config;

/// Floating-point operations of the matrix products of one forward pass over packed texts of `lengths` tokens, with logits for
/// `logit_tokens` of them. With N the sum of the lengths `t`, and C, V, L, I as in [`Gpt2Config`]:
///
/// ```text
/// L * (2 N C * 3C  +  2 N C * C  +  2 * 2 N C I)      c_attn, attn.c_proj, mlp.c_fc and mlp.c_proj
/// L * sum_t  2 * 2 C * t (t + 1) / 2                  scores and weighted values: the causal lower triangle alone
/// 2 * logit_tokens * C * V                            LM head
/// ```
pub(crate) fn forward(
    config: &Gpt2Config,
    lengths: &mut dyn Iterator<Item = usize>,
    logit_tokens: usize,
) -> u128 {
    let [c, v, layers, inner] =
        [config.n_embd, config.vocab_size, config.n_layer, config.inner_size()].map(|n| n as u128);
    let (mut tokens, mut pairs) = (0, 0);
    for length in lengths.map(|t| t as u128) {
        tokens += length;
        pairs += length * (length + 1) / 2;
    }
    layers * (8 * tokens * c * c + 4 * tokens * c * inner + 4 * c * pairs) + 2 * logit_tokens as u128 * c * v
}

#[cfg(test)]
mod tests {
    use mixce_lm::flops::{forward, training};

    use crate::Gpt2Config;

    fn tiny() -> Gpt2Config {
        Gpt2Config {
            vocab_size: 10,
            n_positions: 8,
            n_embd: 4,
            n_layer: 2,
            n_head: 2,
            ..Gpt2Config::default()
        }
    }

    /// By hand: C 4, V 10, L 2, I 16; texts of 3 and 2 tokens, N 5.
    #[test]
    fn a_small_model_counted_by_hand() {
        // c_attn 2*5*4*12 = 480, c_proj 2*5*4*4 = 160, c_fc and c_proj of the MLP 2*5*4*16 = 640 each.
        let matrices = 480 + 160 + 640 + 640;
        // Pairs 6 + 3 = 9; scores and values 2*4 each.
        let attention = 9 * (8 + 8);
        let head = 2 * 5 * 4 * 10;
        assert_eq!(forward(&tiny(), [3, 2], 5), 2 * (matrices + attention) + head);
        assert_eq!(forward(&tiny(), [3, 2], 0), 2 * (matrices + attention));
        assert_eq!(training(&tiny(), [3, 2]), 3 * (2 * (matrices + attention) + head));
        assert_eq!(forward(&tiny(), [], 0), 0);
    }

    /// Every matrix once for each token, 2 operations an entry; `wpe` and the biases have none.
    #[test]
    fn a_token_costs_two_operations_a_weight() {
        let config = Gpt2Config { n_inner: Some(24), ..tiny() };
        let weights: usize = mixce_lm::ModelConfig::parameter_specs(&config)
            .iter()
            .filter(|spec| spec.shape.len() == 2 && spec.name != "wpe.weight")
            .map(|spec| spec.shape.iter().product::<usize>())
            .sum();
        let attention = 2 * 4 * 4;
        assert_eq!(forward(&config, [1], 1), 2 * weights as u128 + attention);
    }

    #[test]
    fn packing_is_cheaper_than_one_long_text() {
        let config = Gpt2Config::gpt2_small();
        let (packed, long) = (training(&config, [512; 8]), training(&config, [4096]));
        assert!(packed < long);
        // 0.77 GFLOP a token: 6 for each of the 123.5 million weights of its matrices, and attention.
        let per_token = packed as f64 / 4096.0;
        assert!((per_token - 769_559_040.0).abs() < 1.0, "{per_token}");
    }
}
