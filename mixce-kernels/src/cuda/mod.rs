//! The fused operations on CUDA: kernels of our own (`cuda/*.cu`) and matrix products by cuBLAS.
//!
//! Everything is f32 except the operands of matrix products and the intermediate results between products, which have an [`Element`]
//! type, f32 or bf16, chosen by the [`Precision`](crate::Precision).
//!
//! A file here has the name of the kernels it launches. Its functions take [`Array`]s, whose sizes they check, so that both candle's
//! custom operations (with storages) and the sublayers (with tensors) can call them. All work is launched asynchronously on the device's
//! single stream and runs in launch order, but for sums over GPUs (`nccl`), whose stream is ordered with it by events.
//!
//! Legend: N rows, C columns.

#![expect(unsafe_code, reason = "kernels are launched through pointers; sizes are checked here")]

mod activation;
mod adamw;
mod attention;
mod attention_tensor;
mod branch;
mod cast;
mod column_sums;
mod cross_entropy;
mod decode;
mod device;
mod dropout;
mod embedding;
mod grid;
mod linear;
mod matmul;
#[cfg(feature = "nccl")]
mod nccl;
mod norm;
mod recording;
mod rotary;
mod sample;
mod staging;
mod sublayer;

pub(crate) use attention::{causal_attention, causal_attention_backward};
pub(crate) use column_sums::finish_sums_together;
pub(crate) use device::{Event, count, open};
#[cfg(feature = "nccl")]
pub use nccl::{NcclCommunicator, NcclReduction, nccl_version};
pub(crate) use recording::Recording;

use std::marker::PhantomData;

use candle_core::cuda::cudarc::driver::sys::CUfunction_attribute;
use candle_core::cuda::cudarc::driver::{DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda::{CudaDType, WrapErr};
use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, WithDType, bail,
};
use half::bf16;

use crate::parts::{Access, Parts};

use grid::{Grid, MAX_BLOCKS, THREADS, WARP, any_rows};

/// Dynamic shared memory that a block gets without asking for it, in bytes; what else it has counts against the same 48 KiB.
const SHARED_BYTES: usize = 44 * 1024;

/// An operand type of matrix products: f32 or bf16. Kernels that read or write such values exist for both.
pub(crate) trait Element: CudaDType + DeviceRepr + WithDType {
    /// cuBLAS's type.
    const MATRIX: matmul::DataType;
    /// Elements of 16 bytes.
    const PACK: usize = 16 / size_of::<Self>();

    /// The kernel for this type.
    fn choose(of_f32: &'static str, of_bf16: &'static str) -> &'static str;
}

impl Element for f32 {
    const MATRIX: matmul::DataType = matmul::DataType::CUDA_R_32F;

    fn choose(of_f32: &'static str, _: &'static str) -> &'static str {
        of_f32
    }
}

impl Element for bf16 {
    const MATRIX: matmul::DataType = matmul::DataType::CUDA_R_16BF;

    fn choose(_: &'static str, of_bf16: &'static str) -> &'static str {
        of_bf16
    }
}

/// `name_of!("name", T)`: the kernel of that name for the type T.
macro_rules! name_of {
    ($name:expr, $type:ty) => {
        <$type as $crate::cuda::Element>::choose(concat!($name, "_f32"), concat!($name, "_bf16"))
    };
}
use name_of;

/// `in_precision!(precision, f(arguments..))`: the function for the [`Element`] type of that precision.
macro_rules! in_precision {
    ($precision:expr, $($function:ident)::+($($argument:expr),+ $(,)?)) => {
        match $precision {
            $crate::Precision::F32 => $($function)::+::<f32>($($argument),+),
            $crate::Precision::Bf16 => $($function)::+::<half::bf16>($($argument),+),
        }
    };
}
use in_precision;

/// Contiguous elements on the device, as long as their storage is borrowed.
pub(crate) struct Array<'a, T> {
    address: u64,
    len: usize,
    /// What it belongs to, where kernels may write to it after the storage is no longer borrowed.
    tensor: Option<&'a Tensor>,
    storage: PhantomData<&'a T>,
}

