//! Multi-head causal self-attention over packed documents.
//!
//! Legend: N packed tokens, T tokens of one document, H heads, D head size, C = H D channels.

mod decode;
mod fused;

pub use decode::{Columns, decode_attention, fill_cache};
#[cfg(feature = "cuda")]
pub(crate) use fused::CausalAttention;

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::ops::softmax;

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::residual::Dropout;
use crate::{device::is_fused, dropout::Keep, rng::Stream};

/// Where the documents of a packed batch begin: `[0, n_1, n_1 + n_2, .., N]`, one more entry than documents.
///
/// The name is the field's (cumulative sequence lengths).
#[derive(Clone, Debug)]
pub struct CuSeqlens {
    offsets: Arc<[usize]>,
    /// `[N, 2]`: begin and end of each token's document, on the device that asked first.
    #[cfg(feature = "cuda")]
    spans: Arc<std::sync::OnceLock<Tensor>>,
}

impl PartialEq for CuSeqlens {
    fn eq(&self, other: &Self) -> bool {
        self.offsets == other.offsets
    }
}

impl Eq for CuSeqlens {}

impl CuSeqlens {
    /// Offsets of documents with the given lengths (tokens), in order; a length may be 0.
    #[must_use]
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut offsets = vec![0];
        let mut total = 0;
        for length in lengths {
            total += length;
            offsets.push(total);
        }
        Self {
            offsets: offsets.into(),
            #[cfg(feature = "cuda")]
            spans: Arc::default(),
        }
    }

    /// The offsets: `documents() + 1` of them, ascending, beginning with 0.
    #[must_use]
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// The number of documents.
    #[must_use]
    pub fn documents(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The number of tokens of all documents.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// `(start, length)` of every document.
    pub fn spans(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.offsets.windows(2).map(|w| (w[0], w[1] - w[0]))
    }

    /// Begin and end of each token's document, `[N, 2]` u32: copied to the device once a batch.
    #[cfg(feature = "cuda")]
    pub(crate) fn spans_on(&self, device: &candle_core::Device) -> Result<Tensor> {
        if let Some(spans) = self.spans.get().filter(|spans| spans.device().same_device(device)) {
            return Ok(spans.clone());
        }
        let of_document = |(start, t)| std::iter::repeat_n([start as u32, (start + t) as u32], t);
        let spans: Vec<u32> = self.spans().flat_map(of_document).flatten().collect();
        let spans = Tensor::from_vec(spans, (self.tokens(), 2), device)?;
        // Another device's spans stay where they are.
        let _ = self.spans.set(spans.clone());
        Ok(spans)
    }
}

/// Causal self-attention in which no token sees another document.
///
/// `qkv` is `[N, 3 C]`: queries, keys and values side by side, each `H` heads of `D` channels. For every document and head,
/// `out_i = sum_{j <= i} drop(softmax_j(scale q_i . k_j)) v_j`. The result is `[N, C]`. Fused for f32, and on
/// CUDA for bf16, which is computed in f32: blockwise, the upper triangle is skipped and nothing of size `T x T` is kept; the
/// backward pass recomputes the probabilities. Other dtypes and devices take [`causal_attention_slow`].
///
/// The dropout factor of query row `i` (its index in the packed batch) and key `j` (its position in the document) in head `h`
/// is drawn from word `i * 2^32 + j` of `stream.fold(h)`, so it does not depend on how the computation is split.
///
/// # Errors
/// When shapes, offsets or the dropout probability do not fit.
pub fn causal_attention(
    qkv: &Tensor,
    cu_seqlens: &CuSeqlens,
    heads: usize,
    scale: f64,
    dropout: Dropout,
) -> Result<Tensor> {
    check(qkv, cu_seqlens, heads, dropout)?;
    if !has_kernels(qkv) {
        return causal_attention_slow(qkv, cu_seqlens, heads, scale, dropout);
    }
    qkv.contiguous()?.apply_op1(fused(cu_seqlens, heads, scale, dropout))
}

