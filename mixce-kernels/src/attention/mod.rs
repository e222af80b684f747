//! Multi-head causal self-attention over packed documents.
//!
//! Legend: N packed tokens, T tokens of one document, H heads of queries, K heads of keys and values, D head size.

mod decode;
mod drawn;
mod fused;
mod heads;

pub use decode::{KeyValues, decode_attention, fill_cache};
pub use drawn::DrawnDropout;
#[cfg(feature = "cuda")]
pub(crate) use drawn::{words_of_head, words_of_query};
pub(crate) use fused::CausalAttention;
pub use heads::Heads;

use std::sync::{Arc, OnceLock};

use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::ops::softmax;

use crate::Positions;
use crate::cpu::is_cpu_f32;
use crate::cuda::Gpu;
use crate::device_copy::DeviceCopy;
use crate::dropout::{Dropout, Keep};
use crate::upload::upload;

/// Where the documents of a packed batch begin: `[0, n_1, n_1 + n_2, .., N]`, one more entry than documents.
///
/// The name is the field's (cumulative sequence lengths).
#[derive(Clone, Debug)]
pub struct CuSeqlens {
    offsets: Arc<[usize]>,
    positions: Arc<OnceLock<Positions>>,
    on_device: Arc<OnDevice>,
}

/// What kernels read of the offsets.
#[derive(Debug, Default)]
struct OnDevice {
    /// See [`CuSeqlens::spans_on`].
    spans: DeviceCopy,
    /// See [`CuSeqlens::offsets_on`].
    offsets: DeviceCopy,
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
        Self { offsets: offsets.into(), positions: Arc::default(), on_device: Arc::default() }
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

    /// The longest document (tokens).
    #[must_use]
    pub fn longest(&self) -> usize {
        self.spans().map(|(_, t)| t).max().unwrap_or(0)
    }

    /// The position of each token in its document, from 0: `[N]`, computed once a batch.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        let positions = || self.spans().flat_map(|(_, t)| 0..t as u32).collect::<Vec<_>>();
        self.positions.get_or_init(|| Positions::new(positions()))
    }

    /// Begin and end of each token's document, `[N, 2]` u32: copied to the device once a batch.
    fn spans_on(&self, device: &Device) -> Result<Tensor> {
        self.on_device.spans.get(device, || upload(&self.token_spans(), (self.tokens(), 2), device))
    }

    /// Begin and end of each token's document, `[N, 2]`.
    fn token_spans(&self) -> Vec<u32> {
        let of_document = |(start, t)| std::iter::repeat_n([start as u32, (start + t) as u32], t);
        self.spans().flat_map(of_document).flatten().collect()
    }

    /// On a GPU copies at once what passes read of a batch with these token ids, beside its targets: ids, positions and documents. Returns the ids.
    ///
    /// # Errors
    /// When there are more or fewer ids than tokens, or the device fails.
    pub(crate) fn upload_with_ids(&self, ids: &[u32], device: &Device) -> Result<Tensor> {
        let (n, positions) = (self.tokens(), self.positions());
        if ids.len() != n {
            bail!("documents of {n} tokens, and {} token ids", ids.len());
        }
        let all = upload(&[ids, positions.as_slice(), &self.token_spans()].concat(), 4 * n, device)?;
        positions.take_copy(all.narrow(0, n, n)?)?;
        self.on_device.spans.get(device, || all.narrow(0, 2 * n, 2 * n)?.reshape((n, 2)))?;
        all.narrow(0, 0, n)
    }

    /// The offsets, `[B + 1]` u32: copied to the device once a batch.
    fn offsets_on(&self, device: &Device) -> Result<Tensor> {
        self.on_device.offsets.get(device, || {
            let offsets: Vec<u32> = self.offsets.iter().map(|offset| *offset as u32).collect();
            upload(&offsets, self.offsets.len(), device)
        })
    }
}

