//! Attention of one new token per sequence over a key-value cache, and the cache of prompts.
//!
//! Legend: B sequences, H heads of queries, K heads of keys and values, S columns of the cache, D head size.

use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::attention::MAX_HEAD_SIZE;
use super::{
    Array, Element, Gpu, Grid, THREADS, expect_len, launch, name_of, uninitialised, unsigned, with_arrays,
};
use crate::Positions;
use crate::attention::{Heads, KeyValues};

/// Threads of a block of attention.
const DECODE_THREADS: u32 = 128;
/// Columns of a block of attention.
const SPAN: usize = 1024;
/// Elements of a row that a lane has.
const OWN: usize = 8;

/// A cache `[B, K, S, D]`.
#[derive(Clone, Copy)]
struct Cache<'a, T> {
    keys: Array<'a, T>,
    values: Array<'a, T>,
    sequences: usize,
    kv: usize,
    capacity: usize,
    d: usize,
}

impl<'a, T> Cache<'a, T> {
    /// Refuses arrays that do not have the cache's shape.
    fn new(
        op: &'static str,
        dims: (usize, usize, usize, usize),
        keys: Array<'a, T>,
        values: Array<'a, T>,
    ) -> Result<Self> {
        let (sequences, kv, capacity, d) = dims;
        for cache in [keys, values] {
            expect_len(op, "the cache", cache, sequences * kv * capacity * d)?;
        }
        Ok(Self { keys, values, sequences, kv, capacity, d })
    }
}

impl Gpu<'_> {
    /// See [`crate::decode_attention`], whose checks the operands have passed.
    pub(crate) fn decode_attention(
        &self,
        qkv: &Tensor,
        cache: &KeyValues,
        positions: &Positions,
        heads: Heads,
    ) -> Result<Tensor> {
        match qkv.dtype() {
            DType::BF16 => decode::<bf16>(qkv, cache, positions, heads),
            _ => decode::<f32>(qkv, cache, positions, heads),
        }
    }

    /// See [`crate::fill_cache`], whose checks the operands have passed; `offsets` `[B + 1]` u32 are those of the prompts.
    pub(crate) fn fill_cache(
        &self,
        qkv: &Tensor,
        offsets: &Tensor,
        cache: &KeyValues,
        heads: Heads,
    ) -> Result<()> {
        match qkv.dtype() {
            DType::BF16 => fill::<bf16>(qkv, offsets, cache, heads),
            _ => fill::<f32>(qkv, offsets, cache, heads),
        }
    }

    fn attend_to_cache<T: Element>(
        &self,
        qkv: Array<'_, T>,
        cache: Cache<'_, T>,
        positions: Array<'_, u32>,
        heads: Heads,
        out: Array<'_, T>,
    ) -> Result<()> {
        let (op, Heads { count, scale, window, .. }) = ("decode_attention", heads);
        let Cache { keys, values, sequences, kv, capacity, d } = cache;
        expect_len(op, "queries, keys and values", qkv, sequences * (count + 2 * kv) * d)?;
        expect_len(op, "the positions", positions, sequences)?;
        expect_len(op, "the result", out, sequences * count * d)?;
        let (spans, Kernel { name, heads_of_block }) =
            (capacity.div_ceil(SPAN), Kernel::new(qkv, cache, heads)?);
        let blocks = unsigned(op, sequences * kv * heads.group().div_ceil(heads_of_block))?;
        let grid =
            Grid { blocks: (blocks, unsigned(op, spans)?), threads: (DECODE_THREADS, 1), shared_bytes: 0 };
        let part_len = if spans > 1 { sequences * count * spans * (d + 2) } else { 0 };
        let (parts, lanes) = (self.buffer(part_len)?, unsigned(op, d.div_ceil(OWN).next_power_of_two())?);
        let window = unsigned(op, window.unwrap_or(capacity).min(capacity))?;
        let [count, kv, capacity, d] = [count, kv, capacity, d].map(|size| unsigned(op, size));
        let (count, kv, capacity, d, scale) = (count?, kv?, capacity?, d?, scale as f32);
        with_arrays::<f32, _, 0, 1>(op, [], [&parts], |_, [], [parts]| {
            // SAFETY: the arguments are those of the kernel; sizes were checked, the callers checked the positions, and there is a part for each
            // sequence, head and span where there are several.
            unsafe {
                launch!(
                    self, "decode", name, grid, qkv, keys, values, positions, out, parts, count, kv,
                    capacity, d, window, lanes, scale
                )?;
            }
            if spans == 1 {
                return Ok(());
            }
            let (name, spans) = (name_of!("mixce_decode_join", T), unsigned(op, spans)?);
            let blocks = unsigned(op, sequences * heads.count)?;
            let grid = Grid { blocks: (blocks, 1), threads: (DECODE_THREADS, 1), shared_bytes: 0 };
            // SAFETY: as above; the first kernel has written the parts that this one reads.
            unsafe { launch!(self, "decode", name, grid, parts, positions, out, count, d, window, spans) }
        })
    }
}

