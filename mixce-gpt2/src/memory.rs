//! The memory of a GPT-2 block in training.

use mixce_kernels::{DrawnDropout, Heads, Precision, sublayer};
use mixce_lm::memory::{BlockMemory, PassShape};

use crate::config::Gpt2Config;

/// Counted from the shapes:
///
/// ```text
/// saved   = N (2 * 2 C * 2 + e (4 C + I)) + m, or 4 N C when blocks are recomputed
/// working = the larger one of
///           the MLP:    4 N C + e R (2 C + 2 I)
///           attention:  4 N C + e (4 N C + R C) - N (4 C + e I)
///           and N (4 C + e (4 C + I)) + m more when the block was recomputed
/// ```
///
/// bytes, where R is N on CUDA and at most 1024 on the CPU, and e is 4, on CUDA in bf16 2; m is the dropout of attention there
/// ([`DrawnDropout::bytes`]), else 0. Without dropout on the residual branches
/// CUDA needs N C numbers less in the MLP in f32. A block saves its input, queries, keys and values, the attended values, the stream
/// between attention and MLP (6 C), the MLP's pre-activations (I) and the dropout of attention.
pub(crate) fn block(config: &Gpt2Config, shape: PassShape) -> BlockMemory {
    let [n, c, inner] = [shape.tokens, config.n_embd, config.inner_size()].map(|size| size as u128);
    let half = shape.on_cuda && shape.precision == Precision::Bf16;
    let e: u128 = if half { 2 } else { 4 };
    let rows = if shape.on_cuda { n } else { n.min(sublayer::BLOCK_ROWS as u128) };
    let drawn = match half && config.attn_pdrop > 0.0 {
        true => {
            let heads = Heads::new(config.n_head, config.attention_scale(0));
            DrawnDropout::bytes(heads, config.head_size(), shape.tokens, shape.longest)
        }
        false => 0,
    };
    let inside = n * (4 * c + e * (4 * c + inner)) + drawn;
    let saved = 4 * n * c + if shape.recompute { 0 } else { inside };

    // The gradient of the stream; that of the branch, which is a copy only if something is dropped or rounded; normalised rows;
    // the MLP's activation and its gradient.
    let branch = if shape.on_cuda && !half && config.resid_pdrop == 0.0 { 0 } else { rows * c };
    let mlp = 4 * n * c + e * (branch + rows * (c + 2 * inner));
    // The gradients of the stream, of the attended values, and of queries, keys and values; normalised rows. What the MLP saved is
    // freed by then.
    let attention = 4 * n * c + e * (4 * n * c + rows * c);
    let attention = attention.saturating_sub(n * (4 * c + e * inner));
    let again = if shape.recompute { inside } else { 0 };
    BlockMemory { saved, working: mlp.max(attention) + again }
}