/// Causal self-attention in which no token sees another document.
///
/// `qkv` is `[N, (H + 2 K) D]`: queries, keys and values side by side (see [`Heads`]). For every document and query head
/// `out_i = sum_j drop(softmax_j(scale q_i . k_j)) v_j` over the keys `j` that it sees: `j <= i`, inside the window. The result is
/// `[N, H D]`. Fused for f32, and on CUDA for bf16, with sums of f32 (and for heads of up to 128 channels, a multiple of 8, with
/// probabilities rounded to bf16): blockwise, keys that no query of a block sees are skipped and nothing of size `T x T` is kept; the backward pass recomputes the probabilities. Other dtypes and devices take
/// [`causal_attention_slow`].
///
/// The dropout factor of query row `i` (its index in the packed batch, plus [`Dropout::first_row`]) and key `j` (its position in the
/// document) in head `h` is drawn from word `i * 2^32 + j` of `stream.fold(h)`, so it does not depend on how the computation is split.
///
/// # Errors
/// When shapes, offsets or the dropout probability do not fit. On CUDA for heads of more than 256 channels.
pub fn causal_attention(
    qkv: &Tensor,
    cu_seqlens: &CuSeqlens,
    heads: Heads,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    Ok(causal_attention_saving(qkv, cu_seqlens, heads, dropout)?.0)
}

/// [`causal_attention`], and the dropout as it was drawn.
///
/// # Errors
/// As [`causal_attention`].
pub fn causal_attention_saving(
    qkv: &Tensor,
    cu_seqlens: &CuSeqlens,
    heads: Heads,
    dropout: Option<Dropout>,
) -> Result<(Tensor, Option<DrawnDropout>)> {
    check(qkv, cu_seqlens, heads, dropout)?;
    let drawn = dropout.map(DrawnDropout::from);
    let Some(op) = fused(qkv, cu_seqlens, heads, drawn.clone())? else {
        return Ok((causal_attention_slow(qkv, cu_seqlens, heads, dropout)?, drawn));
    };
    let drawn = op.dropout.clone();
    Ok((qkv.contiguous()?.apply_op1(op)?, drawn))
}

/// The backward pass of [`causal_attention`] by itself: the gradient `[N, (H + 2 K) D]` of `qkv`, given the result `out` and its gradient
/// `dout`, `[N, H D]` each, and the dropout as [`causal_attention_saving`] has drawn it for the same documents and heads, or to be drawn again.
///
/// # Errors
/// As [`causal_attention`], and when a tensor has no fused kernel.
pub fn causal_attention_backward(
    qkv: &Tensor,
    cu_seqlens: &CuSeqlens,
    heads: Heads,
    dropout: Option<&DrawnDropout>,
    out: &Tensor,
    dout: &Tensor,
) -> Result<Tensor> {
    Ok(causal_attention_backward_adding(qkv, cu_seqlens, heads, dropout, [out, dout], None)?.0)
}

/// [`causal_attention_backward`], given the result and its gradient; and, where the kernels can do it in the same pass, the sum of its rows is added to
/// `bias` `[(H + 2 K) D]`, the gradient of a bias of `qkv`. Returns whether that was done, as it is on tensor cores.
///
/// # Errors
/// As [`causal_attention_backward`], and when the bias's gradient has another shape.
pub fn causal_attention_backward_adding(
    qkv: &Tensor,
    cu_seqlens: &CuSeqlens,
    heads: Heads,
    dropout: Option<&DrawnDropout>,
    [out, dout]: [&Tensor; 2],
    bias: Option<&Tensor>,
) -> Result<(Tensor, bool)> {
    let d = check(qkv, cu_seqlens, heads, dropout.map(|drawn| drawn.dropout))?;
    let (n, c) = (qkv.dim(0)?, heads.count * d);
    for (what, tensor) in [("result", out), ("gradient", dout)] {
        if tensor.dims() != [n, c] {
            bail!("causal_attention: expected a {what} [{n}, {c}], got {:?}", tensor.dims());
        }
    }
    if let Some(bias) = bias.filter(|bias| bias.dims() != [qkv.dims()[1]]) {
        let (channels, got) = (qkv.dim(1)?, bias.dims());
        bail!("causal_attention: expected the gradient of a bias [{channels}], got {got:?}");
    }
    match fused(qkv, cu_seqlens, heads, dropout.cloned())? {
        Some(op) => op.gradient(&qkv.contiguous()?, [out, dout], bias),
        None => {
            let (dtype, device) = (qkv.dtype(), qkv.device().location());
            bail!("causal_attention backward: no kernel for {dtype:?} on {device:?}")
        }
    }
}

