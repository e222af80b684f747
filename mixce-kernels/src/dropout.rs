//! Inverted dropout whose mask is regenerated in the backward pass instead of being stored.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cuda;
use crate::{cpu, device::has_backward_kernels, rng::Stream, simd::vectorised};

/// A dropout, alone or inside another operation, with the mask of [`dropout`].
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability of dropping an element.
    pub p: f64,
    /// Its random words.
    pub stream: Stream,
    /// The tensor's first row in the larger tensor whose mask this is part of; 0 for a whole tensor.
    pub first_row: usize,
}

impl Dropout {
    /// A dropout of a whole tensor.
    #[must_use]
    pub fn new(p: f64, stream: Stream) -> Self {
        Self { p, stream, first_row: 0 }
    }
}

/// Drops elements of `x` with probability `p` and scales the rest by `1 / (1 - p)`.
///
/// `y_i = x_i * m_i / (1 - p)`, where `m_i = 0` if word `i` of `stream` (see [`Stream::u32`]) is below `p * 2^32` and 1
/// otherwise; `i` is the element's index in row-major order. The gradient is `dx_i = dy_i * m_i / (1 - p)`: the mask is
/// regenerated, never stored. Any shape; f32 is fused, other dtypes and devices use [`dropout_slow`].
/// `p = 0` returns `x` itself.
///
/// # Errors
/// When `p` is outside `[0, 1)`.
pub fn dropout(x: &Tensor, p: f64, stream: Stream) -> Result<Tensor> {
    drop_rows(x, Dropout::new(p, stream))
}

/// [`dropout`] of a tensor that may be some rows of a larger one.
pub(crate) fn drop_rows(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    check(dropout.p)?;
    if dropout.p == 0.0 {
        return Ok(x.clone());
    }
    match has_backward_kernels(x) {
        true => x.contiguous()?.apply_op1(dropout),
        false => drop_rows_slow(x, dropout),
    }
}

/// [`dropout`] in plain candle operations: the mask is generated on the host and multiplied in.
///
/// # Errors
/// When `p` is outside `[0, 1)`.
pub fn dropout_slow(x: &Tensor, p: f64, stream: Stream) -> Result<Tensor> {
    drop_rows_slow(x, Dropout::new(p, stream))
}

/// [`dropout_slow`] of a tensor that may be some rows of a larger one.
pub(crate) fn drop_rows_slow(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    check(dropout.p)?;
    let mut scales = vec![1f32; x.elem_count()];
    multiply_mask(&mut scales, dropout, columns(x.shape()));
    x.mul(&Tensor::from_vec(scales, x.shape(), x.device())?.to_dtype(x.dtype())?)
}

/// Elements of a row.
fn columns(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1)
}

pub(crate) fn check(p: f64) -> Result<()> {
    if !(0.0..1.0).contains(&p) {
        bail!("dropout: expected a probability in [0, 1), got {p}");
    }
    Ok(())
}

/// Turns random words into the factors of inverted dropout.
#[derive(Clone, Copy)]
pub(crate) struct Keep {
    threshold: u32,
    scale: f32,
}

impl Keep {
    pub(crate) fn new(p: f64) -> Self {
        Self { threshold: (p * 2f64.powi(32)) as u32, scale: (1.0 / (1.0 - p)) as f32 }
    }

    /// A word below the threshold becomes 0, any other the scale.
    #[cfg(feature = "cuda")]
    pub(crate) fn threshold_and_scale(self) -> (u32, f32) {
        (self.threshold, self.scale)
    }

    #[inline(always)]
    pub(crate) fn scale(self, word: u32) -> f32 {
        if word < self.threshold { 0.0 } else { self.scale }
    }

    /// Multiplies `values` by the factors of the words `first..` of `stream`.
    #[inline(always)]
    pub(crate) fn apply(self, values: &mut [f32], stream: &Stream, first: u64) {
        self.for_each(values, stream, first, |value, factor| *value *= factor);
    }

    /// Writes the factors of the words `first..` of `stream`.
    #[inline(always)]
    pub(crate) fn factors(self, factors: &mut [f32], stream: &Stream, first: u64) {
        self.for_each(factors, stream, first, |value, factor| *value = factor);
    }

