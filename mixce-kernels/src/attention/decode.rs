//! Attention of one new token a sequence over cached keys and values.
//!
//! Legend: B sequences, H heads of queries, K heads of keys and values, D head size, S columns of the cache.

use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::ops::softmax;
use rayon::prelude::*;

use super::{CuSeqlens, Heads};
use crate::Positions;
use crate::cpu::{is_cpu_f32, with_slices, with_slices_mut};
use crate::cuda::Gpu;
use crate::math;
use crate::simd::{self, LINE, prefetch, vectorised};

/// How many f32 numbers ahead keys are fetched (2 KB): a processor's own prefetching stops where a page ends.
const AHEAD: usize = 512;

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

/// Writes the new token's keys and values into the cache and attends over the columns up to its own, or the last `w` of these with a
/// window of `w` tokens.
///
/// `qkv` is `[B, (H + 2 K) D]` (see [`Heads`]), the result is `[B, H D]`: `out = sum_j softmax_j(scale q . k_j) v_j` for every sequence
/// and query head. The new token of sequence `b` is at `positions[b]`, which is its column, too. Fused for f32, and on CUDA for bf16, which is
/// computed in f32; other types and devices take plain candle operations, scores and softmax in f32.
///
/// # Errors
/// When shapes or positions do not fit. On CUDA for heads of more than 256 channels.
pub fn decode_attention(
    qkv: &Tensor,
    cache: &KeyValues,
    positions: &Positions,
    heads: Heads,
) -> Result<Tensor> {
    let op = "decode_attention";
    let (batch, channels) = qkv.dims2()?;
    let d = heads.head_size(op, channels)?;
    let KeyValues { keys, values } = cache;
    let (b, kv, capacity, cached_d) = keys.dims4()?;
    let fit = b == batch && kv == heads.kv && cached_d == d && values.dims() == keys.dims();
    let last = positions.as_slice();
    if !fit || last.len() != b {
        bail!(
            "{op}: {:?} for {} sequences, {} heads and {} key-value heads do not fit keys {:?} and values {:?}",
            qkv.dims(),
            last.len(),
            heads.count,
            heads.kv,
            keys.dims(),
            values.dims()
        );
    }
    if let Some(position) = last.iter().find(|position| **position as usize >= capacity) {
        bail!("{op}: expected positions in a cache of {capacity} columns, got {position}");
    }
    if let Some(gpu) = fused_on_gpu(qkv, cache) {
        return gpu.decode_attention(qkv, cache, positions, heads);
    }
    if !is_cpu_f32(qkv) {
        return decode_attention_slow(qkv, cache, positions, heads);
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
                    let new = last[sequence] as usize;
                    keys[new * d..][..d].copy_from_slice(head(heads.count + kv_head));
                    values[new * d..][..d].copy_from_slice(head(heads.count + kv + kv_head));
                    let seen = heads.first_key(new) * d..(new + 1) * d;
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

/// The GPU whose kernels take these tensors: f32 or bf16 on a CUDA device, all of one type.
fn fused_on_gpu<'a>(qkv: &'a Tensor, KeyValues { keys, values }: &KeyValues) -> Option<Gpu<'a>> {
    let dtype = qkv.dtype();
    let fused =
        matches!(dtype, DType::F32 | DType::BF16) && [keys, values].iter().all(|t| t.dtype() == dtype);
    Gpu::of(qkv.device()).filter(|_| fused)
}