/// The fused operation, for f32 on the CPU and for f32 and bf16 on CUDA; its dropout is drawn.
fn fused(
    qkv: &Tensor,
    cu_seqlens: &CuSeqlens,
    heads: Heads,
    dropout: Option<DrawnDropout>,
) -> Result<Option<CausalAttention>> {
    let on_gpu = Gpu::of(qkv.device()).is_some() && matches!(qkv.dtype(), DType::F32 | DType::BF16);
    if !on_gpu && !is_cpu_f32(qkv) {
        return Ok(None);
    }
    let spans = on_gpu.then(|| cu_seqlens.spans_on(qkv.device())).transpose()?;
    let dropout = match (dropout.filter(|drawn| drawn.dropout.p > 0.0), &spans) {
        (Some(drawn), Some(spans)) => Some(drawn.draw(qkv, heads, (spans, cu_seqlens.longest()))?),
        (dropout, _) => dropout,
    };
    Ok(Some(CausalAttention { cu_seqlens: cu_seqlens.clone(), spans, heads, dropout }))
}

/// `D`; refuses what does not fit.
fn check(qkv: &Tensor, cu_seqlens: &CuSeqlens, heads: Heads, dropout: Option<Dropout>) -> Result<usize> {
    let (n, channels) = qkv.dims2()?;
    let d = heads.head_size("causal_attention", channels)?;
    if cu_seqlens.tokens() != n {
        bail!("causal_attention: the offsets cover {} tokens, the tensor has {n}", cu_seqlens.tokens());
    }
    match dropout {
        Some(Dropout { p, .. }) if !(0.0..1.0).contains(&p) => {
            bail!("causal_attention: expected a dropout probability in [0, 1), got {p}")
        }
        _ => Ok(d),
    }
}

/// [`causal_attention`] in plain candle operations, one document after another; scores and softmax in f32.
///
/// # Errors
/// When shapes, offsets or the dropout probability do not fit.
pub fn causal_attention_slow(
    qkv: &Tensor,
    cu_seqlens: &CuSeqlens,
    heads: Heads,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let d = check(qkv, cu_seqlens, heads, dropout)?;
    let Heads { count, kv, scale, .. } = heads;
    let mut outputs = Vec::with_capacity(cu_seqlens.documents());
    for (start, t) in cu_seqlens.spans().filter(|(_, t)| *t > 0) {
        let document = qkv.narrow(0, start, t)?;
        let head_major = |first: usize, heads: usize| {
            document.narrow(1, first * d, heads * d)?.reshape((t, heads, d))?.transpose(0, 1)?.contiguous()
        };
        let (q_htd, k_ktd, v_ktd) =
            (head_major(0, count)?, head_major(count, kv)?, head_major(count + kv, kv)?);
        // The query heads that share keys and values lie one after another: one product for all of them.
        let grouped = |x: &Tensor, width: usize| x.reshape((kv, heads.group() * t, width));
        let scores_htt = grouped(&q_htd, d)?.matmul(&k_ktd.t()?)?.reshape((count, t, t))?;
        let scores_htt = (scores_htt.to_dtype(DType::F32)? * scale)?;
        let masked = scores_htt.broadcast_add(&mask(t, heads, qkv.device())?)?;
        let mut probabilities = softmax(&masked, D::Minus1)?;
        if let Some(dropout) = dropout.filter(|dropout| dropout.p > 0.0) {
            probabilities = probabilities.mul(&dropout_factors(start, t, count, dropout, qkv)?)?;
        }
        let out_htd = grouped(&probabilities.to_dtype(qkv.dtype())?, t)?.matmul(&v_ktd)?;
        outputs.push(out_htd.reshape((count, t, d))?.transpose(0, 1)?.reshape((t, count * d))?);
    }
    if outputs.is_empty() {
        return Tensor::zeros((0, count * d), qkv.dtype(), qkv.device());
    }
    Tensor::cat(&outputs, 0)
}

/// `[T, T]`: 0 for the keys that a query sees, minus infinity for others.
fn mask(t: usize, heads: Heads, device: &Device) -> Result<Tensor> {
    let row = |query: usize| {
        let seen = heads.first_key(query)..query + 1;
        (0..t).map(move |key| if seen.contains(&key) { 0.0 } else { f32::NEG_INFINITY })
    };
    Tensor::from_vec((0..t).flat_map(row).collect(), (t, t), device)
}

fn dropout_factors(
    start: usize,
    t: usize,
    heads: usize,
    Dropout { p, stream, first_row }: Dropout,
    like: &Tensor,
) -> Result<Tensor> {
    let keep = Keep::new(p);
    let mut factors = vec![1f32; heads * t * t];
    for (row, factors) in factors.chunks_mut(t).enumerate() {
        let (head, query) = (row / t, first_row + start + row % t);
        keep.apply(factors, &stream.fold(head as u64), (query as u64) << 32);
    }
    Tensor::from_vec(factors, (heads, t, t), like.device())
}

#[cfg(test)]
mod tests;
