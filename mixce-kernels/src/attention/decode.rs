//! Attention of one new token a sequence over cached keys and values, in f32.
//!
//! Legend: B sequences, H heads, D head size, C = H D channels, S columns of the cache.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::CuSeqlens;
use crate::cpu::{with_slices, with_slices_mut};
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

/// Writes the new token's keys and values into the cache and attends over the columns `first[b]..=new` of each sequence.
///
/// `qkv` is `[B, 3 C]`, `keys` and `values` are `[B, H, S, D]` and change in place; the result is `[B, C]`:
/// `out = sum_j softmax_j(scale q . k_j) v_j` for every sequence and head.
///
/// # Errors
/// When shapes or columns do not fit or a tensor has no fused kernel.
pub fn decode_attention(
    qkv: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    columns: Columns<'_>,
    scale: f64,
) -> Result<Tensor> {
    let (batch, c3) = qkv.dims2()?;
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
    #[cfg(feature = "cuda")]
    if crate::cuda::is_cuda_f32(qkv) {
        return on_cuda(qkv, (keys, values), columns, scale);
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

/// Copies the keys and values of packed prompts, parts of `qkv` `[N, 3 C]`, into a cache: `keys` and `values` `[B, H, S, D]` change
/// in place. The last token of every prompt gets column `columns - 1`.
///
/// # Errors
/// When shapes do not fit, a prompt is longer than `columns`, or a tensor is not f32 on the CPU.
pub fn fill_cache(
    qkv: &Tensor,
    prompts: &CuSeqlens,
    columns: usize,
    (keys, values): (&Tensor, &Tensor),
) -> Result<()> {
    let ((n, c3), (b, h, capacity, d)) = (qkv.dims2()?, keys.dims4()?);
    let spans: Vec<(usize, usize)> = prompts.spans().collect();
    let fit =
        d > 0 && c3 == 3 * h * d && n == prompts.tokens() && b == spans.len() && values.dims() == keys.dims();
    if !fit || columns > capacity || spans.iter().any(|(_, t)| *t > columns) {
        bail!(
            "fill_cache: {:?} of {} prompts, {columns} columns, do not fit keys {:?} and values {:?}",
            qkv.dims(),
            spans.len(),
            keys.dims(),
            values.dims()
        );
    }
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

/// [`decode_attention`] on CUDA, of operands that fit.
#[cfg(feature = "cuda")]
fn on_cuda(
    qkv: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    columns: Columns<'_>,
    scale: f64,
) -> Result<Tensor> {
    use crate::cuda::{decode::CacheSizes, uninitialised, with_arrays};
    let (op, (sequences, heads, capacity, d)) = ("decode_attention", keys.dims4()?);
    let out = uninitialised((sequences, heads * d), qkv.dtype(), qkv)?;
    let first: Vec<u32> = columns.first.iter().map(|first| *first as u32).collect();
    let first = Tensor::from_vec(first, sequences, qkv.device())?;
    let sizes = CacheSizes { sequences, heads, capacity, d };
    with_arrays(op, [&first], [], |_, [first], []| {
        with_arrays(op, [qkv], [keys, values, &out], |gpu, [qkv], [keys, values, out]| {
            gpu.decode_attention(qkv, (keys, values), (first, columns.new), sizes, scale as f32, out)
        })
    })?;
    Ok(out)
}

/// `out = sum_j softmax_j(scale q . k_j) v_j`; `out` is zero before.
#[inline(always)]
fn attend(out: &mut [f32], q: &[f32], keys: &[f32], values: &[f32], scale: f32) {
    let d = q.len();
    let mut weights = vec![0f32; keys.len() / d];
    for (i, (weight, key)) in weights.iter_mut().zip(keys.chunks(d)).enumerate() {
        // The keys a little ahead and the values of this column are on their way meanwhile.
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
            let cache = || Tensor::zeros((2, h, t + 2, d), DType::F32, &Device::Cpu);
            let (keys, values) = (cache()?, cache()?);
            for column in 0..t {
                // The second text begins two columns later.
                let rows = [texts[0].narrow(0, column, 1)?, texts[1].narrow(0, column.saturating_sub(2), 1)?];
                let first = [0, 2.min(column)];
                let columns = Columns { first: &first, new: column };
                let out = decode_attention(&Tensor::cat(&rows, 0)?, (&keys, &values), columns, 0.3)?;
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
        let cache = || Tensor::zeros((3, h, capacity, d), DType::F32, &Device::Cpu);
        let (keys, values) = (cache()?, cache()?);
        fill_cache(&qkv, &prompts, columns, (&keys, &values))?;
        let qkv = qkv.reshape((6, 3, h, d))?;
        for (part, cache) in [(1, &keys), (2, &values)] {
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
        assert!(fill_cache(&qkv, &prompts, 3, (&keys, &values)).is_err());
        assert!(fill_cache(&qkv, &prompts, 7, (&keys, &values)).is_err());
        assert!(fill_cache(&qkv, &CuSeqlens::from_lengths([4, 2]), 4, (&keys, &values)).is_err());
        assert!(fill_cache(&qkv.narrow(0, 0, 5)?, &prompts, 4, (&keys, &values)).is_err());
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let cache = Tensor::zeros((1, 2, 3, 4), DType::F32, &Device::Cpu)?;
        let decode = |qkv: &Tensor, first: &[usize], new| {
            decode_attention(qkv, (&cache, &cache.copy()?), Columns { first, new }, 1.0)
        };
        assert!(decode(&random(&[1, 24], 1)?, &[0], 2).is_ok());
        assert!(decode(&random(&[1, 24], 1)?, &[0], 3).is_err());
        assert!(decode(&random(&[1, 24], 1)?, &[2], 1).is_err());
        assert!(decode(&random(&[1, 21], 1)?, &[0], 1).is_err());
        assert!(decode(&random(&[2, 24], 1)?, &[0, 0], 1).is_err());
        Ok(())
    }
}
