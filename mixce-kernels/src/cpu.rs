//! Access to CPU storage for fused operations.

use std::cell::Cell;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};

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

/// Runs `f` on the elements of a contiguous f32 CPU tensor that it may change in place.
pub(crate) fn with_slice_mut<T>(
    op: &'static str,
    tensor: &Tensor,
    f: impl FnOnce(&mut [f32]) -> T,
) -> Result<T> {
    let edit = Edit { op, f: Cell::new(Some(f)), result: Cell::new(None) };
    tensor.inplace_op1(&edit)?;
    match edit.result.into_inner() {
        Some(result) => Ok(result),
        None => bail!("{op}: expected a CPU tensor"),
    }
}

/// [`with_slice_mut`] of several tensors at once, which must not share memory.
pub(crate) fn with_slices_mut<T, const N: usize>(
    op: &'static str,
    tensors: [&Tensor; N],
    f: impl FnOnce([&mut [f32]; N]) -> T,
) -> Result<T> {
    with_list_mut(op, &tensors, |slices| match slices.try_into() {
        Ok(slices) => Ok(f(slices)),
        Err(_) => bail!("{op}: expected {N} tensors"),
    })
}

/// [`with_slices_mut`] of any number of tensors.
pub(crate) fn with_list_mut<T>(
    op: &'static str,
    tensors: &[&Tensor],
    f: impl FnOnce(Vec<&mut [f32]>) -> Result<T>,
) -> Result<T> {
    fn collect<T>(
        op: &'static str,
        tensors: &[&Tensor],
        slices: Vec<&mut [f32]>,
        f: &mut dyn FnMut(Vec<&mut [f32]>) -> Result<T>,
    ) -> Result<T> {
        match tensors.split_first() {
            None => f(slices),
            Some((first, rest)) => with_slice_mut(op, first, |slice| {
                let mut slices = slices;
                slices.push(slice);
                collect(op, rest, slices, f)
            })?,
        }
    }
    let mut f = Some(f);
    collect(op, tensors, Vec::with_capacity(tensors.len()), &mut |slices| match f.take() {
        Some(f) => f(slices),
        None => bail!("{op}: expected to run once"),
    })
}

/// Runs `f` on the elements of several f32 CPU tensors.
pub(crate) fn with_slices<T, const N: usize>(
    op: &'static str,
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> T,
) -> Result<T> {
    with_list(op, &tensors, |slices| match slices.try_into() {
        Ok(slices) => Ok(f(slices)),
        Err(_) => bail!("{op}: expected {N} tensors"),
    })
}

/// [`with_slices`] of any number of tensors.
pub(crate) fn with_list<T>(
    op: &'static str,
    tensors: &[&Tensor],
    f: impl FnOnce(Vec<&[f32]>) -> Result<T>,
) -> Result<T> {
    let contiguous: Vec<Tensor> = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(Tensor::storage_and_layout).collect();
    let slices = guards.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(storage) => slice(op, storage, layout),
        _ => bail!("{op}: expected a CPU tensor"),
    });
    f(slices.collect::<Result<_>>()?)
}

/// Runs `f` on the elements of contiguous f32 CPU tensors, which share no memory and which it may change in place; `op` names it in errors.
///
/// # Errors
/// When a tensor is of another type, elsewhere or not contiguous, or `f` fails.
pub fn edit_f32<T>(
    op: &'static str,
    tensors: &[&Tensor],
    f: impl FnOnce(Vec<&mut [f32]>) -> Result<T>,
) -> Result<T> {
    with_list_mut(op, tensors, f)
}

struct Edit<F, T> {
    op: &'static str,
    f: Cell<Option<F>>,
    result: Cell<Option<T>>,
}

impl<T, F: FnOnce(&mut [f32]) -> T> InplaceOp1 for Edit<F, T> {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            bail!("{}: expected contiguous f32, got layout {layout:?}", self.op);
        };
        if let Some(f) = self.f.take() {
            self.result.set(Some(f(&mut data[start..end])));
        }
        Ok(())
    }
}

fn dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// Rows per task: fixed, so that sums over rows have the same order for any number of threads.
pub(crate) const ROWS_PER_TASK: usize = 32;
