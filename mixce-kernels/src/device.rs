//! Which tensors have fused kernels, what a GPU is, and how much of its memory was used.

use candle_core::{Device, Result, Tensor};

use crate::cpu::is_cpu_f32;

/// Whether the fused kernels work on such a tensor: f32 on the CPU, or on a CUDA device with the feature `cuda`.
#[must_use]
pub fn is_fused(tensor: &Tensor) -> bool {
    #[cfg(feature = "cuda")]
    if crate::cuda::is_cuda_f32(tensor) {
        return true;
    }
    is_cpu_f32(tensor)
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The name that its maker gave it.
    pub name: String,
    /// All of its memory.
    pub memory_bytes: u64,
    /// Compute capability, as `8.0`.
    pub compute_capability: String,
    /// The newest CUDA that its driver knows, as `13.0`.
    pub cuda_version: String,
}

/// What a CUDA device is; `None` for others.
///
/// # Errors
/// When the driver fails.
pub fn gpu(device: &Device) -> Result<Option<Gpu>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => crate::cuda::device::describe(gpu).map(Some),
        _ => Ok(None),
    }
}

/// The most bytes of a device's memory that this process had in use at any time, as the driver counts them: tensors, not the driver's
/// own libraries. `None` on the CPU, and where the driver does not count.
///
/// # Errors
/// When the driver fails.
pub fn peak_device_bytes(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => crate::cuda::device::peak_bytes(gpu),
        _ => Ok(None),
    }
}
