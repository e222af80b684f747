//! Differentiable tensor operations that candle lacks.
//!
//! Every operation here has a backward pass. Each file contains the operation's documentation, a reference implementation of
//! plain candle operations (used in tests, and on devices without a fused kernel), the fused version if there is one, and the
//! dispatch between them, which is transparent to callers. Errors are candle's own.
//!
//! | operation | description |
//! | --- | --- |
//! | [`rng::Stream`] | counter-based random numbers: same seed, same numbers, on any device |
//! | [`dropout`] | inverted dropout whose mask is regenerated instead of stored |
//! | [`Norm`] | layer norm and RMS norm over the last dimension |
//! | [`Activation`] | GELU (both forms), ReLU, SiLU |
//! | [`linear`] | affine map |
//! | [`residual_dropout`] | dropout of a branch and the residual sum in one pass |
//! | [`embedding_sum`] | token and position embeddings: gather forward, scatter-add backward |
//! | [`token_embedding`] | token embeddings without positions |
//! | [`causal_attention`] | multi-head causal self-attention over concatenated documents, also grouped-query and sliding-window |
//! | [`HeadTransform`], [`Rotary`] | norms of the query and key heads, and rotary position embedding of [`Positions`] |
//! | [`decode_attention`], [`fill_cache`] | attention of one new token per sequence over a key-value cache |
//! | [`cross_entropy`] | per-token log-probabilities and their gradient, from rows of logits |
//! | [`sublayer`] | whole sublayers of a transformer block: differentiable, or with an explicit backward pass without a graph |
//! | [`lm_head`] | LM head and token-weighted cross-entropy, forward and backward at once, without the matrix of logits |
//! | [`Weight`], [`PackedWeight`] | weights as matrices, or prepacked for the products of sampling |
//! | [`Parameter`] | a trainable tensor, with a copy in bf16 for products on CUDA |
//! | [`softmax_quantile`] | sampling from a softmax |
//! | [`upload`] | the host's numbers on a GPU, without waiting |
//! | [`StepInputs`], [`RecordedStep`] | a step of decoding on a GPU, launched at once |
//! | [`sample_on_gpu`] | sampling the tokens of a batch with temperature, top-k and top-p on a GPU |
//! | [`adamw_step`] | the in-place AdamW update |
//! | [`GradientGuard`] | clipping and the check for finite gradients on the device, without synchronisation |
//! | [`matmul`] | matrix products of slices in any layout, in f32 or with operands in bf16 |
//! | `NcclCommunicator` (feature `nccl`) | sums of tensors over the GPUs of several processes |

mod activation;
mod adamw;
mod affine;
mod attention;
mod bf16;
mod categorical;
mod cpu;
pub mod cross_entropy;
#[cfg_attr(not(feature = "cuda"), path = "no_cuda.rs")]
mod cuda;
mod device;
mod device_copy;
mod dropout;
mod embedding;
mod guard;
mod linear;
pub mod lm_head;
mod math;
mod matmul;
mod norm;
mod packed;
mod parameter;
mod parts;
mod positions;
mod residual;
mod rotary;
mod sample;
mod simd;
mod step;
pub mod sublayer;
#[cfg(test)]
mod testing;
pub mod threads;
mod upload;
mod weight;

pub use mixce_base::rng;

pub use activation::Activation;
pub use adamw::{
    AdamWParameter, AdamWUpdate, SQUARES_CHUNK, adamw_step, chunk_squares, clear, sum_of_squares,
    sums_of_squares,
};
pub use affine::{Affine, AffineGradients};
pub use attention::{
    CuSeqlens, DrawnDropout, Heads, KeyValues, causal_attention, causal_attention_backward,
    causal_attention_backward_adding, causal_attention_saving, causal_attention_slow, decode_attention,
    fill_cache,
};
pub use categorical::{all_finite, softmax_quantile};
pub use cpu::edit_f32;
#[cfg(feature = "nccl")]
pub use cuda::{NcclCommunicator, NcclReduction, nccl_version};
pub use device::{DeviceEvent, Gpu, cuda_device, cuda_devices, gpu, has_backward_kernels, peak_device_bytes};
pub use dropout::{Dropout, dropout, dropout_slow};
pub use embedding::{
    Embedded, embedding_backward, embedding_sum, embedding_sum_slow, token_embedding,
    token_embedding_backward,
};
pub use guard::{GradientFailure, GradientGuard, GradientVerdict};
pub use linear::{linear, linear_slow};
pub use matmul::{Matrix, Precision, matmul};
pub use norm::{Norm, NormKind};
pub use packed::PackedWeight;
pub use parameter::{Parameter, Rounded, StoredTensor};
pub use positions::Positions;
pub use residual::{residual_dropout, residual_dropout_slow};
pub use rotary::{HeadNorm, HeadTransform, HeadTransformGradients, Rotary};
pub use sample::{Choice, Draws, read_tokens, sample_on_gpu};
pub use step::{RecordedStep, StepInputs, allow_recording, recording_is_allowed};
pub use upload::upload;
pub use weight::Weight;

/// Tensor errors are candle's.
pub type Result<T> = candle_core::Result<T>;

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