impl<T> Clone for Array<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Array<'_, T> {}

impl<'a, T: CudaDType> Array<'a, T> {
    /// The elements of a contiguous storage.
    ///
    /// # Errors
    /// When it is not contiguous or holds another type.
    pub(crate) fn new(op: &'static str, storage: &'a CudaStorage, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{op}: expected a contiguous tensor, got layout {layout:?}")
        };
        let view = storage.as_cuda_slice::<T>()?.slice(start..end);
        let stream = storage.device.cuda_stream();
        // There is only one stream, so no other work needs to be waited for.
        let (address, _) = view.device_ptr(&stream);
        Ok(Self { address, len: end - start, tensor: None, storage: PhantomData })
    }

    /// The elements `start..start + len`.
    fn range(self, start: usize, len: usize) -> Self {
        assert!(start + len <= self.len, "elements {start}..{} of {}", start + len, self.len);
        let address = self.address + (start * size_of::<T>()) as u64;
        Self { address, len, ..self }
    }
}

/// To be read or written by kernels.
pub(crate) struct OnGpu<T>(PhantomData<T>);

impl<T: 'static> Access for OnGpu<T> {
    type Slice<'a> = Array<'a, T>;
}

/// An argument of a kernel, in the type that it is declared with.
#[derive(Clone, Copy)]
enum Arg {
    Pointer(u64),
    Size(u64),
    Unsigned(u32),
    Int(i32),
    Float(f32),
    Double(f64),
}

impl<T> From<Array<'_, T>> for Arg {
    fn from(array: Array<'_, T>) -> Self {
        Self::Pointer(array.address)
    }
}

/// No array: a null pointer.
impl<T> From<Option<Array<'_, T>>> for Arg {
    fn from(array: Option<Array<'_, T>>) -> Self {
        Self::Pointer(array.map_or(0, |array| array.address))
    }
}

macro_rules! arg_from {
    ($($variant:ident($type:ty)),*) => {
        $(impl From<$type> for Arg {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        })*
    };
}
arg_from!(Size(u64), Unsigned(u32), Int(i32), Float(f32), Double(f64));

/// A kernel with the PTX of its file.
#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    file: &'static str,
    ptx: &'static str,
}

/// `kernel!("file", "name")`: the kernel of that name in `cuda/file.cu`.
macro_rules! kernel {
    ($file:literal, $name:expr) => {
        $crate::cuda::Kernel {
            name: $name,
            file: concat!("mixce_", $file),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $file, ".ptx")),
        }
    };
}
use kernel;

/// A CUDA device that kernels are launched on.
pub(crate) struct Gpu<'a>(pub(crate) &'a CudaDevice);

impl<'a> Gpu<'a> {
    /// The GPU that a device is.
    pub(crate) fn of(device: &'a Device) -> Option<Self> {
        match device {
            Device::Cuda(device) => Some(Self(device)),
            _ => None,
        }
    }

    /// Refuses a GPU without matrix products of bf16: they need compute capability 8.0 (Ampere).
    ///
    /// # Errors
    /// When the capability is lower, or the driver fails.
    pub(crate) fn check_bf16(&self) -> Result<()> {
        match self.0.cuda_stream().context().compute_capability().w()? {
            (8.., _) => Ok(()),
            (major, minor) => {
                bail!("expected a GPU of compute capability 8.0 or more, got {major}.{minor}")
            }
        }
    }

