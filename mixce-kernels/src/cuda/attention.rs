//! Causal self-attention over packed documents.
//!
//! Legend: N packed tokens, H heads, D head size, C = H D channels.

use candle_core::{Result, bail};

use super::dropout::arguments;
use super::{Arg, Array, Gpu, Grid, WARP, expect_len, unsigned};
use crate::cuda::kernel;
use crate::residual::Dropout;

/// Warps of a block, and rows of a warp.
const WARPS: usize = 4;
const WARP_ROWS: usize = 4;
/// Shared memory that every GPU has for a block, in floats.
const SHARED_FLOATS: usize = 48 * 1024 / 4;

/// What the kernels need to know of a problem.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a> {
    /// `[N, 3 C]`.
    pub(crate) qkv: Array<'a, f32>,
    /// `[N, 2]`: where the document of each token begins and ends.
    pub(crate) spans: Array<'a, u32>,
    pub(crate) heads: usize,
    pub(crate) scale: f32,
    pub(crate) dropout: Dropout,
}

/// The three kernels for head sizes up to a bound.
struct Kernels {
    forward: &'static str,
    backward_queries: &'static str,
    backward_keys: &'static str,
}

macro_rules! kernels {
    ($channels:literal) => {
        Kernels {
            forward: concat!("mixce_attention_", $channels),
            backward_queries: concat!("mixce_attention_backward_queries_", $channels),
            backward_keys: concat!("mixce_attention_backward_keys_", $channels),
        }
    };
}

impl Attention<'_> {
    /// `(N, C, D)`.
    fn sizes(&self) -> Result<(usize, usize, usize)> {
        let n = self.spans.len / 2;
        let c = self.qkv.len / (3 * n).max(1);
        expect_len("causal_attention", "queries, keys and values", self.qkv, 3 * n * c)?;
        Ok((n, c, c / self.heads))
    }

    fn kernels(d: usize) -> Result<Kernels> {
        match d {
            0..=64 => Ok(kernels!("2")),
            65..=128 => Ok(kernels!("4")),
            129..=256 => Ok(kernels!("8")),
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
    pub(crate) fn causal_attention(&self, attention: Attention<'_>, out: Array<'_, f32>) -> Result<()> {
        let sizes @ (n, c, d) = attention.sizes()?;
        expect_len("causal_attention", "the result", out, n * c)?;
        let (grid, tile) = attention.grid(n, d);
        let mut args = attention.arguments(sizes, tile)?;
        args.push(out.into());
        let kernel = kernel!("attention", Attention::kernels(d)?.forward);
        // SAFETY: the arguments are those of the kernel; qkv, spans and out have N rows, and spans lie inside 0..N.
        unsafe { self.launch(kernel, grid, &args) }
    }

    /// The gradient `dqkv` `[N, 3 C]`, given `dout` `[N, C]`. `saved` has room for two numbers a head and token.
    pub(crate) fn causal_attention_backward(
        &self,
        attention: Attention<'_>,
        dout: Array<'_, f32>,
        dqkv: Array<'_, f32>,
        saved: Array<'_, f32>,
    ) -> Result<()> {
        let (op, sizes @ (n, c, d)) = ("causal_attention backward", attention.sizes()?);
        expect_len(op, "the result's gradient", dout, n * c)?;
        expect_len(op, "the gradient", dqkv, 3 * n * c)?;
        expect_len(op, "the saved sums", saved, 2 * n * attention.heads)?;
        let ((grid, tile), kernels) = (attention.grid(n, d), Attention::kernels(d)?);
        let mut args = attention.arguments(sizes, tile)?;
        args.extend([Arg::from(dout), dqkv.into(), saved.into()]);
        // SAFETY: the arguments are those of both kernels; all arrays have N rows, and spans lie inside 0..N.
        unsafe {
            self.launch(kernel!("attention", kernels.backward_queries), grid, &args)?;
            self.launch(kernel!("attention", kernels.backward_keys), grid, &args)
        }
    }
}
