//! Every operation on CUDA against the same operation on the CPU, forward and backward, at awkward sizes.
//!
//! With the feature `cuda`, on a GPU or on an emulated driver.

#![cfg(feature = "cuda")]

mod epilogues;
mod graph;
mod heads;
#[cfg(feature = "nccl")]
mod nccl;
mod neighbours;
mod optimizer;
mod rotary;
mod sublayers;
mod upload;

use candle_core::{DType, Device, Result, Tensor, Var};
use mixce_kernels::rng::Stream;

/// The one device of the tests.
fn cuda() -> Result<Device> {
    mixce_kernels::cuda_device(0)
}

/// Whether the emulated driver, on which large inputs take minutes, runs a sample of the tests: `scripts/check-cuda-emulated.sh` without `--full`.
fn is_sample() -> bool {
    std::env::var_os("EMULATED_CUDA_SAMPLE").is_some()
}

/// Standard normal numbers, the same for the same seed.
fn random(shape: &[usize], seed: u64) -> Result<Tensor> {
    let (stream, n) = (Stream::new(seed), shape.iter().product::<usize>());
    let values: Vec<f32> = (0..n as u64).map(|i| stream.normal(i) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// [`random`] rounded to bf16, as f32.
fn rounded(shape: &[usize], seed: u64) -> Result<Tensor> {
    random(shape, seed)?.to_dtype(DType::BF16)?.to_dtype(DType::F32)
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
}

/// The layout of a tensor in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    /// From the beginning of an allocation.
    Plain,
    /// From the second element of one, so that no vector of elements is aligned.
    Unaligned,
    /// As the transpose of what lies there, where it is a matrix.
    Strided,
}

/// The same tensor, placed; gradients flow back through it.
fn place(tensor: &Tensor, placed: Placed) -> Result<Tensor> {
    match placed {
        // An empty tensor lies nowhere.
        _ if tensor.elem_count() == 0 => Ok(tensor.clone()),
        Placed::Plain => Ok(tensor.clone()),
        Placed::Unaligned => {
            let flat = tensor.flatten_all()?;
            let shifted = Tensor::cat(&[Tensor::zeros(1, tensor.dtype(), tensor.device())?, flat], 0)?;
            shifted.narrow(0, 1, tensor.elem_count())?.reshape(tensor.shape())
        }
        Placed::Strided if tensor.rank() == 2 => tensor.t()?.contiguous()?.t(),
        Placed::Strided => Ok(tensor.clone()),
    }
}

/// A tensor for operations that own no graph, on a device: on CUDA an unaligned one.
fn on(device: &Device, tensor: &Tensor) -> Result<Tensor> {
    let placed = if device.is_cuda() { Placed::Unaligned } else { Placed::Plain };
    place(&tensor.to_device(device)?, placed)
}

/// `|got - want| <= tolerance * max(1, largest |want|)` everywhere. Sums of n terms in two orders differ by rounding only, which
/// is relative to the largest terms and not to what cancellation leaves.
fn assert_close(name: &str, got: &Tensor, want: &Tensor, tolerance: f32) -> Result<()> {
    assert_eq!(got.dims(), want.dims(), "{name}: shapes differ");
    let (got, want) = (values(got)?, values(want)?);
    let scale = want.iter().fold(1f32, |max, x| max.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = (got - want).abs();
        assert!(error <= tolerance * scale, "{name}[{i}]: got {got}, want {want}, scale {scale}");
    }
    Ok(())
}

/// The result of an operation and the gradients of its inputs, given some gradient of the result, on one device.
fn forward_and_backward(
    inputs: &[Tensor],
    (device, placed): (&Device, Placed),
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let vars =
        inputs.iter().map(|input| Var::from_tensor(&input.to_device(device)?)).collect::<Result<Vec<_>>>()?;
    let tensors = vars.iter().map(|var| place(var, placed)).collect::<Result<Vec<_>>>()?;
    let y = f(&tensors)?;
    let mut all = vec![y.clone()];
    if y.elem_count() > 0 {
        let projection = random(y.dims(), 99)?.to_device(device)?;
        let gradients = y.mul(&projection)?.sum_all()?.backward()?;
        let gradient = |var: &Var| gradients.get(var).cloned().map_or_else(|| Tensor::zeros_like(var), Ok);
        all.extend(vars.iter().map(gradient).collect::<Result<Vec<_>>>()?);
    }
    Ok(all)
}

/// An operation of candle's graph gives the same on both devices, forward and backward, and on CUDA the same bits however its inputs
/// are in memory, and twice.
fn assert_same_on_cuda(
    name: &str,
    inputs: &[Tensor],
    tolerance: f32,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let cpu = forward_and_backward(inputs, (&Device::Cpu, Placed::Plain), &f)?;
    let on_cuda = |placed| forward_and_backward(inputs, (&cuda()?, placed), &f);
    let gpu = on_cuda(Placed::Plain)?;
    assert_eq!(gpu.len(), cpu.len(), "{name}");
    let name = |i| if i == 0 { name.to_owned() } else { format!("{name}, gradient {i}") };
    for (i, (got, want)) in gpu.iter().zip(&cpu).enumerate() {
        assert!(got.device().is_cuda(), "{}", name(i));
        assert_close(&name(i), got, want, tolerance)?;
    }
    for placed in [Placed::Unaligned, Placed::Strided] {
        for (i, (again, got)) in on_cuda(placed)?.iter().zip(&gpu).enumerate() {
            assert_eq!(values(again)?, values(got)?, "{}: {placed:?} gives other bits", name(i));
        }
    }
    Ok(())
}
