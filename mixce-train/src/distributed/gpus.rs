//! Ranks with a GPU each: NCCL adds up tensors, another engine carries everything else.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use mixce_kernels::{DeviceEvent, NcclCommunicator, nccl_version};

use super::{Communicator, GPU_BUCKET, ReduceDtype, require_same};
use crate::error::{Error, Result};

/// The pause between two questions whether something is done.
const PAUSE: Duration = Duration::from_micros(50);
/// How often the other ranks are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);
/// A rank that has a GPU to itself.
///
/// Sums of tensors are made on a stream of their own and complete when a call returns, so that nothing else ever waits for another rank: what the
/// device does beside them and afterwards, it does alone. Their bits are NCCL's, the same on all ranks, but not those of another number of ranks or other links.
#[derive(Debug)]
pub struct NcclRank {
    host: Arc<dyn Communicator>,
    device: Device,
    gpus: NcclCommunicator,
    /// Connected, and nothing has failed since.
    is_well: AtomicBool,
}

impl NcclRank {
    /// Connects the CUDA devices of the ranks that `host` connects.
    ///
    /// # Errors
    /// [`Error::Config`] without NCCL on this machine; [`Error::RanksDiffer`] if another has another version; [`Error::Tensor`] if NCCL fails,
    /// as it does for one device of two ranks; those of `host`.
    pub fn start(host: Arc<dyn Communicator>, device: &Device) -> Result<Self> {
        let version = nccl_version().map_err(|error| Error::Config {
            message: format!("`config.device`: the GPUs of {} processes cannot be connected: {error}", host.size()),
            hint: Some(
                "install it (NVIDIA's package `libnccl2`, or `pip install nvidia-nccl-cu12`) and name its folder in `LD_LIBRARY_PATH` if the linker does not search it"
                    .into(),
            ),
        })?;
        require_same(&*host, "version of NCCL", version.into())?;
        let failed = || Error::tensor("connection of GPUs");
        let id = if host.rank() == 0 { NcclCommunicator::unique_id().map_err(failed())? } else { Vec::new() };
        let id = host.broadcast(id)?;
        let gpus = NcclCommunicator::begin(device, host.rank(), host.size(), &id).map_err(failed())?;
        let own = Self { host, device: device.clone(), gpus, is_well: AtomicBool::new(false) };
        own.wait(Some(own.timeout()), || own.gpus.is_ready())?;
        own.is_well.store(true, Ordering::Relaxed);
        Ok(own)
    }

    /// Asks until something is done, for as long as given.
    fn wait(
        &self,
        limit: Option<Duration>,
        mut is_done: impl FnMut() -> candle_core::Result<bool>,
    ) -> Result<()> {
        let (started, mut looked) = (Instant::now(), Instant::now());
        loop {
            match is_done() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    // The end of another process has the same effect, and is the better reason; it may be noticed a little later.
                    thread::sleep(LOOK);
                    self.host.check()?;
                    return Err(Error::tensor("sum over ranks")(error));
                }
            }
            if looked.elapsed() > LOOK {
                self.host.check()?;
                looked = Instant::now();
            }
            if limit.is_some_and(|limit| started.elapsed() > limit) {
                return Err(Error::RanksSilent { seconds: self.timeout().as_secs_f64() });
            }
            thread::sleep(PAUSE);
        }
    }

    fn sum_on_gpus(&self, tensors: &[&Tensor], event: &DeviceEvent) -> Result<()> {
        let mut sum = self.gpus.all_reduce(tensors, event).map_err(Error::tensor("sum over ranks"))?;
        // This device's own work takes as long as it takes.
        self.wait(None, || event.is_complete())?;
        self.wait(Some(self.timeout()), || sum.is_done())
    }
}

impl Communicator for NcclRank {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn size(&self) -> usize {
        self.host.size()
    }

    fn timeout(&self) -> Duration {
        self.host.timeout()
    }

    fn all_gather(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.host.all_gather(own)
    }

    fn all_reduce_f32(&self, values: &mut [f32], dtype: ReduceDtype) -> Result<()> {
        self.host.all_reduce_f32(values, dtype)
    }

    fn all_reduce_after(&self, event: &DeviceEvent, tensors: &[&Tensor]) -> Result<()> {
        if tensors.iter().all(|tensor| tensor.device().is_cpu()) {
            return self.host.all_reduce_after(event, tensors);
        }
        self.sum_on_gpus(tensors, event).inspect_err(|_| self.is_well.store(false, Ordering::Relaxed))
    }

    fn bucket(&self) -> usize {
        GPU_BUCKET
    }

    fn adds_up_on(&self, device: &Device) -> bool {
        device.is_cpu() || device.same_device(&self.device)
    }

    fn check(&self) -> Result<()> {
        self.host.check()
    }

    fn abort(&self, status: u8) {
        self.is_well.store(false, Ordering::Relaxed);
        self.host.abort(status);
        self.gpus.abort();
    }
}

impl Drop for NcclRank {
    /// Waits for the other ranks, to whom NCCL may still be sending: then the communicator can go.
    fn drop(&mut self) {
        if self.is_well.load(Ordering::Relaxed) {
            let _ = self.host.barrier();
        }
    }
}
