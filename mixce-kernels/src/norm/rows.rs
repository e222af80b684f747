//! Norms of f32 rows on the CPU, forward and backward.
//!
//! Both kinds normalise a row by `n = (x - m) r`: `m` is the mean in a layer norm and 0 in an RMS norm, `r` the reciprocal root of the
//! mean of `(x - m)^2` plus epsilon.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Norm, NormKind};
use crate::affine::Sums;
use crate::cpu::ROWS_PER_TASK;
use crate::parts::{Access, Parts};
use crate::simd::{self, vectorised};

/// The elements of a norm: S is a slice on the CPU, or an array on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormElements<S> {
    pub(crate) kind: NormKind,
    /// `[C]`.
    pub(crate) gain: S,
    /// `[C]`.
    pub(crate) shift: Option<S>,
    pub(crate) eps: f32,
}

impl<A: Access> Parts<A> for Norm {
    type Elements<'a> = NormElements<A::Slice<'a>>;

    fn tensors<'t>(&'t self, tensors: &mut Vec<&'t Tensor>) {
        Parts::<A>::tensors(&self.weight, tensors);
        Parts::<A>::tensors(&self.bias, tensors);
    }

    fn elements<'a>(&self, slices: &mut impl Iterator<Item = A::Slice<'a>>) -> Result<Self::Elements<'a>> {
        let gain = Parts::<A>::elements(&self.weight, slices)?;
        let shift = Parts::<A>::elements(&self.bias, slices)?;
        Ok(NormElements { kind: self.kind, gain, shift, eps: self.epsilon as f32 })
    }
}

impl NormElements<&[f32]> {
    /// Normalised rows of `x` into `y`, on all threads.
    pub(crate) fn forward(self, x: &[f32], y: &mut [f32]) {
        let c = self.gain.len();
        let block = (c * ROWS_PER_TASK).max(1);
        y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| match self.kind {
            NormKind::Layer => vectorised(|| self.forward_rows::<true>(x, y)),
            NormKind::Rms => vectorised(|| self.forward_rows::<false>(x, y)),
        });
    }

    /// Adds the gradients of input, weight and bias to `dx` and `sums`, on all threads. With `g = dy * weight`:
    /// `dx += r (g - mean(g) - n mean(g n))`, where an RMS norm has no `mean(g)`; `dweight += sum_rows dy n`, `dbias += sum_rows dy`.
    pub(crate) fn backward(self, x: &[f32], dy: &[f32], dx: &mut [f32], sums: &mut Sums<&mut [f32]>) {
        let c = self.gain.len();
        let block = (c * ROWS_PER_TASK).max(1);
        let rows = dx.par_chunks_mut(block).zip(x.par_chunks(block).zip(dy.par_chunks(block)));
        let partial: Vec<Vec<f32>> = rows
            .map(|(dx, (x, dy))| {
                let mut scratch = vec![0f32; 4 * c];
                match self.kind {
                    NormKind::Layer => vectorised(|| self.backward_rows::<true>(x, dy, dx, &mut scratch)),
                    NormKind::Rms => vectorised(|| self.backward_rows::<false>(x, dy, dx, &mut scratch)),
                }
                scratch
            })
            .collect();
        // In the order of the rows, so that the sums do not depend on the number of threads.
        for part in &partial {
            simd::add_to(sums.weight, &part[..c]);
            if let Some(bias) = &mut sums.bias {
                simd::add_to(bias, &part[c..2 * c]);
            }
        }
    }

    /// `m` and `r` of a row.
    #[inline(always)]
    fn statistics<const CENTRED: bool>(self, row: &[f32]) -> (f32, f32) {
        let c = row.len() as f32;
        let mean = if CENTRED { simd::sum(row, |x| x) / c } else { 0.0 };
        let variance = simd::sum(row, |x| (x - mean) * (x - mean)) / c;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }

    #[inline(always)]
    fn forward_rows<const CENTRED: bool>(self, x: &[f32], y: &mut [f32]) {
        let c = self.gain.len();
        for (y, x) in y.chunks_mut(c).zip(x.chunks(c)) {
            let (mean, r) = self.statistics::<CENTRED>(x);
            for ((y, x), gain) in y.iter_mut().zip(x).zip(self.gain) {
                *y = (x - mean) * r * gain;
            }
            if let Some(shift) = self.shift {
                simd::add_to(y, shift);
            }
        }
    }

    /// The first half of `scratch` `[4 C]` receives the sums of `dweight` and `dbias`.
    #[inline(always)]
    fn backward_rows<const CENTRED: bool>(self, x: &[f32], dy: &[f32], dx: &mut [f32], scratch: &mut [f32]) {
        let c = self.gain.len();
        let (sums, work) = scratch.split_at_mut(2 * c);
        let ((dweight, dbias), (n, g)) = (sums.split_at_mut(c), work.split_at_mut(c));
        for ((dx, x), dy) in dx.chunks_mut(c).zip(x.chunks(c)).zip(dy.chunks(c)) {
            let (mean, r) = self.statistics::<CENTRED>(x);
            for i in 0..c {
                n[i] = (x[i] - mean) * r;
                g[i] = dy[i] * self.gain[i];
                dweight[i] += dy[i] * n[i];
                dbias[i] += dy[i];
            }
            let mean_g = if CENTRED { simd::sum(g, |g| g) / c as f32 } else { 0.0 };
            let mean_gn = simd::dot(g, n) / c as f32;
            for i in 0..c {
                dx[i] += r * (g[i] - mean_g - n[i] * mean_gn);
            }
        }
    }
}
