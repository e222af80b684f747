//! The memory of a Llama block in training.

use mixce_kernels::{DrawnDropout, Precision, sublayer};
use mixce_lm::memory::{BlockMemory, PassShape};

use crate::config::LlamaConfig;

/// Counted from the shapes, with Q = (H + 2 K) D numbers of queries, keys and values and A = H D of attended values a token:
///
/// ```text
/// saved   = N (4 * 2 C + e (Q + A + 2 I)) + m, and e N Q more with norms of heads; 4 N C when blocks are computed again
/// working = the larger one of
///           the MLP:    4 N C + e R (2 C + 3 I)
///           attention:  4 N C + e (N (Q + A) + R C) - N (4 C + e 2 I)
///           and N (saved - 4 N C) more when the block was computed again
/// ```
///
/// bytes, where R is N on CUDA and at most 1024 on the CPU, and e is 4, on CUDA in bf16 2; m is the dropout of attention there
/// ([`DrawnDropout::bytes`]), else 0. In f32 CUDA needs N C numbers less in the
/// MLP. A block saves its input, queries, keys and values, the attended values, the stream between attention and MLP (C), the outputs
/// of gate and up (2 I) and the dropout of attention.
pub(crate) fn block(config: &LlamaConfig, shape: PassShape) -> BlockMemory {
    let [n, c, inner, d] =
        [shape.tokens, config.hidden_size, config.intermediate_size, config.head_dim].map(|n| n as u128);
    let [h, k] = [config.num_attention_heads, config.num_key_value_heads].map(|n| n as u128);
    let (qkv, attended) = ((h + 2 * k) * d, h * d);
    let half = shape.on_cuda && shape.precision == Precision::Bf16;
    let e: u128 = if half { 2 } else { 4 };
    let rows = if shape.on_cuda { n } else { n.min(sublayer::BLOCK_ROWS as u128) };
    let projected = if config.has_head_norms() { qkv } else { 0 };
    let drawn = match half && config.attention_dropout > 0.0 {
        true => {
            let (tokens, longest) = (shape.tokens, shape.longest);
            DrawnDropout::bytes(config.heads(0), config.head_dim, tokens, longest)
        }
        false => 0,
    };
    let inside = n * (4 * c + e * (projected + qkv + attended + 2 * inner)) + drawn;
    let saved = 4 * n * c + if shape.recompute { 0 } else { inside };

    // The gradient of the stream; that of the branch, on CUDA a copy only where it is rounded; normalised rows; the gated activation,
    // and the gradients of gate and up.
    let branch = if shape.on_cuda && !half { 0 } else { rows * c };
    let mlp = 4 * n * c + e * (branch + rows * (c + 3 * inner));
    // The gradients of the stream, of queries, keys and values, and of the attended values; normalised rows. What the MLP saved is
    // freed by then.
    let attention = 4 * n * c + e * (n * (qkv + attended) + rows * c);
    let attention = attention.saturating_sub(n * (4 * c + e * 2 * inner));
    let again = if shape.recompute { inside } else { 0 };
    BlockMemory { saved, working: mlp.max(attention) + again }
}
