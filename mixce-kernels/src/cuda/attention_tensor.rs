//! Causal self-attention on tensor cores, for what their kernels take: bf16, and heads of up to 128 channels, a multiple of 8.
//!
//! Legend: N packed tokens, H heads of queries, K heads of keys and values, D head size.

use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::attention::{Attention, WORDS_OF_QUERY};
use super::dropout::arguments;
use super::{Arg, Array, Gpu, Grid, WARP, expect_len, kernel, unsigned, with_arrays};
use crate::attention::{Heads, words_of_head, words_of_query};
use crate::dropout::Dropout;

/// Warps of a block.
const WARPS: usize = 4;
/// Queries whose dropout a warp draws.
const QUERIES_OF_WARP: usize = 4;
/// Rows of a tile are copied to shared memory in so many bytes at once.
const ALIGNMENT: u64 = 16;

/// The kernels for heads of up to so many channels.
struct Kernels {
    forward: &'static str,
    backward_queries: &'static str,
    backward_keys: &'static str,
    /// Rows of a block: queries, or keys in the pass for keys.
    rows: usize,
    /// Shared memory of a block in the pass for keys, in bytes.
    shared_bytes: usize,
}

macro_rules! kernels {
    ($channels:literal, $rows:literal, $shared_bytes:literal) => {
        Kernels {
            forward: concat!("mixce_attention_tensor_", $channels),
            backward_queries: concat!("mixce_attention_tensor_backward_queries_", $channels),
            backward_keys: concat!("mixce_attention_tensor_backward_keys_", $channels),
            rows: $rows,
            shared_bytes: $shared_bytes,
        }
    };
}

fn kernels(d: usize) -> Kernels {
    if d <= 64 { kernels!("64", 64, 32_768) } else { kernels!("128", 64, 65_536) }
}

/// Whether the kernels take heads of `d` channels in these arrays.
pub(super) fn serves(attention: &Attention<'_, bf16>, d: usize, arrays: &[Array<'_, bf16>]) -> bool {
    let aligned = |array: &Array<'_, bf16>| array.address.is_multiple_of(ALIGNMENT);
    attention.heads.fit_tensor_cores(d) && aligned(&attention.qkv) && arrays.iter().all(aligned)
}

/// Blocks for the rows of so many heads.
fn grid(n: usize, heads: usize, rows: usize) -> Grid {
    let blocks = (n.div_ceil(rows) as u32, heads as u32);
    Grid { blocks, threads: (WARPS as u32 * WARP, 1), shared_bytes: 0 }
}

impl Attention<'_, bf16> {
    fn tensor_arguments(&self, (n, d): (usize, usize)) -> Result<Vec<Arg>> {
        let (op, heads) = ("causal_attention", self.heads);
        match (self.dropout, self.kept) {
            (Some(_), None) if n > 0 => bail!("{op}: a dropout that was not drawn"),
            (_, Some(kept)) => {
                expect_len(op, "the dropout", kept, heads.count * words_of_head(n, self.longest) as usize)?
            }
            (_, None) => {}
        }
        let mut args = vec![self.qkv.into(), self.spans.into(), self.kept.into()];
        let words = words_of_query(self.longest);
        for size in [n, heads.count, heads.kv, d, heads.window.unwrap_or(n).min(n), words] {
            args.push(unsigned(op, size)?.into());
        }
        let [.., keep_scale] = arguments(self.dropout, WORDS_OF_QUERY);
        args.extend([(heads.scale as f32).into(), keep_scale]);
        Ok(args)
    }
}

impl Gpu<'_> {
    /// What a dropout keeps of the probabilities of attention, for the kernels of both passes: as many words as
    /// [`words_of_head`] says for each head. `spans` are those of [`crate::CuSeqlens`], `longest` the tokens of the longest document.
    pub(crate) fn draw_attention_dropout(
        &self,
        (spans, longest): (&Tensor, usize),
        heads: Heads,
        dropout: Dropout,
    ) -> Result<Tensor> {
        let (op, n) = ("attention dropout", spans.dim(0)?);
        let kept = self.memory(heads.count * words_of_head(n, longest) as usize, DType::U32)?;
        with_arrays::<u32, _, 1, 1>(op, [spans], [&kept], |gpu, [spans], [kept]| {
            let window = heads.window.unwrap_or(n).min(n);
            let sizes = [unsigned(op, n)?, unsigned(op, window)?, unsigned(op, words_of_query(longest))?];
            let args = [Arg::from(spans), kept.into()].into_iter().chain(sizes.map(Arg::from));
            let args: Vec<_> = args.chain(arguments(Some(dropout), WORDS_OF_QUERY)).collect();
            let grid = grid(n, heads.count, WARPS * QUERIES_OF_WARP);
            // SAFETY: the arguments are those of the kernel; every query has its row in `kept`.
            unsafe { gpu.launch(kernel!("attention_tensor", "mixce_attention_kept"), grid, &args) }
        })?;
        Ok(kept)
    }

    /// `out` `[N, H D]`.
    pub(super) fn attention_on_tensor_cores(
        &self,
        attention: &Attention<'_, bf16>,
        sizes @ (n, d): (usize, usize),
        out: Array<'_, bf16>,
    ) -> Result<()> {
        let mut args = attention.tensor_arguments(sizes)?;
        args.push(out.into());
        let Kernels { forward, rows, .. } = kernels(d);
        let grid = grid(n, attention.heads.count, rows);
        // SAFETY: the arguments are those of the kernel; qkv, spans and out have N rows, and spans lie inside 0..N.
        unsafe { self.launch(kernel!("attention_tensor", forward), grid, &args) }
    }

    /// The gradient `dqkv` `[N, (H + 2 K) D]`, given `out` and its gradient `dout` `[N, H D]`. The sum of its rows is added to that of the bias,
    /// if there is one.
    pub(super) fn attention_backward_on_tensor_cores(
        &self,
        attention: &Attention<'_, bf16>,
        sizes @ (n, d): (usize, usize),
        [out, dout, dqkv]: [Array<'_, bf16>; 3],
        (saved, bias): (Array<'_, f32>, Option<Array<'_, f32>>),
    ) -> Result<()> {
        let (heads, kernels, args) = (attention.heads, kernels(d), attention.tensor_arguments(sizes)?);
        let (queries, mut keys) = (grid(n, heads.count, kernels.rows), grid(n, heads.kv, kernels.rows));
        keys.shared_bytes = kernels.shared_bytes;
        let launch = |shares: Option<Array<'_, f32>>| {
            let last = [dout.into(), dqkv.into(), saved.into(), shares.into()];
            let of_queries: Vec<_> = args.iter().copied().chain([Arg::from(out)]).chain(last).collect();
            let of_keys: Vec<_> = args.iter().copied().chain(last).collect();
            // SAFETY: the arguments are those of the kernels; all arrays have N rows, spans lie inside 0..N, and every block has its row
            // of shares.
            unsafe {
                self.launch(kernel!("attention_tensor", kernels.backward_queries), queries, &of_queries)?;
                self.launch(kernel!("attention_tensor", kernels.backward_keys), keys, &of_keys)
            }
        };
        match bias.filter(|_| n > 0) {
            Some(bias) => {
                let channels = (heads.count + 2 * heads.kv) * d;
                self.add_shares(n.div_ceil(kernels.rows), channels, [Some(bias)], |shares| {
                    launch(Some(shares))
                })
            }
            None => launch(None),
        }
    }
}
