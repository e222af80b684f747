//! Gradient-norm clipping on the device, without synchronising the host.

use candle_core::{DType, Result, Tensor, bail};

use crate::adamw::{AdamWParameter, AdamWUpdate};
use crate::cuda::Gpu;
use crate::device::gpu_of;

/// Numbers of a verdict.
pub(crate) const VERDICT: usize = 5;

/// Holds the gradient norm, the clipping factor and the first failure on the device.
///
/// The factor is `min(1, max_norm / (norm + 1e-6))`, or 1 if `max_norm` is 0. From a step with non-finite gradients on, no update changes a
/// parameter, so the host may read the verdict some steps later.
#[derive(Debug)]
pub struct GradientGuard {
    /// See `Verdict` in `cuda/adamw.cu`.
    verdict: Tensor,
}

/// The verdict of a [`GradientGuard`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientVerdict {
    /// Gradient norm of the last finite step, or of the first non-finite one.
    pub norm: f64,
    /// The first failure.
    pub failure: Option<GradientFailure>,
}

/// A non-finite gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientFailure {
    /// Its index among the gradients.
    pub tensor: usize,
    /// Its sum of squares.
    pub squared_norm: f64,
    /// The step, as it was numbered by the caller.
    pub step: u64,
}

impl GradientGuard {
    /// A guard for gradients like this one, or `None` on devices other than CUDA, where norms are read at every step.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(like: &Tensor) -> Result<Option<Self>> {
        let guard = |_| Ok(Self { verdict: Tensor::zeros(VERDICT, DType::F64, like.device())? });
        gpu_of(like).map(guard).transpose()
    }

    /// Checks the gradients of step number `step`, before the updates of that step.
    ///
    /// # Errors
    /// When a gradient is not contiguous f32 on the device.
    pub fn judge(&self, gradients: &[Tensor], max_norm: f64, step: u64) -> Result<()> {
        match Gpu::of(self.verdict.device()) {
            Some(gpu) => gpu.judge(gradients, max_norm, step, &self.verdict),
            None => {
                bail!("gradient guard: expected a CUDA device, got {:?}", self.verdict.device().location())
            }
        }
    }

    /// [`crate::adamw_step`] with the factor of the verdict for the update's `gradient_scale`, or without effect after a failure.
    ///
    /// # Errors
    /// As [`crate::adamw_step`].
    pub fn adamw_step(&self, parameters: &[AdamWParameter<'_>], update: &AdamWUpdate) -> Result<()> {
        parameters.iter().try_for_each(AdamWParameter::check)?;
        let Some(first) = parameters.first() else { return Ok(()) };
        match gpu_of(first.gradient) {
            Some(gpu) => gpu.adamw_step(parameters, update, Some(&self.verdict)),
            None => {
                let (dtype, device) = (first.gradient.dtype(), first.gradient.device().location());
                bail!(
                    "gradient guard: expected an f32 gradient on a CUDA device, got {dtype:?} on {device:?}"
                )
            }
        }
    }

    /// The verdict; synchronises the device.
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