/// The backward pass of [`causal_attention`] by itself: the gradient `[N, 3 C]` of `qkv`, given that of the result, `[N, C]`.
///
/// # Errors
/// When shapes, offsets or the dropout probability do not fit, or a tensor has no fused kernel.
pub fn causal_attention_backward(
    qkv: &Tensor,
    cu_seqlens: &CuSeqlens,
    heads: usize,
    scale: f64,
    dropout: Dropout,
    dout: &Tensor,
) -> Result<Tensor> {
    check(qkv, cu_seqlens, heads, dropout)?;
    let (n, c3) = qkv.dims2()?;
    if dout.dims() != [n, c3 / 3] {
        bail!("causal_attention: expected a gradient [{n}, {}], got {:?}", c3 / 3, dout.dims());
    }
    fused(cu_seqlens, heads, scale, dropout).gradient(&qkv.contiguous()?, dout)
}

/// Whether attention is fused for such a tensor.
fn has_kernels(qkv: &Tensor) -> bool {
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_bf16(qkv) {
        return true;
    }
    is_fused(qkv)
}

fn fused(cu_seqlens: &CuSeqlens, heads: usize, scale: f64, dropout: Dropout) -> fused::CausalAttention {
    let dropout = dropout.filter(|(p, _)| *p > 0.0);
    fused::CausalAttention { cu_seqlens: cu_seqlens.clone(), heads, scale: scale as f32, dropout }
}

fn check(qkv: &Tensor, cu_seqlens: &CuSeqlens, heads: usize, dropout: Dropout) -> Result<()> {
    let (n, c3) = qkv.dims2()?;
    if heads == 0 || c3 % (3 * heads) != 0 {
        bail!("causal_attention: expected [N, 3 C] with C divisible by {heads} heads, got {:?}", qkv.dims());
    }
    if cu_seqlens.tokens() != n {
        bail!("causal_attention: the offsets cover {} tokens, the tensor has {n}", cu_seqlens.tokens());
    }
    match dropout {
        Some((p, _)) if !(0.0..1.0).contains(&p) => {
            bail!("causal_attention: expected a dropout probability in [0, 1), got {p}")
        }
        _ => Ok(()),
    }
}

/// [`causal_attention`] in plain candle operations, one document after another; scores and softmax in f32.
///
/// # Errors
/// When shapes, offsets or the dropout probability do not fit.
pub fn causal_attention_slow(
    qkv: &Tensor,
    cu_seqlens: &CuSeqlens,
    heads: usize,
    scale: f64,
    dropout: Dropout,
) -> Result<Tensor> {
    check(qkv, cu_seqlens, heads, dropout)?;
    let c = qkv.dim(1)? / 3;
    let mut outputs = Vec::with_capacity(cu_seqlens.documents());
    for (start, t) in cu_seqlens.spans().filter(|(_, t)| *t > 0) {
        let document = qkv.narrow(0, start, t)?;
        let head_major = |i: usize| {
            document.narrow(1, i * c, c)?.reshape((t, heads, c / heads))?.transpose(0, 1)?.contiguous()
        };
        let (q_htd, k_htd, v_htd) = (head_major(0)?, head_major(1)?, head_major(2)?);
        let scores_htt = (q_htd.matmul(&k_htd.t()?)?.to_dtype(DType::F32)? * scale)?;
        let mask: Vec<f32> =
            (0..t * t).map(|ij| if ij % t > ij / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let masked = scores_htt.broadcast_add(&Tensor::from_vec(mask, (t, t), qkv.device())?)?;
        let mut probabilities = softmax(&masked, D::Minus1)?;
        if let Some((p, stream)) = dropout.filter(|(p, _)| *p > 0.0) {
            probabilities = probabilities.mul(&dropout_factors(start, t, heads, p, stream, qkv)?)?;
        }
        let out_htd = probabilities.to_dtype(qkv.dtype())?.matmul(&v_htd)?;
        outputs.push(out_htd.transpose(0, 1)?.reshape((t, c))?);
    }
    if outputs.is_empty() {
        return Tensor::zeros((0, c), qkv.dtype(), qkv.device());
    }
    Tensor::cat(&outputs, 0)
}

fn dropout_factors(
    start: usize,
    t: usize,
    heads: usize,
    p: f64,
    stream: Stream,
    like: &Tensor,
) -> Result<Tensor> {
    let keep = Keep::new(p);
    let mut factors = vec![1f32; heads * t * t];
    for (row, factors) in factors.chunks_mut(t).enumerate() {
        let (head, query) = (row / t, start + row % t);
        keep.apply(factors, &stream.fold(head as u64), (query as u64) << 32);
    }
    Tensor::from_vec(factors, (heads, t, t), like.device())
}

#[cfg(test)]
mod tests;
