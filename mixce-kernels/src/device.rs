//! Which tensors have fused kernels.

use candle_core::Tensor;

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
