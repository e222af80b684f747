//! What a step of training needs, computed from the shapes before anything is allocated.
//!
//! Legend: N tokens of a microbatch, C channels, I channels inside the MLP, L layers, V vocabulary, S tokens of a slice of logits.

use mixce_gpt2::{Gpt2Config, flops};
use mixce_kernels::{lm_head, sublayer};
use serde::Serialize;

/// The passes of a step, as far as memory depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// N, the tokens that go through the model together: the inputs of the longest microbatch.
    pub tokens: usize,
    /// Whether blocks are computed again in the backward pass (activation checkpointing).
    pub recompute: bool,
    /// Whether the kernels are those of CUDA, which handle all rows at once; on the CPU it is 1024 at a time.
    pub on_cuda: bool,
}

/// The memory of a step in bytes: what is there all the time, and what comes and goes in each microbatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StepMemory {
    /// The parameters.
    pub parameters: u64,
    /// Their gradients.
    pub gradients: u64,
    /// AdamW's two moments.
    pub moments: u64,
    /// What the blocks keep for the backward pass.
    pub activations: u64,
    /// On top of all that while the loss is computed: a slice of logits, the last hidden states and their gradient.
    pub lm_head: u64,
    /// On top of all that while the gradients of a block are computed.
    pub block: u64,
    /// The most that is in use at any time: everything but the smaller one of `lm_head` and `block`.
    pub peak: u64,
}

/// The memory of a step of training in f32.
///
/// ```text
/// parameters = gradients = moments / 2 = P
/// activations = N L (6 C + I), or N L C when blocks are computed again
/// lm_head     = 3 N C + S V
/// block       = the larger one of
///               the MLP:    N C + R (2 C + 2 I)
///               attention:  N (5 C - C - I) + R C
///               and N (5 C + I) more when the block was computed again
/// ```
///
/// numbers of 4 bytes each, where R is N on CUDA and at most 1024 on the CPU; without dropout on the residual branches CUDA needs N C
/// less in the MLP. A block keeps its input, queries, keys and values, what attention gave, the stream between attention and MLP (6 C)
/// and the input of the activation (I).
///
/// Not counted are the batch itself (under 50 bytes a token), the packed operands of matrix products on the CPU (some MB a thread), and
/// what does not belong to the arithmetic: the program, its data, the allocator's unused pages, CUDA's context and libraries.
#[must_use]
pub fn step_memory(config: &Gpt2Config, shape: StepShape) -> StepMemory {
    let [n, c, inner, layers, v] =
        [shape.tokens, config.n_embd, config.inner_size(), config.n_layer, config.vocab_size]
            .map(|size| size as u128);
    // Saturating: a batch size is only what somebody typed.
    let bytes = |numbers: u128| u64::try_from(4 * numbers).unwrap_or(u64::MAX);
    let rows = if shape.on_cuda { n } else { n.min(sublayer::BLOCK_ROWS as u128) };
    let inside = n * (5 * c + inner);
    let kept_of_a_block = n * c + if shape.recompute { 0 } else { inside };

    // The gradient of the stream; that of the branch, which is a copy only if something is dropped; normalised rows; the MLP's
    // activation and its gradient.
    let branch = if shape.on_cuda && config.resid_pdrop == 0.0 { 0 } else { rows * c };
    let mlp = n * c + branch + rows * (c + 2 * inner);
    // The gradients of the stream, of what attention gave, and of queries, keys and values; normalised rows. What the MLP kept is gone.
    let attention = (5 * n * c + rows * c).saturating_sub(n * (c + inner));
    let again = if shape.recompute { inside } else { 0 };

    let slice = lm_head::slice_tokens(shape.tokens, config.vocab_size, shape.on_cuda) as u128;
    let [parameters, moments] = [1, 2].map(|sets| bytes(sets * u128::from(config.parameter_count())));
    let activations = bytes(layers * kept_of_a_block);
    let (lm_head, block) = (bytes(3 * n * c + slice * v), bytes(mlp.max(attention) + again));
    StepMemory {
        parameters,
        gradients: parameters,
        moments,
        activations,
        lm_head,
        block,
        peak: [parameters, moments, activations, lm_head.max(block)]
            .into_iter()
            .fold(parameters, u64::saturating_add),
    }
}

/// Floating-point operations of the matrix products of a microbatch over texts of `lengths` tokens: those of [`flops::training`], and the
/// blocks' forward pass once more when it is computed again.
#[must_use]
pub fn executed_flops(
    config: &Gpt2Config,
    lengths: impl Iterator<Item = usize> + Clone,
    recompute: bool,
) -> u128 {
    let again = if recompute { flops::forward(config, lengths.clone(), 0) } else { 0 };
    flops::training(config, lengths) + again
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GPT-2 small, 8 texts of 512 tokens, in numbers of 4 bytes.
    #[test]
    fn gpt2_small_by_hand() {
        let config = Gpt2Config::gpt2_small();
        let of = |recompute, on_cuda| {
            let memory = step_memory(&config, StepShape { tokens: 4096, recompute, on_cuda });
            [memory.parameters, memory.activations, memory.lm_head, memory.block].map(|bytes| bytes / 4)
        };
        let (stream, p) = (4096 * 768, 124_439_808);
        // I = 4 C: a block keeps 10 C; on CUDA its gradients take dx, dropped branch, normalised rows (3 C) and twice I (8 C).
        assert_eq!(of(false, true), [p, 120 * stream, 3 * stream + 2670 * 50_257, 11 * stream]);
        assert_eq!(of(true, true), [p, 12 * stream, 3 * stream + 2670 * 50_257, 20 * stream]);
        // On the CPU all but dx is a quarter: 1024 rows.
        let block = stream + 10 * stream / 4;
        assert_eq!(of(false, false), [p, 120 * stream, 3 * stream + 1001 * 50_257, block]);
        assert_eq!(of(true, false)[3], block + 9 * stream);
    }

    #[test]
    fn the_peak_is_the_larger_of_the_two_moments() {
        let shape = StepShape { tokens: 64, recompute: false, on_cuda: true };
        let words = step_memory(&Gpt2Config::gpt2_small(), shape);
        assert!(words.lm_head > words.block);
        let few = Gpt2Config { vocab_size: 100, ..Gpt2Config::gpt2_small() };
        let layers = step_memory(&few, shape);
        assert!(layers.lm_head < layers.block);
        for memory in [words, layers] {
            let state = memory.parameters + memory.gradients + memory.moments;
            assert_eq!(memory.peak, state + memory.activations + memory.lm_head.max(memory.block));
        }
        // A narrow MLP leaves the peak of a block to attention: 5 C and C, less the C + C that are gone.
        let narrow = Gpt2Config { n_inner: Some(1), n_embd: 4, n_head: 1, ..few };
        assert_eq!(step_memory(&narrow, shape).block, 4 * 64 * (6 * 4 - 5));
    }

    #[test]
    fn recomputing_costs_a_forward_pass_of_the_blocks() {
        let config = Gpt2Config::gpt2_small();
        let lengths = || std::iter::repeat_n(512, 8);
        let [once, twice] = [false, true].map(|recompute| executed_flops(&config, lengths(), recompute));
        assert_eq!(once, flops::training(&config, lengths()));
        assert_eq!(twice - once, flops::forward(&config, lengths(), 0));
    }
}
