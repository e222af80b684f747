//! Causal self-attention over packed documents. The dispatch has refused heads that share keys and values, and windows.
//!
//! Legend: N packed tokens, H heads, D head size, C = H D channels.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor, bail};
use half::bf16;

use super::dropout::arguments;
use super::{
    Arg, Array, Element, Gpu, Grid, WARP, expect_len, kernel, name_of, operation, unsigned, with_arrays,
};
use crate::attention::{CausalAttention, Heads};
use crate::dropout::Dropout;

/// A storage and how its elements lie in it.
type Operand<'a> = (&'a CudaStorage, &'a Layout);

/// The attended values `[N, C]` of `qkv` `[N, 3 C]`, f32 or bf16; `spans` are those of [`crate::CuSeqlens`].
pub(crate) fn causal_attention(
    op: &CausalAttention,
    spans: &Tensor,
    qkv: Operand<'_>,
) -> Result<(CudaStorage, Shape)> {
    match qkv.0.dtype() {
        DType::BF16 => forward::<bf16>(op, spans, qkv),
        _ => forward::<f32>(op, spans, qkv),
    }
}

fn forward<T: Element>(
    op: &CausalAttention,
    spans: &Tensor,
    (qkv, layout): Operand<'_>,
) -> Result<(CudaStorage, Shape)> {
    let (n, c3) = layout.shape().dims2()?;
    operation::<T, 1>("causal_attention", [(qkv, layout)], (n, c3 / 3).into(), |gpu, [qkv], out| {
        with_problem(op, spans, qkv, |attention| gpu.causal_attention(attention, out))
    })
}

/// The gradient `[N, 3 C]` of `qkv`, given that of the attended values in the same type.
pub(crate) fn causal_attention_backward(
    op: &CausalAttention,
    spans: &Tensor,
    qkv: Operand<'_>,
    dout: Operand<'_>,
) -> Result<(CudaStorage, Shape)> {
    match qkv.0.dtype() {
        DType::BF16 => backward::<bf16>(op, spans, qkv, dout),
        _ => backward::<f32>(op, spans, qkv, dout),
    }
}

fn backward<T: Element>(
    op: &CausalAttention,
    spans: &Tensor,
    qkv: Operand<'_>,
    dout: Operand<'_>,
) -> Result<(CudaStorage, Shape)> {
    let (name, n, shape) = ("causal_attention backward", qkv.1.dim(0)?, qkv.1.shape().clone());
    operation::<T, 2>(name, [qkv, dout], shape, |gpu, [qkv, dout], dqkv| {
        let saved = gpu.buffer(2 * op.heads.count * n)?;
        with_problem(op, spans, qkv, |attention| {
            with_arrays(name, [], [&saved], |gpu, [], [saved]| {
                gpu.causal_attention_backward(attention, dout, dqkv, saved)
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
    with_arrays("causal_attention", [spans], [], |_, [spans], []| {
        let Heads { count, scale, .. } = op.heads;
        f(Attention { qkv, spans, heads: count, scale: scale as f32, dropout: op.dropout })
    })
}

/// Warps of a block, and rows of a warp.
const WARPS: usize = 4;
const WARP_ROWS: usize = 4;
/// Shared memory that every GPU has for a block, in floats.
const SHARED_FLOATS: usize = 48 * 1024 / 4;

/// The operands of the kernels.
struct Attention<'a, T> {
    /// `[N, 3 C]`.
    qkv: Array<'a, T>,
    /// `[N, 2]`: where the document of each token begins and ends.
    spans: Array<'a, u32>,
    heads: usize,
    scale: f32,
    dropout: Option<Dropout>,
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
    /// `(N, C, D)`.
    fn sizes(&self) -> Result<(usize, usize, usize)> {
        let n = self.spans.len / 2;
        let c = self.qkv.len / (3 * n).max(1);
        expect_len("causal_attention", "queries, keys and values", self.qkv, 3 * n * c)?;
        Ok((n, c, c / self.heads))
    }

    fn kernels(d: usize) -> Result<Kernels> {
        match d {
            0..=64 => Ok(kernels!("2", T)),
            65..=128 => Ok(kernels!("4", T)),
            129..=256 => Ok(kernels!("8", T)),
            _ => bail!("causal_attention: a head of {d} channels; on CUDA at most 256"),
        }
    }

    /// Blocks, with as large a tile of keys as fits the shared memory.
    fn grid(&self, n: usize, d: usize) -> (Grid, usize) {
        let weights = 2 * WARPS * WARP_ROWS * WARP as usize;
        let tile = ((SHARED_FLOATS - weights) / (2 * (d + 1))).min(WARP as usize);
        let blocks = (n.div_ceil(WARPS * WARP_ROWS) as u32, self.heads as u32);
        let shared_bytes = (2 * tile * (d + 1) + weights) * 4;
        (Grid { blocks, threads: (WARPS as u32 * WARP, 1), shared_bytes }, tile)
    }

    fn arguments(&self, (n, c, d): (usize, usize, usize), tile: usize) -> Result<Vec<Arg>> {
        let size = |value| Ok::<Arg, candle_core::Error>(unsigned("causal_attention", value)?.into());
        let mut args = vec![self.qkv.into(), self.spans.into(), size(n)?, size(c)?, size(d)?, size(tile)?];
        args.push(self.scale.into());
        args.extend(arguments(self.dropout));
        Ok(args)
    }
}

impl Gpu<'_> {
    /// `out` `[N, C]`.
    fn causal_attention<T: Element>(&self, attention: Attention<'_, T>, out: Array<'_, T>) -> Result<()> {
        let sizes @ (n, c, d) = attention.sizes()?;
        expect_len("causal_attention", "the result", out, n * c)?;
        let (grid, tile) = attention.grid(n, d);
        let mut args = attention.arguments(sizes, tile)?;
        args.push(out.into());
        let kernel = kernel!("attention", Attention::<T>::kernels(d)?.forward);
        // SAFETY: the arguments are those of the kernel; qkv, spans and out have N rows, and spans lie inside 0..N.
        unsafe { self.launch(kernel, grid, &args) }
    }

    /// The gradient `dqkv` `[N, 3 C]`, given `dout` `[N, C]`. `saved` has room for two numbers a head and token.
    fn causal_attention_backward<T: Element>(
        &self,
        attention: Attention<'_, T>,
        dout: Array<'_, T>,
        dqkv: Array<'_, T>,
        saved: Array<'_, f32>,
    ) -> Result<()> {
        let (op, sizes @ (n, c, d)) = ("causal_attention backward", attention.sizes()?);
        expect_len(op, "the result's gradient", dout, n * c)?;
        expect_len(op, "the gradient", dqkv, 3 * n * c)?;
        expect_len(op, "the saved sums", saved, 2 * n * attention.heads)?;
        let ((grid, tile), kernels) = (attention.grid(n, d), Attention::<T>::kernels(d)?);
        let mut args = attention.arguments(sizes, tile)?;
        args.extend([Arg::from(dout), dqkv.into(), saved.into()]);
        // SAFETY: the arguments are those of both kernels; all arrays have N rows, and spans lie inside 0..N.
        unsafe {
            self.launch(kernel!("attention", kernels.backward_queries), grid, &args)?;
            self.launch(kernel!("attention", kernels.backward_keys), grid, &args)
        }
    }
}
