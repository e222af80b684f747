//! Opening a GPU, which tensors have fused kernels, points in a device's work, and the description of a GPU.

use candle_core::{DType, Device, Result, Tensor};

use crate::cpu::is_cpu_f32;
use crate::cuda;

/// The CUDA device with this number, from 0; the same one at every call.
///
/// All its work goes to one stream, so results are those of the order of calls, whatever threads they come from. candle's
/// `Device::new_cuda` would give every thread a stream of its own with nothing that orders them: a tensor of one thread could be
/// read by another before it is computed.
///
/// # Errors
/// When there is no such device, or this build has no CUDA.
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    cuda::open(ordinal)
}

/// The number of CUDA devices that this process sees.
///
/// # Errors
/// When the driver fails, or this build has no CUDA.
pub fn cuda_devices() -> Result<usize> {
    cuda::count()
}

/// Whether operations on such a tensor are fused and have backward passes without a graph: f32 on the CPU, or on a CUDA device with
/// the feature `cuda`.
#[must_use]
pub fn has_backward_kernels(tensor: &Tensor) -> bool {
    is_cpu_f32(tensor) || gpu_of(tensor).is_some()
}

/// The GPU whose kernels take this tensor: f32 on a CUDA device.
pub(crate) fn gpu_of(tensor: &Tensor) -> Option<cuda::Gpu<'_>> {
    cuda::Gpu::of(tensor.device()).filter(|_| tensor.dtype() == DType::F32)
}

/// A point in the work of a device: behind what it was given before.
#[derive(Debug)]
pub struct DeviceEvent(pub(crate) Option<cuda::Event>);

impl DeviceEvent {
    /// The present point. Other devices than GPUs have done their work when a call returns.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn record(device: &Device) -> Result<Self> {
        Ok(Self(cuda::Gpu::of(device).map(|gpu| gpu.event()).transpose()?))
    }

    /// Whether the device has come so far.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn is_complete(&self) -> Result<bool> {
        self.0.as_ref().map_or(Ok(true), cuda::Event::is_complete)
    }
}

/// A GPU as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// As `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Its whole memory.
    pub memory_bytes: u64,
    /// Compute capability, as `8.0`.
    pub compute_capability: String,
    /// The newest CUDA that its driver knows, as `13.0`.
    pub cuda_version: String,
    /// What products in bf16 do before they store their result, by cublasLt: add a `bias`, and apply `gelu` to the sum. Kernels of their own do the rest.
    pub epilogues: Vec<&'static str>,
}

/// The description of a CUDA device; `None` for others.
///
/// # Errors
/// When the driver fails.
pub fn gpu(device: &Device) -> Result<Option<Gpu>> {
    cuda::Gpu::of(device).map(|gpu| gpu.describe()).transpose()
}

/// The peak device memory of this process in bytes, according to the driver: tensors, not the driver's own libraries. `None` on the CPU,
/// and if the driver does not report it.
///
/// # Errors
/// When the driver fails.
pub fn peak_device_bytes(device: &Device) -> Result<Option<u64>> {
    cuda::Gpu::of(device).map_or(Ok(None), |gpu| gpu.peak_bytes())
}
