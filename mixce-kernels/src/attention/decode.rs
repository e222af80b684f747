//! Attention of one new token a sequence over cached keys and values.
//!
//! Legend: B sequences, H heads of queries, K heads of keys and values, D head size, S columns of the cache.

use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::ops::softmax;
use rayon::prelude::*;

use super::{CuSeqlens, Heads};
use crate::cpu::{is_cpu_f32, with_slices, with_slices_mut};
use crate::device::gpu_of;
use crate::math;
use crate::simd::{self, LINE, prefetch, vectorised};

/// How many f32 numbers ahead keys are fetched (2 KB): a processor's own prefetching stops where a page ends.
const AHEAD: usize = 512;

/// Which columns of a cache a step of decoding reads.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// The first column of each sequence.
    pub first: &'a [usize],
    /// The column of the new token, the last one that is read.
    pub new: usize,
}

/// The keys and values of a layer for some sequences, `[B, K, S, D]` each; they change in place.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// `k_j`.
    pub keys: Tensor,
    /// `v_j`.
    pub values: Tensor,
}

impl KeyValues {
    /// A cache of zeros, of the shape `[B, K, S, D]`.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn zeros(shape: [usize; 4], dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            keys: Tensor::zeros(&shape, dtype, device)?,
            values: Tensor::zeros(&shape, dtype, device)?,
        })
    }

    /// The sequences with these indices `[..]` u32, in this order, in memory of their own.
    ///
    /// # Errors
    /// When an index is outside, or a tensor operation fails.
    pub fn select(&self, sequences: &Tensor) -> Result<Self> {
        let select = |cache: &Tensor| cache.index_select(sequences, 0);
        Ok(Self { keys: select(&self.keys)?, values: select(&self.values)? })
    }
}

/// Writes the new token's keys and values into the cache and attends over the columns `first[b]..=new` of each sequence, or the last
/// `w` of these with a window of `w` tokens.
///
/// `qkv` is `[B, (H + 2 K) D]` (see [`Heads`]), the result is `[B, H D]`: `out = sum_j softmax_j(scale q . k_j) v_j` for every sequence
/// and query head. Fused for f32; other types and devices take plain candle operations, scores and softmax in f32.
///
/// # Errors
/// When shapes or columns do not fit. On CUDA in f32 when a sequence attends over more than 11264 columns.
pub fn decode_attention(
    qkv: &Tensor,
    cache: &KeyValues,
    columns: Columns<'_>,
    heads: Heads,
) -> Result<Tensor> {
    let op = "decode_attention";
    let (batch, channels) = qkv.dims2()?;
    let d = heads.head_size(op, channels)?;
    let KeyValues { keys, values } = cache;
    let (b, kv, capacity, cached_d) = keys.dims4()?;
    let fit = b == batch && kv == heads.kv && cached_d == d && values.dims() == keys.dims();
    if !fit || columns.first.len() != b {
        bail!(
            "{op}: {:?} for {} sequences, {} heads and {} key-value heads do not fit keys {:?} and values {:?}",
            qkv.dims(),
            columns.first.len(),
            heads.count,
            heads.kv,
            keys.dims(),
            values.dims()
        );
    }
    if columns.new >= capacity || columns.first.iter().any(|first| *first > columns.new) {
        bail!("{op}: column {} of a cache of {capacity} columns, from {:?}", columns.new, columns.first);
    }
    if let Some(gpu) = gpu_of(qkv) {
        return gpu.decode_attention(qkv, cache, columns, heads);
    }
    if !is_cpu_f32(qkv) {
        return decode_attention_slow(qkv, cache, columns, heads);
    }
    let (group, c) = (heads.group(), heads.count * d);
    let mut out = vec![0f32; b * c];
    with_slices(op, [qkv], |[qkv]| {
        with_slices_mut(op, [keys, values], |[keys, values]| {
            let caches = keys.par_chunks_mut(capacity * d).zip(values.par_chunks_mut(capacity * d));
            out.par_chunks_mut(group * d).zip(caches).enumerate().for_each(
                |(task, (out, (keys, values)))| {
                    let (sequence, kv_head) = (task / kv, task % kv);
                    let head = |i: usize| &qkv[sequence * channels + i * d..][..d];
                    keys[columns.new * d..][..d].copy_from_slice(head(heads.count + kv_head));
                    values[columns.new * d..][..d].copy_from_slice(head(heads.count + kv + kv_head));
                    let first = columns.first[sequence].max(heads.first_key(columns.new));
                    let seen = first * d..(columns.new + 1) * d;
                    let (keys, values) = (&keys[seen.clone()], &values[seen]);
                    for (i, out) in out.chunks_mut(d).enumerate() {
                        let q = head(kv_head * group + i);
                        vectorised(|| attend(out, q, keys, values, heads.scale as f32));
                    }
                },
            );
        })
    })??;
    Tensor::from_vec(out, (b, c), qkv.device())
}