    /// Uninitialised f32 memory for intermediate results between kernels.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub(crate) fn buffer(&self, len: usize) -> Result<Tensor> {
        self.memory(len, DType::F32)
    }

    /// Uninitialised memory for intermediate results between kernels.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub(crate) fn memory(&self, len: usize, dtype: DType) -> Result<Tensor> {
        // SAFETY: only kernels of this module read it, after one has written what is read.
        unsafe { Tensor::empty(len, dtype, &Device::Cuda(self.0.clone())) }
    }

    /// Launches a kernel, unless there are no blocks.
    ///
    /// # Safety
    /// The arguments must be those that the kernel is declared with, and its accesses must stay inside the arrays.
    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.launch_with(kernel, grid, None::<&u8>, args) }
    }

    /// [`Gpu::launch`] of a kernel whose first argument is a structure.
    ///
    /// # Safety
    /// As for [`Gpu::launch`].
    unsafe fn launch_for<S: DeviceRepr>(
        &self,
        kernel: Kernel,
        grid: Grid,
        first: &S,
        args: &[Arg],
    ) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.launch_with(kernel, grid, Some(first), args) }
    }

    /// # Safety
    /// As for [`Gpu::launch`].
    unsafe fn launch_with<S: DeviceRepr>(
        &self,
        kernel: Kernel,
        grid: Grid,
        first: Option<&S>,
        args: &[Arg],
    ) -> Result<()> {
        if grid.blocks.0 == 0 || grid.blocks.1 == 0 {
            return Ok(());
        }
        let function = self.0.get_or_load_custom_func(kernel.name, kernel.file, kernel.ptx)?;
        if grid.shared_bytes > SHARED_BYTES {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, grid.shared_bytes as i32).w()?;
        }
        let mut builder = function.builder();
        if let Some(first) = first {
            builder.arg(first);
        }
        for arg in args {
            match arg {
                Arg::Pointer(value) | Arg::Size(value) => builder.arg(value),
                Arg::Unsigned(value) => builder.arg(value),
                Arg::Int(value) => builder.arg(value),
                Arg::Float(value) => builder.arg(value),
                Arg::Double(value) => builder.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (grid.blocks.0, grid.blocks.1, 1),
            block_dim: (grid.threads.0, grid.threads.1, 1),
            shared_mem_bytes: grid.shared_bytes as u32,
        };
        // SAFETY: passed on to the caller.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

/// Launches a kernel: `launch!(gpu, "file", "name", grid, arguments..)`, in an `unsafe` block.
macro_rules! launch {
    ($gpu:expr, $file:literal, $name:expr, $grid:expr, $($arg:expr),+ $(,)?) => {
        $gpu.launch($crate::cuda::kernel!($file, $name), $grid, &[$($crate::cuda::Arg::from($arg)),+])
    };
}
use launch;

/// A size as kernels take it.
fn unsigned(op: &'static str, value: usize) -> Result<u32> {
    match u32::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => bail!("{op}: {value} elements exceed a kernel's index range"),
    }
}

/// The rows of `c` elements of an array; refuses what is not whole rows.
fn rows<T>(op: &'static str, array: Array<'_, T>, c: usize) -> Result<usize> {
    match array.len.checked_rem(c) {
        Some(0) => Ok(array.len / c),
        None if array.len == 0 => Ok(0),
        _ => bail!("{op}: expected rows of {c} elements, got {} elements", array.len),
    }
}

/// Refuses an array of another length.
fn expect_len<T>(op: &'static str, what: &str, array: Array<'_, T>, len: usize) -> Result<()> {
    match array.len == len {
        true => Ok(()),
        false => bail!("{op}: expected {len} elements of {what}, got {}", array.len),
    }
}

/// Uninitialised memory for a result that kernels overwrite completely.
///
/// # Errors
/// If the device is out of memory.
pub(crate) fn uninitialised(shape: impl Into<Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    // SAFETY: only kernels of this module read it, after one has written all of it.
    unsafe { Tensor::empty(shape, dtype, like.device()) }
}

