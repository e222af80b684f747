//! Memory and arithmetic of a training step, computed from the shapes.
//!
//! Legend: N tokens of a microbatch, C channels, I channels inside the MLP, L layers, V vocabulary.

pub mod roofline;

use mixce_kernels::Precision;
use mixce_kernels::lm_head::Slice;
use mixce_lm::memory::PassShape;
use mixce_lm::params::ParameterSpec;
use mixce_lm::{ModelConfig, flops};
use serde::Serialize;

use crate::distributed::{GPU_BUCKET, MESSAGE, ReduceDtype};

/// The memory of a step in bytes: permanent, and temporary in each microbatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StepMemory {
    /// The parameters.
    pub parameters: u64,
    /// The copies of matrices that products in bf16 read on CUDA.
    pub rounded: u64,
    /// Their gradients.
    pub gradients: u64,
    /// AdamW's two moments.
    pub moments: u64,
    /// With several ranks, at most: copies of gradients on their way between ranks. NCCL's own buffers are not counted.
    pub exchange: u64,
    /// In addition on rank 0 while it writes a checkpoint, if the moments are divided over ranks: all of them.
    pub gathered: u64,
    /// The saved activations of the blocks.
    pub activations: u64,
    /// In addition while the loss is computed: a slice of logits, the last hidden states and their gradient.
    pub lm_head: u64,
    /// In addition during the backward pass of a block.
    pub block: u64,
    /// The peak: of the permanent memory, `exchange` and either `activations` with the larger of `lm_head` and `block`, or `gathered`.
    pub peak: u64,
}

impl StepMemory {
    /// The same with the moments divided over `ranks`.
    #[must_use]
    pub fn sharded(self, ranks: usize) -> Self {
        let ranks = (ranks as u64).max(1);
        let moments = self.moments.div_ceil(ranks);
        // Each of the two moments is gathered from a copy of the shard.
        let gathered = if ranks == 1 { 0 } else { self.moments.saturating_add(moments / 2) };
        Self { moments, gathered, ..self }.with_peak()
    }

    /// The same on one of `ranks` that exchange gradients as `dtype`.
    ///
    /// On CPUs these are the values of a bucket as they are read and as they are summed, in f32, and as they are sent and received: at most from every
    /// rank, on a rank whose shard has the whole bucket, or on rank 0 in the middle of connections by TCP. GPUs sum f32 in place, and have rounded
    /// copies of all gradients that are not yet summed, in the worst case of all, and an f32 copy of a bucket.
    #[must_use]
    pub fn exchanging(self, ranks: usize, dtype: ReduceDtype, on_cuda: bool) -> Self {
        let values = self.gradients / 4;
        let exchange = match (ranks, on_cuda, dtype) {
            (0 | 1, ..) | (_, true, ReduceDtype::F32) => 0,
            (_, true, ReduceDtype::Bf16) => 2 * values + 4 * values.min(GPU_BUCKET as u64),
            (_, false, _) => values.min(MESSAGE as u64) * (8 + dtype.bytes() * (ranks as u64 + 2)),
        };
        Self { exchange, ..self }.with_peak()
    }

    fn with_peak(self) -> Self {
        let in_step = self.activations.saturating_add(self.lm_head.max(self.block));
        let state = self.state().saturating_add(self.exchange);
        Self { peak: state.saturating_add(in_step.max(self.gathered)), ..self }
    }

    /// The permanent memory.
    #[must_use]
    pub fn state(&self) -> u64 {
        let state = [self.parameters, self.rounded, self.gradients, self.moments];
        state.into_iter().fold(0, u64::saturating_add)
    }
}

/// The memory of a step of training, from the blocks' ([`ModelConfig::block_memory`]):
///
/// ```text
/// parameters = gradients = moments / 2 = 4 P
/// rounded     = 2 M on CUDA in bf16, with the M numbers of the matrices of the blocks and of the LM head
/// activations = L saved
/// lm_head     = 12 N C + logits
/// block       = working
/// ```
///
/// bytes, with the logits of a [`Slice`]. On CUDA in bf16 the rounded hidden states are added to `lm_head`: 2 N C.
/// Not counted: the batch itself (under 50 bytes per token), the copies of biases (on CUDA in bf16, 2 bytes a number), the tables of a rotary
/// embedding (4 bytes per position and channel of a head), the packed operands of matrix products on the CPU (up to 17 MB per thread), the
/// program, its data, the allocator's unused pages, CUDA's context and libraries with their workspaces.
#[must_use]
pub fn step_memory(config: &dyn ModelConfig, shape: PassShape) -> StepMemory {
    let spec = config.spec();
    let [n, c, layers, v] =
        [shape.tokens, spec.channels, spec.layers, spec.vocabulary].map(|size| size as u128);
    let half = shape.on_cuda && shape.precision == Precision::Bf16;
    let rounded = |numbers: u128| if half { 2 * numbers } else { 0 };
    let block = config.block_memory(shape);
    let logits = Slice::new(shape.tokens, spec.vocabulary, shape.precision, shape.on_cuda).bytes();
    let lm_head = 12 * n * c + logits + rounded(n * c);
    let specs = config.parameter_specs();
    let size = |spec: &ParameterSpec| spec.shape.iter().map(|&n| n as u128).product::<u128>();
    let matrices: u128 = specs.iter().filter(|spec| spec.is_block_matrix()).map(size).sum();
    // Saturating, because the batch size is unchecked user input.
    let [parameters, rounded, moments, activations, lm_head, block] = [
        4 * u128::from(spec.parameters),
        rounded(matrices + v * c),
        8 * u128::from(spec.parameters),
        layers * block.saved,
        lm_head,
        block.working,
    ]
    .map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX));
    let memory = StepMemory {
        parameters,
        rounded,
        gradients: parameters,
        moments,
        exchange: 0,
        gathered: 0,
        activations,
        lm_head,
        block,
        peak: 0,
    };
    memory.with_peak()
}

