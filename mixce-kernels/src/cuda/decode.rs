//! Attention of one new token per sequence over a key-value cache.

use candle_core::{Result, Tensor, bail};

use super::{Array, Gpu, Grid, expect_len, launch, uninitialised, unsigned, with_arrays};
use crate::attention::{Columns, KeyValues};

/// Threads of a block.
const THREADS: u32 = 128;
/// Columns whose weights fit the shared memory of a block beside the rest.
const MAX_COLUMNS: usize = 11 * 1024;

/// The sizes of a cache `[B, H, S, D]`.
#[derive(Clone, Copy)]
struct CacheSizes {
    sequences: usize,
    heads: usize,
    capacity: usize,
    d: usize,
}

impl Gpu<'_> {
    /// See [`crate::decode_attention`], whose checks the operands have passed.
    pub(crate) fn decode_attention(
        &self,
        qkv: &Tensor,
        KeyValues { keys, values }: &KeyValues,
        columns: Columns<'_>,
        scale: f64,
    ) -> Result<Tensor> {
        let (op, (sequences, heads, capacity, d)) = ("decode_attention", keys.dims4()?);
        let out = uninitialised((sequences, heads * d), qkv.dtype(), qkv)?;
        let first: Vec<u32> = columns.first.iter().map(|first| *first as u32).collect();
        let first = Tensor::from_vec(first, sequences, qkv.device())?;
        let sizes = CacheSizes { sequences, heads, capacity, d };
        with_arrays(op, [&first], [], |_, [first], []| {
            with_arrays(op, [qkv], [keys, values, &out], |gpu, [qkv], [keys, values, out]| {
                gpu.attend_to_cache(qkv, (keys, values), (first, columns.new), sizes, scale as f32, out)
            })
        })?;
        Ok(out)
    }

    /// Writes the new keys and values into column `new` of the caches, and attends over the columns `first[b]..=new`. The columns
    /// must be inside the cache.
    fn attend_to_cache(
        &self,
        qkv: Array<'_, f32>,
        (keys, values): (Array<'_, f32>, Array<'_, f32>),
        (first, new): (Array<'_, u32>, usize),
        CacheSizes { sequences, heads, capacity, d }: CacheSizes,
        scale: f32,
        out: Array<'_, f32>,
    ) -> Result<()> {
        let op = "decode_attention";
        for cache in [keys, values] {
            expect_len(op, "the cache", cache, sequences * heads * capacity * d)?;
        }
        expect_len(op, "queries, keys and values", qkv, 3 * sequences * heads * d)?;
        expect_len(op, "the first columns", first, sequences)?;
        expect_len(op, "the result", out, sequences * heads * d)?;
        if new >= MAX_COLUMNS {
            bail!("{op}: column {new}; on CUDA at most {MAX_COLUMNS} columns");
        }
        let (blocks, shared_bytes) = (unsigned(op, sequences * heads)?, (new + 1) * 4);
        let grid = Grid { blocks: (blocks, 1), threads: (THREADS, 1), shared_bytes };
        let (heads, capacity, d) = (unsigned(op, heads)?, unsigned(op, capacity)?, unsigned(op, d)?);
        let new = unsigned(op, new)?;
        // SAFETY: the arguments are those of the kernel; sizes were checked, and the callers checked the columns.
        unsafe {
            let name = "mixce_decode_attention";
            launch!(self, "decode", name, grid, qkv, keys, values, first, out, heads, capacity, d, new, scale)
        }
    }
}