/// [`decode_attention`] in plain candle operations, of operands that fit.
fn decode_attention_slow(
    qkv: &Tensor,
    KeyValues { keys, values }: &KeyValues,
    columns: Columns<'_>,
    heads: Heads,
) -> Result<Tensor> {
    let (b, kv, _, d) = keys.dims4()?;
    let (first, count) = (heads.first_key(columns.new), heads.count);
    let seen = columns.new + 1 - first;
    // Heads of queries that share keys and values lie side by side.
    let part = |head: usize, rows: usize| {
        qkv.narrow(1, head * d, kv * rows * d)?.reshape((b, kv, rows, d))?.contiguous()
    };
    keys.slice_set(&part(count, 1)?, 2, columns.new)?;
    values.slice_set(&part(count + kv, 1)?, 2, columns.new)?;
    let masked = |begin: &usize| {
        let begin = *begin;
        (first..=columns.new).map(move |column| if column < begin { f32::NEG_INFINITY } else { 0.0 })
    };
    let mask: Vec<f32> = columns.first.iter().flat_map(masked).collect();
    let mask = Tensor::from_vec(mask, (b, 1, 1, seen), qkv.device())?;
    let scores = part(0, heads.group())?.matmul(&keys.narrow(2, first, seen)?.t()?)?.to_dtype(DType::F32)?;
    let scores = (scores * heads.scale)?.broadcast_add(&mask)?;
    let probabilities = softmax(&scores, D::Minus1)?.to_dtype(qkv.dtype())?;
    probabilities.matmul(&values.narrow(2, first, seen)?)?.reshape((b, count * d))
}

/// Copies the keys and values of packed prompts, parts of `qkv` `[N, (H + 2 K) D]`, into a cache of zeros, which changes in place. The last
/// token of every prompt gets column `columns - 1`.
///
/// # Errors
/// When shapes do not fit or a prompt is longer than `columns`.
pub fn fill_cache(
    qkv: &Tensor,
    prompts: &CuSeqlens,
    columns: usize,
    cache: &KeyValues,
    heads: Heads,
) -> Result<()> {
    let (n, channels) = qkv.dims2()?;
    let d = heads.head_size("fill_cache", channels)?;
    let KeyValues { keys, values } = cache;
    let (b, kv, capacity, cached_d) = keys.dims4()?;
    let fit = kv == heads.kv
        && cached_d == d
        && n == prompts.tokens()
        && b == prompts.documents()
        && values.dims() == keys.dims();
    if !fit || columns > capacity || prompts.longest() > columns {
        bail!(
            "fill_cache: {:?} of {} prompts, {columns} columns, {} heads and {} key-value heads do not fit keys {:?} and values {:?}",
            qkv.dims(),
            prompts.documents(),
            heads.count,
            heads.kv,
            keys.dims(),
            values.dims()
        );
    }
    if !is_cpu_f32(qkv) {
        return fill_cache_slow(qkv, prompts, columns, cache, heads);
    }
    let spans: Vec<(usize, usize)> = prompts.spans().collect();
    with_slices("fill_cache", [qkv], |[qkv]| {
        with_slices_mut("fill_cache", [keys, values], |[keys, values]| {
            let caches = keys.par_chunks_mut(capacity * d).zip(values.par_chunks_mut(capacity * d));
            caches.enumerate().for_each(|(task, (keys, values))| {
                let ((start, t), kv_head) = (spans[task / kv], task % kv);
                for (first, cache) in [(heads.count, keys), (heads.count + kv, values)] {
                    let rows = qkv[start * channels..].chunks(channels);
                    for (cached, row) in cache[(columns - t) * d..columns * d].chunks_mut(d).zip(rows) {
                        cached.copy_from_slice(&row[(first + kv_head) * d..][..d]);
                    }
                }
            });
        })
    })?
}

/// [`fill_cache`] in plain candle operations, of operands that fit: the path of CUDA, too.
fn fill_cache_slow(
    qkv: &Tensor,
    prompts: &CuSeqlens,
    columns: usize,
    KeyValues { keys, values }: &KeyValues,
    heads: Heads,
) -> Result<()> {
    let (b, kv, _, d) = keys.dims4()?;
    let (c, longest) = (kv * d, prompts.longest());
    if b * longest == 0 {
        return Ok(());
    }
    let (rows, zeros) =
        (prompts.aligned_rows_on(qkv.device())?, Tensor::zeros((1, c), qkv.dtype(), qkv.device())?);
    for (first, cache) in [(heads.count, keys), (heads.count + kv, values)] {
        let tokens = Tensor::cat(&[&qkv.narrow(1, first * d, c)?, &zeros], 0)?.index_select(&rows, 0)?;
        let aligned = tokens.reshape((b, longest, kv, d))?.transpose(1, 2)?.contiguous()?;
        cache.slice_set(&aligned, 2, columns - longest)?;
    }
    Ok(())
}

/// `out = sum_j softmax_j(scale q . k_j) v_j`; `out` is zero before.
#[inline(always)]
fn attend(out: &mut [f32], q: &[f32], keys: &[f32], values: &[f32], scale: f32) {
    let d = q.len();
    let mut weights = vec![0f32; keys.len() / d];
    for (i, (weight, key)) in weights.iter_mut().zip(keys.chunks(d)).enumerate() {
        // Fetch the keys some columns ahead, and the values of this one, while the scores are computed.
        for at in (i * d..(i + 1) * d).step_by(LINE) {
            prefetch(keys, at + AHEAD);
            prefetch(values, at);
        }
        *weight = scale * simd::dot(q, key);
    }
    let max = simd::max(&weights);
    weights.iter_mut().for_each(|w| *w = math::exp(*w - max));
    let norm = 1.0 / simd::sum(&weights, |w| w);
    for (weight, value) in weights.iter().zip(values.chunks(d)) {
        let weight = weight * norm;
        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