/// The kernel for some operands.
struct Kernel {
    name: &'static str,
    /// Heads of queries that a block takes at most.
    heads_of_block: usize,
}

impl Kernel {
    /// Rows that are not aligned to 16 bytes are read element by element.
    fn new<T: Element>(qkv: Array<'_, T>, cache: Cache<'_, T>, heads: Heads) -> Result<Self> {
        const BYTES: u64 = 16;
        if cache.d > MAX_HEAD_SIZE {
            bail!("decode_attention: a head of {} channels; on CUDA at most {MAX_HEAD_SIZE}", cache.d);
        }
        let starts = [qkv, cache.keys, cache.values].map(|rows| rows.address);
        let is_aligned = |bytes: u64| bytes.is_multiple_of(BYTES);
        if !is_aligned((cache.d * size_of::<T>()) as u64) || !starts.into_iter().all(is_aligned) {
            return Ok(Self { name: name_of!("mixce_decode_unaligned", T), heads_of_block: 1 });
        }
        Ok(match heads.group() {
            1 => Self { name: name_of!("mixce_decode_1", T), heads_of_block: 1 },
            2 => Self { name: name_of!("mixce_decode_2", T), heads_of_block: 2 },
            _ => Self { name: name_of!("mixce_decode_4", T), heads_of_block: 4 },
        })
    }
}

fn decode<T: Element>(
    qkv: &Tensor,
    KeyValues { keys, values }: &KeyValues,
    positions: &Positions,
    heads: Heads,
) -> Result<Tensor> {
    let (op, dims) = ("decode_attention", keys.dims4()?);
    let out = uninitialised((dims.0, heads.count * dims.3), T::DTYPE, qkv)?;
    with_arrays::<u32, _, 1, 0>(op, [&positions.on(qkv.device())?], [], |_, [positions], []| {
        with_arrays::<T, _, 1, 3>(op, [qkv], [keys, values, &out], |gpu, [qkv], [keys, values, out]| {
            let cache = Cache::new(op, dims, keys, values)?;
            gpu.attend_to_cache(qkv, cache, positions, heads, out)
        })
    })?;
    Ok(out)
}

fn fill<T: Element>(
    qkv: &Tensor,
    offsets: &Tensor,
    KeyValues { keys, values }: &KeyValues,
    heads: Heads,
) -> Result<()> {
    let (op, dims, n) = ("fill_cache", keys.dims4()?, qkv.dim(0)?);
    with_arrays::<u32, _, 1, 0>(op, [offsets], [], |_, [offsets], []| {
        with_arrays::<T, _, 1, 2>(op, [qkv], [keys, values], |gpu, [qkv], [keys, values]| {
            let Cache { keys, values, sequences, kv, capacity, d } = Cache::new(op, dims, keys, values)?;
            expect_len(op, "queries, keys and values", qkv, n * (heads.count + 2 * kv) * d)?;
            expect_len(op, "the offsets", offsets, sequences + 1)?;
            let (name, blocks) = (name_of!("mixce_fill_cache", T), unsigned(op, sequences * kv)?);
            let grid = Grid { blocks: (blocks, 1), threads: (THREADS, 1), shared_bytes: 0 };
            let [count, kv, capacity, d] = [heads.count, kv, capacity, d].map(|size| unsigned(op, size));
            let (count, kv, capacity, d) = (count?, kv?, capacity?, d?);
            // SAFETY: the arguments are those of the kernel; the callers checked that the prompts have N tokens and fit the cache.
            unsafe { launch!(gpu, "decode", name, grid, qkv, offsets, keys, values, count, kv, capacity, d) }
        })
    })
}