/// Floating-point operations of the matrix products of a microbatch over texts of `lengths` tokens: those of [`flops::training`], and the
/// blocks' forward pass once more when it is recomputed.
#[must_use]
pub fn executed_flops(
    config: &dyn ModelConfig,
    lengths: impl Iterator<Item = usize> + Clone,
    recompute: bool,
) -> u128 {
    let again = if recompute { flops::forward(config, lengths.clone(), 0) } else { 0 };
    flops::training(config, lengths) + again
}

#[cfg(test)]
mod tests {
    use mixce_gpt2::Gpt2Config;

    use super::*;

    /// GPT-2 small, 8 texts of 512 tokens, in numbers of 4 bytes.
    #[test]
    fn gpt2_small_by_hand() {
        let config = Gpt2Config::gpt2_small();
        let of = |recompute, on_cuda| {
            let memory = step_memory(
                &config,
                PassShape { tokens: 4096, longest: 512, recompute, on_cuda, precision: Precision::F32 },
            );
            [memory.parameters, memory.activations, memory.lm_head, memory.block].map(|bytes| bytes / 4)
        };
        let (stream, p) = (4096 * 768, 124_439_808);
        // I = 4 C: a block keeps 10 C; on CUDA its gradients take dx, dropped branch, normalised rows (3 C) and twice I (8 C).
        assert_eq!(of(false, true), [p, 120 * stream, 3 * stream + 4096 * 50_304, 11 * stream]);
        assert_eq!(of(true, true), [p, 12 * stream, 3 * stream + 4096 * 50_304, 20 * stream]);
        // On the CPU all but dx is a quarter: 1024 rows.
        let block = stream + 10 * stream / 4;
        assert_eq!(of(false, false), [p, 120 * stream, 3 * stream + 1001 * 50_257, block]);
        assert_eq!(of(true, false)[3], block + 9 * stream);
    }

    /// The same in bf16: of the 10 C numbers that a block keeps 8 C take half, it also keeps the dropout of attention, of 12 heads and texts of
    /// 16 words of 32 bits, and matrices have a copy; on the CPU nothing changes.
    #[test]
    fn bf16_halves_what_is_inside() {
        let config = Gpt2Config::gpt2_small();
        let of = |on_cuda, precision| {
            step_memory(
                &config,
                PassShape { tokens: 4096, longest: 512, recompute: false, on_cuda, precision },
            )
        };
        let (exact, half) = (of(true, Precision::F32), of(true, Precision::Bf16));
        let stream = 4 * 4096 * 768;
        let drawn = 12 * 4096 * (16 + 1) / 2 * 4;
        assert_eq!(exact.activations - half.activations, 12 * (4 * stream - drawn));
        assert_eq!(half.block, stream + 5 * stream);
        let (logits, hidden) = (4096 * 50_304, 4096 * 768);
        assert_eq!(half.lm_head, exact.lm_head - 2 * logits + 2 * hidden);
        assert_eq!((half.rounded, exact.rounded), (2 * (12 * 12 * 768 * 768 + 50_257 * 768), 0));
        assert_eq!(of(false, Precision::F32), of(false, Precision::Bf16));
    }

    #[test]
    fn the_peak_is_the_larger_of_the_two_moments() {
        let precision = Precision::F32;
        let shape = PassShape { tokens: 64, longest: 64, recompute: false, on_cuda: true, precision };
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
    fn a_checkpoint_may_be_the_peak_of_a_rank_with_few_moments() {
        let precision = Precision::F32;
        let shape = |tokens| PassShape { tokens, longest: 64, recompute: false, on_cuda: false, precision };
        let (few, many) =
            [64, 65_536].map(|tokens| step_memory(&Gpt2Config::gpt2_small(), shape(tokens))).into();
        assert_eq!(few.sharded(1), few);
        let p = 124_439_808;
        let few = few.sharded(4);
        assert_eq!((few.moments, few.gathered), (2 * p, 8 * p + p));
        assert_eq!(few.peak, 4 * p + 4 * p + 2 * p + 9 * p);
        let StepMemory { peak, .. } = many;
        assert_eq!(many.sharded(4).peak, peak - 6 * p);
    }

    #[test]
    fn copies_of_gradients_depend_on_what_sends_them() {
        let precision = Precision::F32;
        let shape = PassShape { tokens: 64, longest: 64, recompute: false, on_cuda: false, precision };
        let memory = step_memory(&Gpt2Config::gpt2_small(), shape);
        let (mib, p) = (1 << 20, 124_439_808);
        let exchange = |ranks, dtype, on_cuda| memory.exchanging(ranks, dtype, on_cuda).exchange;
        for on_cuda in [false, true] {
            assert_eq!(memory.exchanging(1, ReduceDtype::Bf16, on_cuda), memory);
        }
        // Two copies in f32, one as sent, one of each rank, one of the sums as sent.
        assert_eq!(exchange(2, ReduceDtype::F32, false), 24 * mib);
        assert_eq!(exchange(2, ReduceDtype::Bf16, false), 16 * mib);
        assert_eq!(exchange(8, ReduceDtype::F32, true), 0);
        assert_eq!(exchange(8, ReduceDtype::Bf16, true), 2 * p + 24 * mib);
        assert_eq!(memory.exchanging(2, ReduceDtype::F32, false).peak, memory.peak + 24 * mib);
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
