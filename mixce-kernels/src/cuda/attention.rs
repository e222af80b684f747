//! Causal self-attention over concatenated documents.
//!
//! Legend: N packed tokens, H heads of queries, K heads of keys and values, D head size.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor, bail};
use half::bf16;

use super::dropout::arguments;
use super::{
    Arg, Array, Element, Gpu, Grid, WARP, attention_tensor, expect_len, kernel, name_of, operation, unsigned,
    with_parts,
};
use crate::attention::{CausalAttention, DrawnDropout, Heads};
use crate::dropout::Dropout;

/// A storage and its layout.
type Operand<'a> = (&'a CudaStorage, &'a Layout);

/// The attended values `[N, H D]` of `qkv` `[N, (H + 2 K) D]`, f32 or bf16; `spans` are those of [`crate::CuSeqlens`].
pub(crate) fn causal_attention(
    op: &CausalAttention,
    spans: &Tensor,
    qkv: Operand<'_>,
) -> Result<(CudaStorage, Shape)> {
    match qkv.0.dtype() {
        DType::BF16 => forward::<bf16>(op, spans, qkv, |gpu, attention, out| {
            let sizes = attention.sizes()?;
            match attention_tensor::serves(&attention, sizes.1, &[out]) {
                true => gpu.attention_on_tensor_cores(&attention, sizes, out),
                false => gpu.causal_attention(&attention, out),
            }
        }),
        _ => forward::<f32>(op, spans, qkv, |gpu, attention, out| gpu.causal_attention(&attention, out)),
    }
}

