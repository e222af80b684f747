//! Clipping by the norm of all gradients, without the host: for devices that should not be waited for.

#[cfg(feature = "cuda")]
use candle_core::DType;
use candle_core::{Result, Tensor, bail};

use crate::adamw::AdamWUpdate;
#[cfg(feature = "cuda")]
use crate::cuda;

/// Keeps the norm of the gradients, the factor of clipping and the first failure on the device.
///
/// The factor is `min(1, max_norm / (norm + 1e-6))`, or 1 when `max_norm` is 0. From the step whose gradients are not all finite
/// on, no update changes anything: the host may look at the verdict later and finds the parameters as they were before
/// that step.
#[derive(Debug)]
pub struct GradientGuard {
    /// See `Verdict` in `cuda/adamw.cu`.
    verdict: Tensor,
}

/// What a [`GradientGuard`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientVerdict {
    /// Norm of all gradients of the last step that was finite, or of the first that was not.
    pub norm: f64,
    /// The first failure.
    pub failure: Option<GradientFailure>,
}

/// A gradient that was not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientFailure {
    /// Its position among the gradients.
    pub tensor: usize,
    /// Its sum of squares.
    pub squared_norm: f64,
    /// The step, as it was numbered by the caller.
    pub step: u64,
}

impl GradientGuard {
    /// A guard for gradients like this one, or `None` where the host sees every norm at once: everywhere but on CUDA.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(like: &Tensor) -> Result<Option<Self>> {
        #[cfg(feature = "cuda")]
        if cuda::is_cuda_f32(like) {
            let verdict = Tensor::zeros(cuda::adamw::VERDICT, DType::F64, like.device())?;
            return Ok(Some(Self { verdict }));
        }
        let _ = like;
        Ok(None)
    }

    /// Judges the gradients of step number `step`, before the updates of that step.
    ///
    /// # Errors
    /// When a gradient is not contiguous f32 on the device.
    pub fn judge(&self, gradients: &[Tensor], max_norm: f64, step: u64) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.verdict.device().is_cuda() {
            return cuda::adamw::judge(gradients, max_norm, step, &self.verdict);
        }
        bail!("gradient guard: no kernel for step {step} of {} gradients up to {max_norm}", gradients.len())
    }

    /// [`crate::adamw_step`] with the factor of the verdict for the update's `gradient_scale`, or without effect after a failure.
    ///
    /// # Errors
    /// As [`crate::adamw_step`].
    pub fn adamw_step(
        &self,
        state: (&Tensor, &Tensor, &Tensor),
        gradient: &Tensor,
        update: &AdamWUpdate,
    ) -> Result<()> {
        #[cfg(feature = "cuda")]
        if cuda::is_cuda_f32(gradient) {
            return cuda::adamw::adamw_step(state, gradient, update, Some(&self.verdict));
        }
        bail!("gradient guard: no kernel for {update:?} of {:?} by {:?}", state.0.shape(), gradient.shape())
    }

    /// The verdict; waits for the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn read(&self) -> Result<GradientVerdict> {
        let numbers = self.verdict.to_vec1::<f64>()?;
        let [norm, scale, tensor, squared_norm, step] = numbers[..] else {
            bail!("gradient guard: expected a verdict of 5 numbers, got {}", numbers.len())
        };
        let failure = GradientFailure { tensor: tensor as usize, squared_norm, step: step as u64 };
        Ok(GradientVerdict { norm, failure: scale.is_nan().then_some(failure) })
    }
}
