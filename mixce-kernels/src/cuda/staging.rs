//! Copies of the host's numbers to the device, for which nothing waits.
//!
//! The driver may hold the host back in a copy from pageable memory until the device has come to it. So numbers are put into page-locked memory
//! first, from which the device fetches them in its own time, and which therefore must not be overwritten before. There are two buffers: when
//! one is full, an event is recorded behind the last copy from it, and the other one, whose copies are long done by then, is filled from its
//! beginning. Only if they are not does the host wait, for the event of that buffer.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::result::memcpy_htod_async;
use candle_core::cuda::cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice};
use candle_core::{Result, Tensor};

use super::{Gpu, expect_len, with_arrays};

/// Bytes of a buffer, unless one array is larger: the batches of several steps.
const BUFFER_BYTES: usize = 8 << 20;
/// Arrays begin at multiples of this, in bytes.
const ALIGNMENT: usize = 64;

/// The buffers of the devices that were copied to, by number.
static STAGING: Mutex<Vec<(usize, Staging)>> = Mutex::new(Vec::new());

/// Two buffers in turn.
#[derive(Default)]
struct Staging {
    buffers: [Buffer; 2],
    current: usize,
    /// Bytes of the current buffer that copies read.
    used_bytes: usize,
}

/// Page-locked memory.
#[derive(Default)]
struct Buffer {
    memory: Option<PinnedHostSlice<u8>>,
    /// Its address, for which `memory` would synchronise an event of its own at every call.
    address: usize,
    /// Behind the last copy from it, once it is full.
    copied: Option<CudaEvent>,
}

impl Staging {
    /// Room for so many bytes, which no copy reads any more.
    fn room(&mut self, stream: &Arc<CudaStream>, bytes: usize) -> Result<*mut u8> {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        if self.used_bytes + bytes > self.buffers[self.current].bytes() {
            self.buffers[self.current].copied = Some(stream.record_event(None).w()?);
            self.current = 1 - self.current;
            self.used_bytes = 0;
            self.buffers[self.current].empty(stream, bytes)?;
        }
        let room = self.buffers[self.current].address + self.used_bytes;
        self.used_bytes += bytes;
        Ok(room as *mut u8)
    }
}

impl Buffer {
    fn bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, PinnedHostSlice::len)
    }

    /// Waits for the copies from it, and sees to it that it has so many bytes.
    fn empty(&mut self, stream: &CudaStream, bytes: usize) -> Result<()> {
        if let Some(copied) = self.copied.take()
            && !copied.try_is_complete().w()?
        {
            copied.synchronize().w()?;
        }
        if self.bytes() < bytes {
            // What is too small goes first.
            drop(self.memory.take());
            // SAFETY: it is written before it is read: `Gpu::upload` copies from what it has filled.
            let mut memory = unsafe { stream.context().alloc_pinned(bytes.max(BUFFER_BYTES)) }.w()?;
            self.address = memory.as_mut_ptr().w()? as usize;
            self.memory = Some(memory);
        }
        Ok(())
    }
}

impl Gpu<'_> {
    /// Replaces the elements of a tensor. The host may change `values` at once.
    ///
    /// # Errors
    /// When the tensor has another length, or the driver fails.
    pub(crate) fn upload(&self, values: &[u32], tensor: &Tensor) -> Result<()> {
        with_arrays::<u32, _, 0, 1>("upload", [], [tensor], |gpu, [], [to]| {
            expect_len("upload", "the tensor", to, values.len())?;
            let (stream, bytes) = (gpu.0.cuda_stream(), size_of_val(values));
            if bytes == 0 {
                return Ok(());
            }
            stream.context().bind_to_thread().w()?;
            let mut all = STAGING.lock().unwrap_or_else(PoisonError::into_inner);
            let ordinal = stream.context().ordinal();
            let at = all.iter().position(|(number, _)| *number == ordinal).unwrap_or_else(|| {
                all.push((ordinal, Staging::default()));
                all.len() - 1
            });
            let room = all[at].1.room(&stream, bytes)?;
            // SAFETY: the room has as many bytes, which nobody else reads or writes while the buffers are locked, and afterwards only the copy does,
            // until its event has happened. The tensor has as many elements.
            unsafe {
                room.copy_from_nonoverlapping(values.as_ptr().cast(), bytes);
                let staged = std::slice::from_raw_parts(room.cast_const(), bytes);
                memcpy_htod_async(to.address, staged, stream.cu_stream()).w()
            }
        })
    }
}
