//! Opening a GPU, points in its work, its description, and this process's peak memory on it.

use std::sync::{Mutex, PoisonError};

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::result::{device as driver_device, mem_pool};
use candle_core::cuda::cudarc::driver::sys::CUmemPool_attribute::{
    CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, CU_MEMPOOL_ATTR_USED_MEM_HIGH,
};
use candle_core::cuda::cudarc::driver::sys::{CUmemoryPool, cuDriverGetVersion};
use candle_core::cuda::cudarc::driver::{CudaContext, CudaEvent};
use candle_core::{Device, Result};

use super::Gpu;
use crate::device;

/// The devices that were opened, by number.
static OPENED: Mutex<Vec<(usize, Device)>> = Mutex::new(Vec::new());

/// See [`device::cuda_device`].
#[expect(clippy::disallowed_methods, reason = "the one place that opens a GPU")]
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = opened.iter().find(|(number, _)| *number == ordinal) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: all work of the device goes to its one stream, which keeps it in order without events, or is ordered by events of its own (`nccl`).
    unsafe { cuda.disable_event_tracking() };
    Gpu(cuda).keep_freed_memory()?;
    opened.push((ordinal, device.clone()));
    Ok(device)
}

/// See [`device::cuda_devices`].
pub(crate) fn count() -> Result<usize> {
    Ok(CudaContext::device_count().w()?.max(0) as usize)
}

/// A point in the work of a GPU.
#[derive(Debug)]
pub(crate) struct Event(pub(super) CudaEvent);

impl Event {
    /// Whether the work before it is done.
    pub(crate) fn is_complete(&self) -> Result<bool> {
        self.0.context().bind_to_thread().w()?;
        self.0.try_is_complete().w()
    }
}

impl Gpu<'_> {
    /// The point that the device's stream has been given work to.
    pub(crate) fn event(&self) -> Result<Event> {
        Ok(Event(self.0.cuda_stream().record_event(None).w()?))
    }

    /// Name, memory and versions.
    pub(crate) fn describe(&self) -> Result<device::Gpu> {
        let stream = self.0.cuda_stream();
        let context = stream.context();
        let (major, minor) = context.compute_capability().w()?;
        let mut version = 0;
        // SAFETY: it writes one number.
        unsafe { cuDriverGetVersion(&raw mut version) }.result().w()?;
        Ok(device::Gpu {
            name: context.name().w()?,
            memory_bytes: context.total_mem().w()? as u64,
            compute_capability: format!("{major}.{minor}"),
            cuda_version: format!("{}.{}", version / 1000, version % 1000 / 10),
            epilogues: self.epilogues()?,
        })
    }

    /// Keeps freed memory in the pool: by default each synchronisation gives it back to the driver, and it must be mapped again.
    fn keep_freed_memory(&self) -> Result<()> {
        let Some(pool) = self.memory_pool()? else { return Ok(()) };
        let mut threshold = u64::MAX;
        // SAFETY: the pool exists, and this attribute is a number of 64 bits.
        unsafe {
            mem_pool::set_attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut threshold).cast())
        }
        .w()
    }

    /// The pool from which memory is allocated; `None` on a device without pools.
    fn memory_pool(&self) -> Result<Option<CUmemoryPool>> {
        let stream = self.0.cuda_stream();
        let context = stream.context();
        if !context.has_async_alloc() {
            return Ok(None);
        }
        context.bind_to_thread().w()?;
        // SAFETY: the device is the one of a context that is open.
        let pool = unsafe {
            driver_device::get_default_mem_pool(driver_device::get(context.ordinal() as i32).w()?).w()?
        };
        Ok(Some(pool))
    }

    /// The most bytes of the default memory pool that were in use at any time; `None` on a device without pools.
    pub(crate) fn peak_bytes(&self) -> Result<Option<u64>> {
        let Some(pool) = self.memory_pool()? else { return Ok(None) };
        let mut bytes = 0u64;
        // SAFETY: the pool exists, and this attribute is a number of 64 bits.
        unsafe { mem_pool::get_attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, (&raw mut bytes).cast()) }
            .w()?;
        Ok(Some(bytes))
    }
}