fn forward<T: Element>(
    op: &CausalAttention,
    spans: &Tensor,
    (qkv, layout): Operand<'_>,
    launch: impl FnOnce(&Gpu<'_>, Attention<'_, T>, Array<'_, T>) -> Result<()>,
) -> Result<(CudaStorage, Shape)> {
    let (name, (n, channels)) = ("causal_attention", layout.shape().dims2()?);
    let c = op.heads.count * op.heads.head_size(name, channels)?;
    operation::<T, 1>(name, [(qkv, layout)], (n, c).into(), |gpu, [qkv], out| {
        with_problem(op, spans, qkv, |attention| {
            expect_len(name, "the result", out, n * c)?;
            launch(gpu, attention, out)
        })
    })
}

/// The gradient of `qkv`, given the attended values and their gradient in the same type; and whether the sum of its rows was added to
/// that of the bias, which the kernels on tensor cores do.
pub(crate) fn causal_attention_backward(
    op: &CausalAttention,
    spans: &Tensor,
    inputs: [Operand<'_>; 3],
    bias: Option<&Tensor>,
) -> Result<((CudaStorage, Shape), bool)> {
    let mut added = false;
    let gradient = match inputs[0].0.dtype() {
        DType::BF16 => backward::<bf16>(op, spans, inputs, bias, |gpu, attention, arrays, sums| {
            let (sizes, [_, dout, dqkv]) = (attention.sizes()?, arrays);
            if attention_tensor::serves(&attention, sizes.1, &arrays) {
                added = sums.1.is_some();
                return gpu.attention_backward_on_tensor_cores(&attention, sizes, arrays, sums);
            }
            gpu.causal_attention_backward(&attention, dout, dqkv, sums.0)
        }),
        _ => backward::<f32>(op, spans, inputs, None, |gpu, attention, [_, dout, dqkv], (saved, _)| {
            gpu.causal_attention_backward(&attention, dout, dqkv, saved)
        }),
    }?;
    Ok((gradient, added))
}

/// Room for two numbers a head and token, and the sum of a bias's gradient.
type Sums<'a> = (Array<'a, f32>, Option<Array<'a, f32>>);

/// `launch` gets the attended values, their gradient, the gradient of `qkv`, and sums.
fn backward<T: Element>(
    op: &CausalAttention,
    spans: &Tensor,
    inputs: [Operand<'_>; 3],
    bias: Option<&Tensor>,
    launch: impl FnOnce(&Gpu<'_>, Attention<'_, T>, [Array<'_, T>; 3], Sums<'_>) -> Result<()>,
) -> Result<(CudaStorage, Shape)> {
    let (name, layout) = ("causal_attention backward", inputs[0].1);
    let (n, channels) = layout.shape().dims2()?;
    let c = op.heads.count * op.heads.head_size(name, channels)?;
    operation::<T, 3>(name, inputs, layout.shape().clone(), |gpu, [qkv, out, dout], dqkv| {
        expect_len(name, "the result", out, n * c)?;
        expect_len(name, "the result's gradient", dout, n * c)?;
        let saved = gpu.memory(2 * op.heads.count * n, DType::F32)?;
        with_problem(op, spans, qkv, |attention| {
            with_parts::<f32, _, _, _>(name, (), (&saved, bias), |gpu, (), sums| {
                launch(gpu, attention, [out, dout, dqkv], sums)
            })
        })
    })
}

/// Runs `f` with the operands of the kernels.
fn with_problem<T, R>(
    op: &CausalAttention,
    spans: &Tensor,
    qkv: Array<'_, T>,
    f: impl FnOnce(Attention<'_, T>) -> Result<R>,
) -> Result<R> {
    let kept = op.dropout.as_ref().and_then(DrawnDropout::kept);
    with_parts::<u32, _, _, _>("causal_attention", (spans, kept), (), |_, (spans, kept), ()| {
        let (longest, dropout) = (op.cu_seqlens.longest(), op.dropout());
        f(Attention { qkv, spans, longest, heads: op.heads, dropout, kept })
    })
}

/// Channels of a head.
pub(super) const MAX_HEAD_SIZE: usize = 256;
/// Random words of a query in the stream of a head's dropout: a key's is that of its position.
pub(super) const WORDS_OF_QUERY: u64 = 1 << 32;

/// Warps of a block, and rows of a warp.
const WARPS: usize = 4;
const WARP_ROWS: usize = 4;
/// Shared memory per block available on every GPU, in floats.
const SHARED_FLOATS: usize = 48 * 1024 / 4;

/// The operands of the kernels.
pub(super) struct Attention<'a, T> {
    /// `[N, (H + 2 K) D]`.
    pub(super) qkv: Array<'a, T>,
    /// `[N, 2]`: where the document of each token begins and ends.
    pub(super) spans: Array<'a, u32>,
    /// Tokens of the longest document.
    pub(super) longest: usize,
    pub(super) heads: Heads,
    pub(super) dropout: Option<Dropout>,
    /// The bits of the dropout, which the kernels on tensor cores read and the others draw.
    pub(super) kept: Option<Array<'a, u32>>,
}

/// The three kernels for head sizes up to a bound.
struct Kernels {
    forward: &'static str,
    backward_queries: &'static str,
    backward_keys: &'static str,
}

macro_rules! kernels {
    ($channels:literal, $type:ty) => {
        Kernels {
            forward: name_of!(concat!("mixce_attention_", $channels), $type),
            backward_queries: name_of!(concat!("mixce_attention_backward_queries_", $channels), $type),
            backward_keys: name_of!(concat!("mixce_attention_backward_keys_", $channels), $type),
        }
    };
}

impl<T: Element> Attention<'_, T> {
    /// `(N, D)`.
    pub(super) fn sizes(&self) -> Result<(usize, usize)> {
        let n = self.spans.len / 2;
        let heads = self.heads.count + 2 * self.heads.kv;
        let d = self.qkv.len / (n * heads).max(1);
        expect_len("causal_attention", "queries, keys and values", self.qkv, n * heads * d)?;
        Ok((n, d))
    }

    fn kernels(d: usize) -> Result<Kernels> {
        match d {
            0..=64 => Ok(kernels!("2", T)),
            65..=128 => Ok(kernels!("4", T)),
            129..=MAX_HEAD_SIZE => Ok(kernels!("8", T)),
            _ => bail!("causal_attention: a head of {d} channels; on CUDA at most {MAX_HEAD_SIZE}"),
        }
    }

    /// Blocks for the rows of so many heads, with as large a tile of keys as fits the shared memory.
    fn grid(heads: usize, n: usize, d: usize) -> (Grid, usize) {
        let weights = 2 * WARPS * WARP_ROWS * WARP as usize;
        let tile = ((SHARED_FLOATS - weights) / (2 * (d + 1))).min(WARP as usize);
        let blocks = (n.div_ceil(WARPS * WARP_ROWS) as u32, heads as u32);
        let shared_bytes = (2 * tile * (d + 1) + weights) * 4;
        (Grid { blocks, threads: (WARPS as u32 * WARP, 1), shared_bytes }, tile)
    }

    fn arguments(&self, (n, d): (usize, usize), tile: usize) -> Result<Vec<Arg>> {
        let Heads { count, kv, scale, window } = self.heads;
        let mut args = vec![self.qkv.into(), self.spans.into()];
        for size in [n, count, kv, d, tile, window.unwrap_or(n).min(n)] {
            args.push(unsigned("causal_attention", size)?.into());
        }
        args.push((scale as f32).into());
        args.extend(arguments(self.dropout, WORDS_OF_QUERY));
        Ok(args)
    }
}

impl Gpu<'_> {
    /// `out` `[N, H D]`.
    fn causal_attention<T: Element>(&self, attention: &Attention<'_, T>, out: Array<'_, T>) -> Result<()> {
        let (sizes @ (n, d), heads) = (attention.sizes()?, attention.heads.count);
        let (grid, tile) = Attention::<T>::grid(heads, n, d);
        let mut args = attention.arguments(sizes, tile)?;
        args.push(out.into());
        let kernel = kernel!("attention", Attention::<T>::kernels(d)?.forward);
        // SAFETY: the arguments are those of the kernel; qkv, spans and out have N rows, and spans lie inside 0..N.
        unsafe { self.launch(kernel, grid, &args) }
    }

    /// The gradient `dqkv` `[N, (H + 2 K) D]`, given `dout` `[N, H D]`. `saved` has room for two numbers a head and token.
    fn causal_attention_backward<T: Element>(
        &self,
        attention: &Attention<'_, T>,
        dout: Array<'_, T>,
        dqkv: Array<'_, T>,
        saved: Array<'_, f32>,
    ) -> Result<()> {
        let (sizes @ (n, d), heads) = (attention.sizes()?, attention.heads);
        let ((queries, tile), (keys, _)) =
            (Attention::<T>::grid(heads.count, n, d), Attention::<T>::grid(heads.kv, n, d));
        let kernels = Attention::<T>::kernels(d)?;
        let mut args = attention.arguments(sizes, tile)?;
        args.extend([Arg::from(dout), dqkv.into(), saved.into()]);
        // SAFETY: the arguments are those of both kernels; all arrays have N rows, and spans lie inside 0..N.
        unsafe {
            self.launch(kernel!("attention", kernels.backward_queries), queries, &args)?;
            self.launch(kernel!("attention", kernels.backward_keys), keys, &args)
        }
    }
}
