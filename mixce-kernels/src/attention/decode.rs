//! Attention of one new token a sequence over cached keys and values.
//!
//! Legend: B sequences, H heads, D head size, C = H D channels, S columns of the cache.

use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::ops::softmax;
use rayon::prelude::*;

use super::CuSeqlens;
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

/// The keys and values of a layer for some sequences, `[B, H, S, D]` each; they change in place.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// `k_j`.
    pub keys: Tensor,
    /// `v_j`.
    pub values: Tensor,
}

impl KeyValues {
    /// A cache of zeros, of the shape `[B, H, S, D]`.
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

/// Writes the new token's keys and values into the cache and attends over the columns `first[b]..=new` of each sequence.
///
/// `qkv` is `[B, 3 C]`, the result is `[B, C]`: `out = sum_j softmax_j(scale q . k_j) v_j` for every sequence and head. Fused for
/// f32; other types and devices take plain candle operations, scores and softmax in f32.
///
/// # Errors
/// When shapes or columns do not fit.
pub fn decode_attention(qkv: &Tensor, cache: &KeyValues, columns: Columns<'_>, scale: f64) -> Result<Tensor> {
    let (batch, c3) = qkv.dims2()?;
    let KeyValues { keys, values } = cache;
    let (b, h, capacity, d) = keys.dims4()?;
    let c = h * d;
    if d == 0 || b != batch || c3 != 3 * c || values.dims() != keys.dims() || columns.first.len() != b {
        bail!(
            "decode_attention: queries {:?} for {} sequences do not fit keys {:?} and values {:?}",
            qkv.dims(),
            columns.first.len(),
            keys.dims(),
            values.dims()
        );
    }
    if columns.new >= capacity || columns.first.iter().any(|first| *first > columns.new) {
        bail!(
            "decode_attention: column {} of a cache of {capacity} columns, from {:?}",
            columns.new,
            columns.first
        );
    }
    if let Some(gpu) = gpu_of(qkv) {
        return gpu.decode_attention(qkv, cache, columns, scale);
    }
    if !is_cpu_f32(qkv) {
        return decode_attention_slow(qkv, cache, columns, scale);
    }
    let mut out = vec![0f32; b * c];
    with_slices("decode_attention", [qkv], |[qkv]| {
        with_slices_mut("decode_attention", [keys, values], |[keys, values]| {
            let caches = keys.par_chunks_mut(capacity * d).zip(values.par_chunks_mut(capacity * d));
            out.par_chunks_mut(d).zip(caches).enumerate().for_each(|(task, (out, (keys, values)))| {
                let (sequence, head) = (task / h, task % h);
                let part = |i: usize| &qkv[sequence * c3 + i * c + head * d..][..d];
                keys[columns.new * d..][..d].copy_from_slice(part(1));
                values[columns.new * d..][..d].copy_from_slice(part(2));
                let seen = columns.first[sequence] * d..(columns.new + 1) * d;
                vectorised(|| attend(out, part(0), &keys[seen.clone()], &values[seen], scale as f32));
            });
        })
    })??;
    Tensor::from_vec(out, (b, c), qkv.device())
}

/// [`decode_attention`] in plain candle operations, of operands that fit.
fn decode_attention_slow(
    qkv: &Tensor,
    KeyValues { keys, values }: &KeyValues,
    columns: Columns<'_>,
    scale: f64,
) -> Result<Tensor> {
    let (b, h, _, d) = keys.dims4()?;
    let (c, seen) = (h * d, columns.new + 1);
    let part = |i: usize| qkv.narrow(1, i * c, c)?.reshape((b, h, 1, d))?.contiguous();
    keys.slice_set(&part(1)?, 2, columns.new)?;
    values.slice_set(&part(2)?, 2, columns.new)?;
    let masked = |first: &usize| {
        let first = *first;
        (0..seen).map(move |column| if column < first { f32::NEG_INFINITY } else { 0.0 })
    };
    let mask: Vec<f32> = columns.first.iter().flat_map(masked).collect();
    let mask = Tensor::from_vec(mask, (b, 1, 1, seen), qkv.device())?;
    let scores = part(0)?.matmul(&keys.narrow(2, 0, seen)?.t()?)?.to_dtype(DType::F32)?;
    let scores = (scores * scale)?.broadcast_add(&mask)?;
    let probabilities = softmax(&scores, D::Minus1)?.to_dtype(qkv.dtype())?;
    probabilities.matmul(&values.narrow(2, 0, seen)?)?.reshape((b, c))
}

/// Copies the keys and values of packed prompts, parts of `qkv` `[N, 3 C]`, into a cache of zeros, which changes in place. The last token
/// of every prompt gets column `columns - 1`.
///
/// # Errors
/// When shapes do not fit or a prompt is longer than `columns`.
pub fn fill_cache(qkv: &Tensor, prompts: &CuSeqlens, columns: usize, cache: &KeyValues) -> Result<()> {
    let KeyValues { keys, values } = cache;
    let ((n, c3), (b, h, capacity, d)) = (qkv.dims2()?, keys.dims4()?);
    let fit = d > 0
        && c3 == 3 * h * d
        && n == prompts.tokens()
        && b == prompts.documents()
        && values.dims() == keys.dims();
    if !fit || columns > capacity || prompts.longest() > columns {
        bail!(
            "fill_cache: {:?} of {} prompts, {columns} columns, do not fit keys {:?} and values {:?}",
            qkv.dims(),
            prompts.documents(),
            keys.dims(),
            values.dims()
        );
    }
    if !is_cpu_f32(qkv) {
        return fill_cache_slow(qkv, prompts, columns, cache);
    }
    let spans: Vec<(usize, usize)> = prompts.spans().collect();
    with_slices("fill_cache", [qkv], |[qkv]| {
        with_slices_mut("fill_cache", [keys, values], |[keys, values]| {
            let caches = keys.par_chunks_mut(capacity * d).zip(values.par_chunks_mut(capacity * d));
            caches.enumerate().for_each(|(task, (keys, values))| {
                let ((start, t), head) = (spans[task / h], task % h);
                for (part, cache) in [(1, keys), (2, values)] {
                    let tokens =
                        cache[(columns - t) * d..columns * d].chunks_mut(d).zip(qkv[start * c3..].chunks(c3));
                    tokens
                        .for_each(|(cached, qkv)| cached.copy_from_slice(&qkv[(part * h + head) * d..][..d]));
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
) -> Result<()> {
    let (b, h, _, d) = keys.dims4()?;
    let (c, longest) = (h * d, prompts.longest());
    if b * longest == 0 {
        return Ok(());
    }
    let (rows, zeros) =
        (prompts.aligned_rows_on(qkv.device())?, Tensor::zeros((1, c), qkv.dtype(), qkv.device())?);
    for (part, cache) in [(1, keys), (2, values)] {
        let tokens = Tensor::cat(&[&qkv.narrow(1, part * c, c)?, &zeros], 0)?.index_select(&rows, 0)?;
        let aligned = tokens.reshape((b, longest, h, d))?.transpose(1, 2)?.contiguous()?;
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
mod tests {
    use super::*;
    use crate::testing::{assert_close, random};
    use crate::{CuSeqlens, causal_attention};
    use candle_core::{DType, Device};

    /// Decoding token after token gives the rows of causal attention.
    #[test]
    fn decoding_equals_causal_attention() -> Result<()> {
        for (h, d, t) in [(1, 1, 1), (2, 5, 4), (3, 64, 19)] {
            let c = h * d;
            let texts = [random(&[t, 3 * c], 1)?, random(&[t, 3 * c], 2)?];
            let cache = || KeyValues::zeros([2, h, t + 2, d], DType::F32, &Device::Cpu);
            let (fused, slow) = (cache()?, cache()?);
            for column in 0..t {
                // The second text begins two columns later.
                let rows = [texts[0].narrow(0, column, 1)?, texts[1].narrow(0, column.saturating_sub(2), 1)?];
                let first = [0, 2.min(column)];
                let columns = Columns { first: &first, new: column };
                let qkv = Tensor::cat(&rows, 0)?;
                let out = decode_attention(&qkv, &fused, columns, 0.3)?;
                assert_close("slow", &decode_attention_slow(&qkv, &slow, columns, 0.3)?, &out, 1e-5, 1e-5);
                for (row, length) in [(0, column + 1), (1, (column + 1).saturating_sub(2))] {
                    if length == 0 {
                        continue;
                    }
                    let whole = texts[row].narrow(0, 0, length)?;
                    let want = causal_attention(&whole, &CuSeqlens::from_lengths([length]), h, 0.3, None)?;
                    let want = want.narrow(0, length - 1, 1)?;
                    assert_close("decoded", &out.narrow(0, row, 1)?, &want, 1e-5, 1e-5);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_cache_holds_the_prompts_aligned_at_their_ends() -> Result<()> {
        let (h, d, columns, capacity) = (2, 3, 4, 6);
        let prompts = CuSeqlens::from_lengths([4, 0, 2]);
        let qkv = random(&[6, 3 * h * d], 1)?;
        let zeros = || KeyValues::zeros([3, h, capacity, d], DType::F32, &Device::Cpu);
        let (cache, slow) = (zeros()?, zeros()?);
        fill_cache(&qkv, &prompts, columns, &cache)?;
        fill_cache_slow(&qkv, &prompts, columns, &slow)?;
        assert_close("slow keys", &slow.keys, &cache.keys, 0.0, 0.0);
        assert_close("slow values", &slow.values, &cache.values, 0.0, 0.0);
        let qkv = qkv.reshape((6, 3, h, d))?;
        for (part, cache) in [(1, &cache.keys), (2, &cache.values)] {
            for (sequence, (start, t)) in prompts.spans().enumerate() {
                let sums = cache.get(sequence)?.abs()?.sum((0, 2))?.to_vec1::<f32>()?;
                let filled: Vec<bool> = sums.iter().map(|sum| *sum > 0.0).collect();
                assert_eq!(
                    filled,
                    (0..capacity).map(|i| (columns - t..columns).contains(&i)).collect::<Vec<_>>()
                );
                if t > 0 {
                    let want = qkv.narrow(0, start, t)?.narrow(1, part, 1)?.squeeze(1)?.transpose(0, 1)?;
                    let got = cache.get(sequence)?.narrow(1, columns - t, t)?;
                    assert_close("cached", &got, &want.contiguous()?, 0.0, 0.0);
                }
            }
        }
        let qkv = qkv.reshape((6, 3 * h * d))?;
        assert!(fill_cache(&qkv, &prompts, 3, &cache).is_err());
        assert!(fill_cache(&qkv, &prompts, 7, &cache).is_err());
        assert!(fill_cache(&qkv, &CuSeqlens::from_lengths([4, 2]), 4, &cache).is_err());
        assert!(fill_cache(&qkv.narrow(0, 0, 5)?, &prompts, 4, &cache).is_err());
        Ok(())
    }

    /// Types without a kernel take plain operations.
    #[test]
    fn f64_gives_the_numbers_of_f32() -> Result<()> {
        let (h, d, prompts) = (2, 3, CuSeqlens::from_lengths([2, 1]));
        let (prompt, next) = (random(&[3, 3 * h * d], 1)?, random(&[2, 3 * h * d], 2)?);
        let run = |dtype: DType| -> Result<[Tensor; 3]> {
            let cache = KeyValues::zeros([2, h, 5, d], dtype, &Device::Cpu)?;
            fill_cache(&prompt.to_dtype(dtype)?, &prompts, 3, &cache)?;
            let columns = Columns { first: &[1, 2], new: 3 };
            let out = decode_attention(&next.to_dtype(dtype)?, &cache, columns, 0.4)?;
            let kept = cache.select(&Tensor::new(&[1u32], &Device::Cpu)?)?;
            Ok([out, kept.keys, kept.values].map(|t| t.to_dtype(DType::F32).unwrap()))
        };
        for (got, want) in run(DType::F64)?.iter().zip(&run(DType::F32)?) {
            assert_close("f64", got, want, 1e-6, 1e-6);
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let cache = KeyValues::zeros([1, 2, 3, 4], DType::F32, &Device::Cpu)?;
        let decode =
            |qkv: &Tensor, first: &[usize], new| decode_attention(qkv, &cache, Columns { first, new }, 1.0);
        assert!(decode(&random(&[1, 24], 1)?, &[0], 2).is_ok());
        assert!(decode(&random(&[1, 24], 1)?, &[0], 3).is_err());
        assert!(decode(&random(&[1, 24], 1)?, &[2], 1).is_err());
        assert!(decode(&random(&[1, 21], 1)?, &[0], 1).is_err());
        assert!(decode(&random(&[2, 24], 1)?, &[0, 0], 1).is_err());
        Ok(())
    }
}
