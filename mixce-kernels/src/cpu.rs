//! Access to CPU storage for fused operations.

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};

/// Whether the fused f32 CPU kernels apply to this tensor.
pub(crate) fn is_cpu_f32(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// The elements of a contiguous f32 CPU storage, in order.
pub(crate) fn slice<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&data[start..end]),
        (CpuStorage::F32(_), None) => bail!("{op}: expected a contiguous tensor, got layout {layout:?}"),
        (other, _) => bail!("{op}: expected f32, got {:?}", dtype(other)),
    }
}

/// The elements of a contiguous u32 CPU storage, in order.
pub(crate) fn slice_u32<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [u32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::U32(data), Some((start, end))) => Ok(&data[start..end]),
        (CpuStorage::U32(_), None) => bail!("{op}: expected a contiguous tensor, got layout {layout:?}"),
        (other, _) => bail!("{op}: expected u32, got {:?}", dtype(other)),
    }
}

/// Runs `f` on the elements of a contiguous f32 CPU tensor.
pub(crate) fn with_slice<T>(op: &'static str, tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(cpu) => Ok(f(slice(op, cpu, layout)?)),
        _ => bail!("{op}: expected a CPU tensor"),
    }
}

fn dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// Rows a task handles at a time: fixed, so that sums over rows are added in the same order for any number of threads.
pub(crate) const ROWS_PER_TASK: usize = 32;
