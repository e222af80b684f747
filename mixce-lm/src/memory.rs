//! Memory of a block in training, computed by its architecture from the shapes.

use mixce_kernels::Precision;

/// The properties of a training pass that determine its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassShape {
    /// N, the input tokens of the longest microbatch.
    pub tokens: usize,
    /// T, those of its longest document.
    pub longest: usize,
    /// Whether blocks are recomputed in the backward pass (activation checkpointing).
    pub recompute: bool,
    /// Whether the CUDA kernels are used, which process all rows at once; the CPU processes 1024 at a time.
    pub on_cuda: bool,
    /// Whether activations inside a branch are saved as bf16, which only CUDA does; the CPU needs the memory of f32.
    pub precision: Precision,
}

/// The memory of one block, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMemory {
    /// The saved activations.
    pub saved: u128,
    /// Additional memory during the backward pass of the block.
    pub working: u128,
}
