//! The memory that a block needs in training, as its architecture counts it from the shapes.

use mixce_kernels::Precision;

/// A pass of training, as far as memory depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassShape {
    /// N, the tokens that go through the model together: the inputs of the longest microbatch.
    pub tokens: usize,
    /// Whether blocks are computed again in the backward pass (activation checkpointing).
    pub recompute: bool,
    /// Whether the kernels are those of CUDA, which handle all rows at once; on the CPU it is 1024 at a time.
    pub on_cuda: bool,
    /// In bf16 CUDA saves the activations inside a branch of a block in 2 bytes; on the CPU memory is that of f32.
    pub precision: Precision,
}

/// The memory of one block, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMemory {
    /// What is saved from the forward pass for the backward pass.
    pub saved: u128,
    /// What is in use on top of that while the gradients of the block are computed.
    pub working: u128,
}
