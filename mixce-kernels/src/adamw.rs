//! The in-place AdamW update, and the sum of squares for clipping, for contiguous f32 tensors.
//!
//! Updates are elementwise, and sums are taken over chunks of fixed size in order, so results do not depend on the number of
//! threads.

use candle_core::{D, DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{is_cpu_f32, with_slices, with_slices_mut};
use crate::device::gpu_of;
use crate::parameter::Rounded;
use crate::simd::{self, vectorised};

/// Entries per task: large enough to hide scheduling overhead, small enough to stay in a core's cache.
const CHUNK: usize = 16 * 1024;

/// Entries per term of [`chunk_squares`].
pub const SQUARES_CHUNK: usize = CHUNK;

/// Coefficients of one update (Loshchilov & Hutter, *Decoupled weight decay regularization*, ICLR 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamWUpdate {
    /// `1 - beta1`.
    pub first_rate: f32,
    /// `beta2`.
    pub second_keep: f32,
    /// `1 - beta2`.
    pub second_rate: f32,
    /// Factor applied to the gradient (clipping).
    pub gradient_scale: f32,
    /// `lr / (1 - beta1^t)`.
    pub step_size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root_correction: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

/// A parameter to update: contiguous f32 tensors of the same size that do not share memory.
#[derive(Clone, Copy, Debug)]
pub struct AdamWParameter<'a> {
    /// `p`.
    pub parameter: &'a Tensor,
    /// The copy in bf16 if it is a [`Parameter`](crate::Parameter), or a part of one: the update of a whole one keeps it current.
    pub rounded: Option<&'a Rounded>,
    /// `m`.
    pub first_moment: &'a Tensor,
    /// `v`.
    pub second_moment: &'a Tensor,
    /// Its gradient, which is only read.
    pub gradient: &'a Tensor,
    /// `1 - lr * weight_decay`.
    pub decay_factor: f32,
}

/// One update of parameters and their moments in place, in one pass over memory; on CUDA in few launches, so that small parameters cost
/// little. With `g = gradient_scale * gradient`:
///
/// ```text
/// m <- m + first_rate (g - m)
/// v <- second_keep v + second_rate g^2
/// p <- decay_factor p - step_size m / (sqrt(v) / root_correction + epsilon)
/// ```
///
/// # Errors
/// When the sizes of a parameter's tensors differ, before anything changes; when a tensor is not contiguous or has no kernels
/// ([`crate::has_backward_kernels`]), or they are on several devices.
pub fn adamw_step(parameters: &[AdamWParameter<'_>], update: &AdamWUpdate) -> Result<()> {
    parameters.iter().try_for_each(AdamWParameter::check)?;
    match parameters.first().and_then(|first| gpu_of(first.gradient)) {
        Some(gpu) => gpu.adamw_step(parameters, update, None),
        None => parameters.iter().try_for_each(|parameter| parameter.update(update)),
    }
}

impl AdamWParameter<'_> {
    /// Refuses tensors of different sizes.
    pub(crate) fn check(&self) -> Result<()> {
        let n = self.gradient.elem_count();
        let tensors = [self.parameter, self.first_moment, self.second_moment];
        match tensors.iter().find(|tensor| tensor.elem_count() != n) {
            Some(other) => {
                bail!("adamw: expected {n} entries in parameter and moments, got {}", other.elem_count())
            }
            None => Ok(()),
        }
    }

    /// The update on the CPU.
    fn update(&self, update: &AdamWUpdate) -> Result<()> {
        self.rounded.into_iter().for_each(Rounded::invalidate);
        let tensors = [self.parameter, self.first_moment, self.second_moment];
        with_slices("adamw", [self.gradient], |[g]| {
            with_slices_mut("adamw", tensors, |[p, m, v]| {
                let chunks =
                    p.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)));
                let tasks = chunks.zip(g.par_chunks(CHUNK));
                let decay = self.decay_factor;
                tasks.for_each(|((p, (m, v)), g)| vectorised(|| apply((p, m, v), g, (decay, update))));
            })
        })?
    }
}

#[inline(always)]
fn apply(
    (p, m, v): (&mut [f32], &mut [f32], &mut [f32]),
    g: &[f32],
    (decay_factor, update): (f32, &AdamWUpdate),
) {
    for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
        let g = update.gradient_scale * g;
        *m += update.first_rate * (g - *m);
        *v = update.second_keep * *v + update.second_rate * (g * g);
        let denominator = v.sqrt() / update.root_correction + update.epsilon;
        *p = decay_factor * *p - update.step_size * (*m / denominator);
    }
}

/// `sum_i x_i^2` in f32 or better; infinite when a square overflows f32. On the CPU the sums are f32 within a chunk of 16 384 entries and
/// f64 over them; on CUDA f32 within a thread and f64 over them; on other devices f32, along rows first. Synchronises the device.
///
/// # Errors
/// When a tensor operation fails.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let x = x.to_dtype(DType::F32)?;
    if let Some(gpu) = gpu_of(&x) {
        return Ok(gpu.sums_of_squares(&[&x])?.iter().sum());
    }
    if !is_cpu_f32(&x) {
        // Rows first, so that no sum has more terms than the tensor has rows or columns.
        return x.sqr()?.sum(D::Minus1)?.sum_all()?.to_scalar::<f32>().map(f64::from);
    }
    Ok(chunk_squares(&x)?.iter().sum())
}

