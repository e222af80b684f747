//! NCCL in one process, where a sum is its only term. Tests with several are those of the program.

use candle_core::{DType, Device, Result, Tensor};
use mixce_kernels::{DeviceEvent, NcclCommunicator, cuda_device, nccl_version};

/// A communicator of one process; `None` on a machine without NCCL.
#[expect(clippy::print_stderr, reason = "says what was not tried")]
fn alone(device: &Device) -> Result<Option<NcclCommunicator>> {
    let Ok(version) = nccl_version() else {
        eprintln!("skipped: this machine has no NCCL");
        return Ok(None);
    };
    assert!(version.starts_with("2."), "{version}");
    let communicator = NcclCommunicator::begin(device, 0, 1, &NcclCommunicator::unique_id()?)?;
    while !communicator.is_ready()? {
        std::thread::yield_now();
    }
    Ok(Some(communicator))
}

#[test]
fn sums_of_both_types_are_made_in_place() -> Result<()> {
    let device = cuda_device(0)?;
    let Some(communicator) = alone(&device)? else { return Ok(()) };
    for dtype in [DType::F32, DType::BF16] {
        let tensors = [Tensor::full(1.5f32, (3, 5), &device)?, Tensor::full(-2f32, 1, &device)?]
            .map(|t| t.to_dtype(dtype));
        let [first, second] = tensors;
        let (first, second) = (first?, second?);
        let event = DeviceEvent::record(&device)?;
        // Another thread makes the sum, beside this later work of the device.
        let other = Tensor::full(3f32, 15, &device)?.sqr()?;
        std::thread::scope(|scope| {
            let sum = || -> Result<()> {
                let mut sum = communicator.all_reduce(&[&first, &second], &event)?;
                while !sum.is_done()? {
                    std::thread::yield_now();
                }
                assert!(event.is_complete()?);
                Ok(())
            };
            scope.spawn(sum).join().expect("a sum")
        })?;
        assert_eq!(other.to_vec1::<f32>()?, [9.0; 15]);
        assert_eq!(first.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?, [1.5; 15]);
        assert_eq!(second.to_dtype(DType::F32)?.to_vec1::<f32>()?, [-2.0]);
    }
    Ok(())
}

#[test]
fn other_tensors_are_refused_and_nothing_comes_after_an_abort() -> Result<()> {
    let device = cuda_device(0)?;
    let refused = |tensor: &Tensor, words: &str| -> Result<()> {
        let Some(communicator) = alone(&device)? else { return Ok(()) };
        let event = DeviceEvent::record(&device)?;
        let error = communicator.all_reduce(&[tensor], &event).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(communicator.is_ready().unwrap_err().to_string().contains("aborted"));
        Ok(())
    };
    refused(&Tensor::zeros((3, 5), DType::F32, &device)?.t()?, "contiguous")?;
    refused(&Tensor::zeros(3, DType::F32, &Device::Cpu)?, "CUDA")?;
    refused(&Tensor::zeros(3, DType::F64, &device)?, "dtype")?;
    assert!(NcclCommunicator::begin(&Device::Cpu, 0, 1, &[0; 128]).is_err());
    if nccl_version().is_ok() {
        assert!(NcclCommunicator::begin(&device, 0, 1, &[0; 5]).unwrap_err().to_string().contains("got 5"));
    }
    Ok(())
}
