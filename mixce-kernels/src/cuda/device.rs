//! The description of a GPU, and this process's peak memory on it.

use candle_core::Result;
use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::result::{device as driver_device, mem_pool};
use candle_core::cuda::cudarc::driver::sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
use candle_core::cuda::cudarc::driver::sys::cuDriverGetVersion;

use super::Gpu;
use crate::device;

impl Gpu<'_> {
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
        })
    }

    /// The most bytes of the default memory pool that were in use at any time; `None` on a device without pools.
    pub(crate) fn peak_bytes(&self) -> Result<Option<u64>> {
        let stream = self.0.cuda_stream();
        let context = stream.context();
        if !context.has_async_alloc() {
            return Ok(None);
        }
        context.bind_to_thread().w()?;
        let mut bytes = 0u64;
        // SAFETY: the device is the one of a context that is open, so its pool exists; this attribute is a number of 64 bits.
        unsafe {
            let pool =
                driver_device::get_default_mem_pool(driver_device::get(context.ordinal() as i32).w()?).w()?;
            mem_pool::get_attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, (&raw mut bytes).cast()).w()?;
        }
        Ok(Some(bytes))
    }
}