/// The terms of [`sum_of_squares`] on the CPU, one for each chunk of [`SQUARES_CHUNK`] entries. A part of a tensor that begins at a chunk's
/// beginning has the terms that the tensor has there.
///
/// # Errors
/// When the tensor is not f32 or not on the CPU.
pub fn chunk_squares(x: &Tensor) -> Result<Vec<f64>> {
    with_slices("sum of squares", [x], |[x]| {
        let chunk = |x: &[f32]| f64::from(vectorised(|| simd::sum(x, |x| x * x)));
        x.par_chunks(CHUNK).map(chunk).collect()
    })
}

/// [`sum_of_squares`] of each tensor; on CUDA, where all must be on one device, in few launches and one synchronisation.
///
/// # Errors
/// When a tensor operation fails.
pub fn sums_of_squares(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    match tensors.first().and_then(|first| gpu_of(first)) {
        Some(gpu) if tensors.iter().all(|tensor| gpu_of(tensor).is_some()) => gpu.sums_of_squares(tensors),
        _ => tensors.iter().map(|tensor| sum_of_squares(tensor)).collect(),
    }
}

/// Sets every entry of tensors to 0; on CUDA, where all must be on one device, in few launches.
///
/// # Errors
/// When a tensor is f32 and not contiguous, or a tensor operation fails.
pub fn clear<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
    let (on_gpu, others): (Vec<&Tensor>, Vec<&Tensor>) =
        tensors.into_iter().partition(|tensor| gpu_of(tensor).is_some());
    if let Some(gpu) = on_gpu.first().and_then(|first| gpu_of(first)) {
        gpu.clear(&on_gpu)?;
    }
    others.into_iter().try_for_each(|x| match is_cpu_f32(x) {
        true => with_slices_mut("clear", [x], |[x]| x.par_chunks_mut(CHUNK).for_each(|x| x.fill(0.0))),
        false => x.zero_set(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random};
    use candle_core::Device;

    fn parameter([parameter, first_moment, second_moment, gradient]: [&Tensor; 4]) -> AdamWParameter<'_> {
        AdamWParameter { parameter, rounded: None, first_moment, second_moment, gradient, decay_factor: 0.99 }
    }

    #[test]
    fn the_update_follows_the_formula() -> Result<()> {
        let update = AdamWUpdate {
            first_rate: 0.1,
            second_keep: 0.999,
            second_rate: 0.001,
            gradient_scale: 0.5,
            step_size: 0.02,
            root_correction: 0.3,
            epsilon: 1e-8,
        };
        for n in [0usize, 1, 17, 2 * CHUNK + 3] {
            let (p, m, v) = (random(&[n], 1)?, random(&[n], 2)?, random(&[n], 3)?.abs()?);
            let g = random(&[n], 4)?;
            let scaled = (&g * 0.5)?;
            let want_m = (&m + ((&scaled - &m)? * 0.1)?)?;
            let want_v = ((&v * 0.999)? + (scaled.sqr()? * 0.001)?)?;
            let step = ((&want_m / ((want_v.sqrt()? / 0.3)? + 1e-8)?)? * 0.02)?;
            let want_p = ((&p * 0.99)? - step)?;
            adamw_step(&[parameter([&p, &m, &v, &g])], &update)?;
            for (name, got, want) in [("p", p, want_p), ("m", m, want_m), ("v", v, want_v)] {
                assert_close(name, &got, &want, 1e-6, 1e-5);
            }
        }
        // Nothing changes when one of several parameters is refused.
        let (two, three) = (random(&[2], 1)?, random(&[3], 1)?);
        let moments = [random(&[2], 2)?, random(&[2], 3)?.abs()?];
        let (good, bad) = ([&two, &moments[0], &moments[1], &two], [&two, &two, &three, &two]);
        let before = two.to_vec1::<f32>()?;
        let error = adamw_step(&[parameter(good), parameter(bad)], &update).unwrap_err().to_string();
        assert!(error.contains("expected 2 entries in parameter and moments, got 3"), "{error}");
        assert_eq!(two.to_vec1::<f32>()?, before);
        Ok(())
    }

    #[test]
    fn parts_between_chunks_have_the_terms_of_the_whole() -> Result<()> {
        let whole = random(&[2 * SQUARES_CHUNK + 77], 1)?;
        let terms = chunk_squares(&whole)?;
        assert_eq!(terms.iter().sum::<f64>(), sum_of_squares(&whole)?);
        let parts = [(0, SQUARES_CHUNK), (SQUARES_CHUNK, SQUARES_CHUNK + 77), (0, 0)];
        let of = |(start, length)| chunk_squares(&whole.narrow(0, start, length)?);
        assert_eq!(parts.into_iter().map(of).collect::<Result<Vec<_>>>()?.concat(), terms);
        Ok(())
    }

    #[test]
    fn squares_are_summed_and_overflow_is_seen() -> Result<()> {
        let x = random(&[3, CHUNK], 5)?;
        let want: f64 = x.flatten_all()?.to_vec1::<f32>()?.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((sum_of_squares(&x)? - want).abs() < 1e-4 * want);
        assert!(!sum_of_squares(&Tensor::new(&[0f32, 1e30], &Device::Cpu)?)?.is_finite());
        clear([&x])?;
        assert_eq!(sum_of_squares(&x)?, 0.0);
        let x = Tensor::new(&[[3f64, 4.0], [0.0, 12.0]], &Device::Cpu)?;
        assert_eq!(sum_of_squares(&x)?, 169.0);
        clear([&x])?;
        assert_eq!(x.to_vec2::<f64>()?, [[0.0; 2]; 2]);
        Ok(())
    }
}
