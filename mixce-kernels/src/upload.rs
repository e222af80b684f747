//! The host's numbers on a device.

use candle_core::{DType, Device, Result, Shape, Tensor};

use crate::cuda::Gpu;

/// A tensor of the host's numbers. On a GPU they are copied through page-locked memory, so that neither the host waits for the device nor the
/// device for the host; for large tensors such as weights, which are copied once, use candle.
///
/// # Errors
/// When the shape has another number of elements, or the device fails.
pub fn upload(values: &[u32], shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let Some(gpu) = Gpu::of(device) else { return Tensor::from_slice(values, shape, device) };
    let tensor = gpu.memory(values.len(), DType::U32)?;
    gpu.upload(values, &tensor)?;
    tensor.reshape(shape.into())
}