/// [`decode_attention`] in plain candle operations, of operands that fit.
fn decode_attention_slow(
    qkv: &Tensor,
    KeyValues { keys, values }: &KeyValues,
    positions: &Positions,
    heads: Heads,
) -> Result<Tensor> {
    let (b, kv, _, d) = keys.dims4()?;
    let (last, count) = (positions.as_slice(), heads.count);
    let seen = last.iter().max().map_or(0, |last| *last as usize + 1);
    // Heads of queries that share keys and values lie side by side.
    let part = |head: usize, rows: usize| {
        qkv.narrow(1, head * d, kv * rows * d)?.reshape((b, kv, rows, d))?.contiguous()
    };
    let (new_keys, new_values) = (part(count, 1)?, part(count + kv, 1)?);
    for (sequence, last) in last.iter().enumerate() {
        for (cache, new) in [(keys, &new_keys), (values, &new_values)] {
            cache.narrow(0, sequence, 1)?.slice_set(&new.narrow(0, sequence, 1)?, 2, *last as usize)?;
        }
    }
    let masked = |last: &u32| {
        let last = *last as usize;
        let is_seen = move |column: &usize| (heads.first_key(last)..=last).contains(column);
        (0..seen).map(move |column| if is_seen(&column) { 0.0 } else { f32::NEG_INFINITY })
    };
    let mask: Vec<f32> = last.iter().flat_map(masked).collect();
    let mask = Tensor::from_vec(mask, (b, 1, 1, seen), qkv.device())?;
    let scores = part(0, heads.group())?.matmul(&keys.narrow(2, 0, seen)?.t()?)?.to_dtype(DType::F32)?;
    let scores = (scores * heads.scale)?.broadcast_add(&mask)?;
    let probabilities = softmax(&scores, D::Minus1)?.to_dtype(qkv.dtype())?;
    probabilities.matmul(&values.narrow(2, 0, seen)?)?.reshape((b, count * d))
}

/// Copies the keys and values of packed prompts, parts of `qkv` `[N, (H + 2 K) D]`, into the first columns of a cache, which changes in
/// place: a token gets the column of its position.
///
/// # Errors
/// When shapes do not fit or a prompt is longer than the cache.
pub fn fill_cache(qkv: &Tensor, prompts: &CuSeqlens, cache: &KeyValues, heads: Heads) -> Result<()> {
    let (n, channels) = qkv.dims2()?;
    let d = heads.head_size("fill_cache", channels)?;
    let KeyValues { keys, values } = cache;
    let (b, kv, capacity, cached_d) = keys.dims4()?;
    let fit = kv == heads.kv
        && cached_d == d
        && n == prompts.tokens()
        && b == prompts.documents()
        && values.dims() == keys.dims();
    if !fit || prompts.longest() > capacity {
        bail!(
            "fill_cache: {:?} of {} prompts of at most {} tokens, {} heads and {} key-value heads do not fit keys {:?} and values {:?}",
            qkv.dims(),
            prompts.documents(),
            prompts.longest(),
            heads.count,
            heads.kv,
            keys.dims(),
            values.dims()
        );
    }
    if let Some(gpu) = fused_on_gpu(qkv, cache) {
        return gpu.fill_cache(qkv, &prompts.offsets_on(qkv.device())?, cache, heads);
    }
    if !is_cpu_f32(qkv) {
        return fill_cache_slow(qkv, prompts, cache, heads);
    }
    let spans: Vec<(usize, usize)> = prompts.spans().collect();
    with_slices("fill_cache", [qkv], |[qkv]| {
        with_slices_mut("fill_cache", [keys, values], |[keys, values]| {
            let caches = keys.par_chunks_mut(capacity * d).zip(values.par_chunks_mut(capacity * d));
            caches.enumerate().for_each(|(task, (keys, values))| {
                let ((start, t), kv_head) = (spans[task / kv], task % kv);
                for (first, cache) in [(heads.count, keys), (heads.count + kv, values)] {
                    let rows = qkv[start * channels..].chunks(channels);
                    for (cached, row) in cache[..t * d].chunks_mut(d).zip(rows) {
                        cached.copy_from_slice(&row[(first + kv_head) * d..][..d]);
                    }
                }
            });
        })
    })?
}

/// [`fill_cache`] in plain candle operations, of operands that fit.
fn fill_cache_slow(
    qkv: &Tensor,
    prompts: &CuSeqlens,
    KeyValues { keys, values }: &KeyValues,
    heads: Heads,
) -> Result<()> {
    let (_, kv, _, d) = keys.dims4()?;
    for (first, cache) in [(heads.count, keys), (heads.count + kv, values)] {
        let rows = qkv.narrow(1, first * d, kv * d)?;
        for (sequence, (start, t)) in prompts.spans().enumerate().filter(|(_, (_, t))| *t > 0) {
            let prompt = rows.narrow(0, start, t)?.reshape((1, t, kv, d))?.transpose(1, 2)?.contiguous()?;
            cache.narrow(0, sequence, 1)?.slice_set(&prompt, 2, 0)?;
        }
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