/// Runs `f` on the elements of `inputs` (of contiguous copies where they are strided), and of `changed`, which it may write to.
///
/// All are of one type and on one CUDA device. Launches are ordered, and Rust code never reads the device's memory, so shared access
/// is enough to write to it.
///
/// # Errors
/// When a changed tensor is not contiguous, or one is of another type or not on a CUDA device.
pub(crate) fn with_arrays<T: CudaDType, R, const N: usize, const M: usize>(
    op: &'static str,
    inputs: [&Tensor; N],
    changed: [&Tensor; M],
    f: impl FnOnce(&Gpu<'_>, [Array<'_, T>; N], [Array<'_, T>; M]) -> Result<R>,
) -> Result<R> {
    with_list(op, &inputs, &changed, |gpu, arrays| {
        let (inputs, changed) = arrays.split_at(N);
        match (inputs.try_into(), changed.try_into()) {
            (Ok(inputs), Ok(changed)) => f(gpu, inputs, changed),
            _ => bail!("{op}: expected {} tensors, got {}", N + M, arrays.len()),
        }
    })
}

/// [`with_arrays`] of tensors in the parts that they belong to.
pub(crate) fn with_parts<T: CudaDType + 'static, P: Parts<OnGpu<T>>, Q: Parts<OnGpu<T>>, R>(
    op: &'static str,
    inputs: P,
    changed: Q,
    f: impl FnOnce(&Gpu<'_>, P::Elements<'_>, Q::Elements<'_>) -> Result<R>,
) -> Result<R> {
    let (mut read, mut written) = (Vec::new(), Vec::new());
    inputs.tensors(&mut read);
    changed.tensors(&mut written);
    with_list(op, &read, &written, |gpu, arrays| {
        let mut arrays = arrays.iter().copied();
        let inputs = inputs.elements(&mut arrays)?;
        f(gpu, inputs, changed.elements(&mut arrays)?)
    })
}

/// [`with_arrays`] of any number of tensors, those that change last.
fn with_list<T: CudaDType, R>(
    op: &'static str,
    inputs: &[&Tensor],
    changed: &[&Tensor],
    f: impl FnOnce(&Gpu<'_>, &[Array<'_, T>]) -> Result<R>,
) -> Result<R> {
    let contiguous = inputs.iter().map(|input| input.contiguous()).collect::<Result<Vec<_>>>()?;
    let tensors: Vec<&Tensor> = contiguous.iter().chain(changed.iter().copied()).collect();
    let guards: Vec<_> = tensors.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let Some((Storage::Cuda(first), _)) = guards.first().map(|(storage, layout)| (&**storage, layout)) else {
        bail!("{op}: expected CUDA tensors")
    };
    let mut arrays = Vec::with_capacity(guards.len());
    for ((storage, layout), tensor) in guards.iter().zip(&tensors) {
        let Storage::Cuda(storage) = &**storage else { bail!("{op}: expected a CUDA tensor") };
        arrays.push(Array { tensor: Some(*tensor), ..Array::new(op, storage, layout)? });
    }
    f(&Gpu(&first.device), &arrays)
}

/// The forward pass of a candle operation: `f` computes a new result of this shape from the arrays of the inputs, all of one type.
///
/// # Errors
/// When an input is strided or of another type, the device has no room, or `f` fails.
pub(crate) fn operation<T: Element, const N: usize>(
    op: &'static str,
    inputs: [(&CudaStorage, &Layout); N],
    shape: Shape,
    f: impl FnOnce(&Gpu<'_>, [Array<'_, T>; N], Array<'_, T>) -> Result<()>,
) -> Result<(CudaStorage, Shape)> {
    let Some((CudaStorage { device, .. }, _)) = inputs.first() else { bail!("{op}: expected an input") };
    let mut arrays = [Array { address: 0, len: 0, tensor: None, storage: PhantomData }; N];
    for (array, (storage, layout)) in arrays.iter_mut().zip(inputs) {
        *array = Array::new(op, storage, layout)?;
    }
    // SAFETY: nothing reads it before `f` has written all of it.
    let result = unsafe { device.alloc::<T>(shape.elem_count()) }?;
    let result = T::wrap_cuda_slice(result, (*device).clone());
    f(&Gpu(device), arrays, Array::new(op, &result, &Layout::contiguous(&shape))?)?;
    Ok((result, shape))
}
