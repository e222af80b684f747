//! The update of AdamW in place, and the sum of squares that clipping needs, for contiguous f32 tensors.
//!
//! Every entry is updated on its own, and sums are taken over chunks of fixed size in order: neither depends on the number
//! of threads.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{with_slices, with_slices_mut};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::{self, vectorised};

/// Entries a thread takes at once: large enough to hide the cost of handing them out, small enough to stay in a core's cache.
const CHUNK: usize = 16 * 1024;

/// The numbers of one update (Loshchilov & Hutter, *Decoupled weight decay regularization*, ICLR 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamWUpdate {
    /// `1 - beta1`.
    pub first_rate: f32,
    /// `beta2`.
    pub second_keep: f32,
    /// `1 - beta2`.
    pub second_rate: f32,
    /// The gradient is multiplied by this first (clipping).
    pub gradient_scale: f32,
    /// `1 - lr * weight_decay`.
    pub decay_factor: f32,
    /// `lr / (1 - beta1^t)`.
    pub step_size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root_correction: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

/// One update of a parameter and its moments in place, in one pass over memory. With `g = gradient_scale * gradient`:
///
/// ```text
/// m <- m + first_rate (g - m)
/// v <- second_keep v + second_rate g^2
/// p <- decay_factor p - step_size m / (sqrt(v) / root_correction + epsilon)
/// ```
///
/// The four tensors must not share memory.
///
/// # Errors
/// When the sizes differ or a tensor is not contiguous or has no fused kernel.
pub fn adamw_step(
    (parameter, first, second): (&Tensor, &Tensor, &Tensor),
    gradient: &Tensor,
    update: &AdamWUpdate,
) -> Result<()> {
    let n = gradient.elem_count();
    if [parameter, first, second].iter().any(|t| t.elem_count() != n) {
        bail!("adamw: expected {n} entries in parameter and moments");
    }
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_f32(gradient) {
        return cuda::adamw::adamw_step((parameter, first, second), gradient, update, None);
    }
    with_slices("adamw", [gradient], |[g]| {
        with_slices_mut("adamw", [parameter, first, second], |[p, m, v]| {
            let chunks = p.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)));
            let tasks = chunks.zip(g.par_chunks(CHUNK));
            tasks.for_each(|((p, (m, v)), g)| vectorised(|| apply((p, m, v), g, update)));
        })
    })?
}

#[inline(always)]
fn apply((p, m, v): (&mut [f32], &mut [f32], &mut [f32]), g: &[f32], update: &AdamWUpdate) {
    for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
        let g = update.gradient_scale * g;
        *m += update.first_rate * (g - *m);
        *v = update.second_keep * *v + update.second_rate * (g * g);
        let denominator = v.sqrt() / update.root_correction + update.epsilon;
        *p = update.decay_factor * *p - update.step_size * (*m / denominator);
    }
}

/// `sum_i x_i^2`; infinite when a square overflows f32. On the CPU the sums are f32 within a chunk of 16 384 entries and f64 over
/// them; on CUDA f32 within a thread and f64 over them, and the call waits for the device.
///
/// # Errors
/// When the tensor has no fused kernel.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_f32(x) {
        return cuda::adamw::sum_of_squares(x);
    }
    with_slices("sum of squares", [x], |[x]| {
        let chunk = |x: &[f32]| f64::from(vectorised(|| simd::sum(x, |x| x * x)));
        let sums: Vec<f64> = x.par_chunks(CHUNK).map(chunk).collect();
        sums.iter().sum()
    })
}

/// Sets every entry to 0.
///
/// # Errors
/// When the tensor is not contiguous or has no fused kernel.
pub fn clear(x: &Tensor) -> Result<()> {
    #[cfg(feature = "cuda")]
    if cuda::is_cuda_f32(x) {
        return cuda::adamw::clear(x);
    }
    with_slices_mut("clear", [x], |[x]| x.par_chunks_mut(CHUNK).for_each(|x| x.fill(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random};
    use candle_core::Device;

    #[test]
    fn the_update_follows_the_formula() -> Result<()> {
        let update = AdamWUpdate {
            first_rate: 0.1,
            second_keep: 0.999,
            second_rate: 0.001,
            gradient_scale: 0.5,
            decay_factor: 0.99,
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
            adamw_step((&p, &m, &v), &g, &update)?;
            for (name, got, want) in [("p", p, want_p), ("m", m, want_m), ("v", v, want_v)] {
                assert_close(name, &got, &want, 1e-6, 1e-5);
            }
        }
        assert!(
            adamw_step((&random(&[2], 1)?, &random(&[2], 1)?, &random(&[3], 1)?), &random(&[2], 1)?, &update)
                .is_err()
        );
        Ok(())
    }

    #[test]
    fn squares_are_summed_and_overflow_is_seen() -> Result<()> {
        let x = random(&[3, CHUNK], 5)?;
        let want: f64 = x.flatten_all()?.to_vec1::<f32>()?.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((sum_of_squares(&x)? - want).abs() < 1e-4 * want);
        assert!(!sum_of_squares(&Tensor::new(&[0f32, 1e30], &Device::Cpu)?)?.is_finite());
        clear(&x)?;
        assert_eq!(sum_of_squares(&x)?, 0.0);
        Ok(())
    }
}
