//! Attention of one new token per sequence over a key-value cache.

use candle_core::{Result, Tensor, bail};

use super::{Array, Gpu, Grid, expect_len, launch, uninitialised, unsigned, with_arrays};
use crate::attention::{Columns, Heads, KeyValues};

/// Threads of a block.
const THREADS: u32 = 128;
/// Columns whose weights fit the shared memory of a block beside the rest.
const MAX_COLUMNS: usize = 11 * 1024;

/// The sizes of a cache `[B, K, S, D]`.
#[derive(Clone, Copy)]
struct CacheSizes {
    sequences: usize,
    kv: usize,
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
        heads: Heads,
    ) -> Result<Tensor> {
        let (op, (sequences, kv, capacity, d)) = ("decode_attention", keys.dims4()?);
        let out = uninitialised((sequences, heads.count * d), qkv.dtype(), qkv)?;
        // Columns before the window are as those before the sequence.
        let nearest = heads.first_key(columns.new);
        let first: Vec<usize> = columns.first.iter().map(|first| (*first).max(nearest)).collect();
        let longest = first.iter().min().map_or(0, |first| columns.new + 1 - first);
        if longest > MAX_COLUMNS {
            bail!("{op}: attention over {longest} columns; on CUDA at most {MAX_COLUMNS}");
        }
        let first = first.into_iter().map(|first| first as u32).collect();
        let first = Tensor::from_vec(first, sequences, qkv.device())?;
        let sizes = CacheSizes { sequences, kv, capacity, d };
        with_arrays(op, [&first], [], |_, [first], []| {
            with_arrays(op, [qkv], [keys, values, &out], |gpu, [qkv], [keys, values, out]| {
                gpu.attend_to_cache(qkv, (keys, values), (first, columns.new, longest), (sizes, heads), out)
            })
        })?;
        Ok(out)
    }

    /// Writes the new keys and values into column `new` of the caches, and attends over the columns `first[b]..=new`, at most `longest`.
    /// The columns must be inside the cache.
    fn attend_to_cache(
        &self,
        qkv: Array<'_, f32>,
        (keys, values): (Array<'_, f32>, Array<'_, f32>),
        (first, new, longest): (Array<'_, u32>, usize, usize),
        (CacheSizes { sequences, kv, capacity, d }, Heads { count, scale, .. }): (CacheSizes, Heads),
        out: Array<'_, f32>,
    ) -> Result<()> {
        let op = "decode_attention";
        for cache in [keys, values] {
            expect_len(op, "the cache", cache, sequences * kv * capacity * d)?;
        }
        expect_len(op, "queries, keys and values", qkv, sequences * (count + 2 * kv) * d)?;
        expect_len(op, "the first columns", first, sequences)?;
        expect_len(op, "the result", out, sequences * count * d)?;
        let (blocks, shared_bytes) = (unsigned(op, sequences * count)?, longest * 4);
        let grid = Grid { blocks: (blocks, 1), threads: (THREADS, 1), shared_bytes };
        let (heads, kv, capacity) = (unsigned(op, count)?, unsigned(op, kv)?, unsigned(op, capacity)?);
        let (d, new, scale) = (unsigned(op, d)?, unsigned(op, new)?, scale as f32);
        // SAFETY: the arguments are those of the kernel; sizes were checked, and the callers checked the columns.
        unsafe {
            let name = "mixce_decode_attention";
            launch!(
                self, "decode", name, grid, qkv, keys, values, first, out, heads, kv, capacity, d, new, scale
            )
        }
    }
}