    #[inline(always)]
    fn for_each(self, values: &mut [f32], stream: &Stream, first: u64, f: impl Fn(&mut f32, f32)) {
        // Up to the first whole block of four words one by one, then 64 words at a time.
        let head = (first.wrapping_neg() % 4).min(values.len() as u64);
        let (head_values, values) = values.split_at_mut(head as usize);
        for (i, value) in (first..).zip(head_values) {
            f(value, self.scale(stream.u32(i)));
        }
        for (chunk, values) in values.chunks_mut(64).enumerate() {
            let words = stream.words64((first + head) / 4 + 16 * chunk as u64);
            for (value, word) in values.iter_mut().zip(words) {
                f(value, self.scale(word));
            }
        }
    }
}

const CHUNK: usize = 4096;

/// Multiplies each value by the dropout factor of its index; rows have `c` values.
fn multiply_mask(values: &mut [f32], Dropout { p, stream, first_row }: Dropout, c: usize) {
    let (keep, first) = (Keep::new(p), first_row * c);
    let chunks = values.par_chunks_mut(CHUNK).enumerate();
    chunks.for_each(|(i, chunk)| vectorised(|| keep.apply(chunk, &stream, (first + i * CHUNK) as u64)));
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = cpu::slice(self.name(), storage, layout)?.to_vec();
        multiply_mask(&mut y, *self, columns(layout.shape()));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (shape, width) = (layout.shape().clone(), columns(layout.shape()));
        cuda::operation(self.name(), [(x, layout)], shape, |gpu, [x], y| gpu.dropout(x, *self, width, y))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        debug_assert_eq!(dy.dtype(), DType::F32);
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(self)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn fused_equals_slow_forward_and_backward() -> Result<()> {
        for n in [0usize, 1, 3, 4096, 10_007] {
            let values: Vec<f32> = (0..n).map(|i| i as f32 + 1.0).collect();
            let x = Var::from_vec(values, n, &Device::Cpu)?;
            let stream = Stream::new(9).fold(2);
            let (fused, slow) = (dropout(&x, 0.3, stream)?, dropout_slow(&x, 0.3, stream)?);
            assert_eq!(fused.to_vec1::<f32>()?, slow.to_vec1::<f32>()?);
            if n > 0 {
                let grad = |y: Tensor| y.sqr()?.sum_all()?.backward()?.get(&x).unwrap().to_vec1::<f32>();
                assert_eq!(grad(fused)?, grad(slow)?);
            }
        }
        Ok(())
    }

    #[test]
    fn the_mask_is_the_documented_one() -> Result<()> {
        let (p, stream) = (0.4, Stream::new(6).fold(1));
        let y = dropout(&Tensor::ones(9_001, DType::F32, &Device::Cpu)?, p, stream)?.to_vec1::<f32>()?;
        for (i, y) in y.iter().enumerate() {
            let dropped = f64::from(stream.u32(i as u64)) < p * 2f64.powi(32);
            assert_eq!(*y, if dropped { 0.0 } else { (1.0 / (1.0 - p)) as f32 }, "element {i}");
        }
        Ok(())
    }

    #[test]
    fn gradient_is_the_finite_difference() -> Result<()> {
        let x = crate::testing::random(&[37], 5)?;
        crate::testing::assert_gradient("dropout", &x, |x| dropout(x, 0.4, Stream::new(3)))
    }

    #[test]
    fn keeps_the_mean_and_drops_the_right_share() -> Result<()> {
        let n = 100_000;
        let y =
            dropout(&Tensor::ones(n, DType::F32, &Device::Cpu)?, 0.25, Stream::new(1))?.to_vec1::<f32>()?;
        let dropped = y.iter().filter(|v| **v == 0.0).count() as f64 / n as f64;
        assert!((dropped - 0.25).abs() < 0.01, "{dropped}");
        assert!((f64::from(y.iter().sum::<f32>()) / n as f64 - 1.0).abs() < 0.01);
        Ok(())
    }

    #[test]
    fn a_probability_of_one_is_refused() {
        let x = Tensor::ones(3, DType::F32, &Device::Cpu).unwrap();
        assert!(dropout(&x, 1.0, Stream::new(1)).unwrap_err().to_string().contains("[0, 1)"));
        assert!(dropout(&x, f64::NAN, Stream::new(1)).is_err());
    }
}
