//! Differentiable tensor operations that candle lacks.
//!
//! Every operation here has a real backward pass. Each file holds the operation's documentation, a *slow twin* made of
//! plain candle operations (the reference in tests, and the path on devices without a fused kernel), the fused version
//! where there is one, and the dispatch between them: callers never ask which path is taken. Errors are candle's own: these are
//! tensor operations.
//!
//! | operation | what it is |
//! | --- | --- |
//! | [`rng::Stream`] | counter-based random numbers: same seed, same numbers, on any device |
//! | [`dropout`] | inverted dropout whose mask is drawn twice instead of stored |
//! | [`Norm`] | layer norm and RMS norm over the last dimension |
//! | [`Activation`] | GELU (both forms), ReLU, SiLU |
//! | [`linear`] | affine map |
//! | [`residual_dropout`] | dropout of a branch and the residual sum in one pass |
//! | [`embedding_sum`] | token and position embeddings: gather forward, scatter-add backward |
//! | [`token_embedding`] | the same of tokens alone |
//! | [`causal_attention`] | multi-head causal self-attention over packed documents, also grouped-query and sliding-window |
//! | [`HeadTransform`], [`Rotary`] | norms of the heads of queries and keys, and rotary position embedding |
//! | [`decode_attention`], [`fill_cache`] | attention of one new token a sequence over cached keys and values |
//! | [`cross_entropy`] | per-token log-probabilities and their gradient, rows of logits at a time |
//! | [`sublayer`] | whole sublayers of a transformer block: differentiable, or without a graph and with a backward pass |
//! | [`lm_head`] | LM head and token-weighted cross-entropy, forward and backward at once, without the matrix of logits |
//! | [`Weight`], [`PackedWeight`] | weights as matrices, or packed beforehand for the products of sampling |
//! | [`softmax_quantile`] | drawing from a softmax |
//! | [`adamw_step`] | the update of AdamW in place |
//! | [`GradientGuard`] | clipping and the check for finite gradients on the device, without waiting for it |
//! | [`matmul`] | matrix products of slices in any layout, in f32 or with operands in bf16 |

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
mod dropout;
mod embedding;
mod guard;
mod linear;
pub mod lm_head;
mod math;
mod matmul;
mod norm;
mod packed;
mod parts;
#[cfg(any(feature = "cuda", test))]
mod plain;
mod residual;
mod rotary;
mod simd;
pub mod sublayer;
#[cfg(test)]
mod testing;
pub mod threads;
mod weight;

pub use mixce_base::rng;

pub use activation::Activation;
pub use adamw::{AdamWState, AdamWUpdate, adamw_step, clear, sum_of_squares};
pub use affine::{Affine, AffineGradients};
pub use attention::{
    Columns, CuSeqlens, Heads, KeyValues, causal_attention, causal_attention_backward, causal_attention_slow,
    decode_attention, fill_cache,
};
pub use categorical::{all_finite, softmax_quantile};
pub use device::{Gpu, cuda_device, gpu, has_backward_kernels, peak_device_bytes};
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
pub use residual::{residual_dropout, residual_dropout_slow};
pub use rotary::{HeadNorm, HeadTransform, HeadTransformGradients, Rotary};
pub use weight::Weight;

/// Tensor errors are candle's.
pub type Result<T> = candle_core::Result<T>;

/// The example of the README, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
