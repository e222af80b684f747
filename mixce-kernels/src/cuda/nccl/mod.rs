//! Sums of tensors over GPUs, by NVIDIA's NCCL.
//!
//! Nothing here waits for another process: a caller asks whether an operation is done, and gives up when it likes.

mod library;

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr::null_mut;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use candle_core::backend::BackendDevice as _;
use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::{CudaEvent, CudaStream};
use candle_core::{CudaDevice, DType, Device, Result, Tensor, bail};
use half::bf16;

use super::{Element, with_list};
use crate::DeviceEvent;
use library::{BFLOAT16, Config, FLOAT32, Functions, Handle, IN_PROGRESS, SUCCESS, SUM, UniqueId, in_words};

/// How long an abort may take: the process ends after it in any case.
const ABORT: Duration = Duration::from_secs(5);

/// The version of the machine's NCCL library, as `2.27.3`.
///
/// # Errors
/// When it has none that can be loaded, or one before 2.14.
pub fn nccl_version() -> Result<String> {
    Ok(in_words(library::library()?.version()))
}

/// Connects a GPU of this process with those of others, one each.
pub struct NcclCommunicator {
    functions: &'static Functions,
    device: CudaDevice,
    /// Sums are made beside the work of the device's own stream.
    stream: Arc<CudaStream>,
    handle: Mutex<Owned>,
}

/// A communicator; null once it was aborted.
struct Owned(Handle);

// SAFETY: NCCL lets any thread use a communicator, as long as no two do so at once.
unsafe impl Send for Owned {}

impl fmt::Debug for NcclCommunicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NcclCommunicator")
    }
}

impl NcclCommunicator {
    /// What one process makes and all are given.
    ///
    /// # Errors
    /// When NCCL cannot be loaded, or finds no network interface.
    pub fn unique_id() -> Result<Vec<u8>> {
        let functions = library::library()?;
        let mut id = UniqueId([0; 128]);
        // SAFETY: it writes one id.
        let result = unsafe { (functions.get_unique_id)(&raw mut id) };
        functions.check("making a unique id", result, null_mut())?;
        Ok(id.0.to_vec())
    }

    /// Begins to connect process `rank` of `ranks`; it is connected when [`Self::is_ready`].
    ///
    /// # Errors
    /// When `device` is not a GPU, `id` is no [`Self::unique_id`], or NCCL fails.
    pub fn begin(device: &Device, rank: usize, ranks: usize, id: &[u8]) -> Result<Self> {
        let functions = library::library()?;
        let device = device.as_cuda_device()?.clone();
        let (Ok(id), Ok(rank), Ok(ranks)) = (id.try_into(), c_int::try_from(rank), c_int::try_from(ranks))
        else {
            bail!("NCCL: expected a unique id of 128 bytes, got {} for rank {rank} of {ranks}", id.len())
        };
        // Making it binds the device to this thread.
        let stream = device.cuda_stream().context().new_stream().w()?;
        let (mut handle, mut config) = (null_mut(), Config::without_blocking());
        // SAFETY: the device is this thread's; the id is copied, and so is the configuration before the call returns.
        let result = unsafe { (functions.init)(&raw mut handle, ranks, UniqueId(id), rank, &raw mut config) };
        functions.check("connecting", result, handle)?;
        Ok(Self { functions, device, stream, handle: Mutex::new(Owned(handle)) })
    }

    fn lock(&self) -> Result<MutexGuard<'_, Owned>> {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if handle.0.is_null() {
            bail!("NCCL: the communicator was aborted")
        }
        Ok(handle)
    }

    /// Whether what was begun has reached the device; an error on the way, of other processes too, if NCCL hears of it, fails.
    ///
    /// # Errors
    /// When NCCL has failed.
    pub fn is_ready(&self) -> Result<bool> {
        let (handle, mut state) = (self.lock()?, SUCCESS);
        // SAFETY: the communicator exists.
        let result = unsafe { (self.functions.async_error)(handle.0, &raw mut state) };
        self.functions.check("asking for errors", result, handle.0)?;
        self.functions.check("the communication between GPUs has failed", state, handle.0)?;
        Ok(state != IN_PROGRESS)
    }

    /// Begins to add tensors up over all processes in place, as soon as the device has come to `event`; its own stream goes on meanwhile. They must
    /// be contiguous, on this device, all f32 or all bf16, and share no memory; every process gives as many of the same sizes, in the same order. Other
    /// work may use them when the sum is done.
    ///
    /// # Errors
    /// When a tensor is another, or NCCL fails.
    pub fn all_reduce(&self, tensors: &[&Tensor], event: &DeviceEvent) -> Result<NcclReduction<'_>> {
        if let Some(event) = &event.0 {
            self.stream.wait(&event.0).w()?;
        }
        let launched = match tensors.first().map(|tensor| tensor.dtype()) {
            Some(DType::BF16) => self.launch::<bf16>(tensors, BFLOAT16),
            Some(_) => self.launch::<f32>(tensors, FLOAT32),
            None => Ok(()),
        };
        // Some may have been launched.
        launched.inspect_err(|_| self.abort())?;
        let tensors = tensors.iter().map(|tensor| (*tensor).clone()).collect();
        Ok(NcclReduction { communicator: self, after: None, is_done: false, _tensors: tensors })
    }

    fn launch<T: Element>(&self, tensors: &[&Tensor], dtype: c_int) -> Result<()> {
        with_list::<T, _>("all-reduce", &[], tensors, |gpu, arrays| {
            if !gpu.0.same_device(&self.device) {
                bail!("all-reduce: expected tensors on the communicator's device")
            }
            self.stream.context().bind_to_thread().w()?;
            let handle = self.lock()?;
            // SAFETY: a group begins, which is ended below in any case.
            let begun = unsafe { (self.functions.group_start)() };
            self.functions.check("beginning a group", begun, handle.0)?;
            let reduce = |array: &super::Array<'_, T>| {
                let address = array.address as *mut c_void;
                // SAFETY: the array is on the device, and stays there: see `NcclReduction`.
                let result = unsafe {
                    let stream = self.stream.cu_stream().cast();
                    (self.functions.all_reduce)(address, address, array.len, dtype, SUM, handle.0, stream)
                };
                self.functions.check("an all-reduce", result, handle.0)
            };
            let reduced = arrays.iter().try_for_each(reduce);
            // SAFETY: the group was begun.
            let ended = unsafe { (self.functions.group_end)() };
            reduced?;
            self.functions.check("starting an all-reduce", ended, handle.0)
        })
    }

    /// Ends what was begun, whatever the other processes do; nothing more can be begun.
    pub fn abort(&self) {
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if handle.0.is_null() {
            return;
        }
        let (owned, functions) = (Owned(std::mem::replace(&mut handle.0, null_mut())), self.functions);
        let (done, is_done) = channel();
        let abort = move || {
            let owned = owned;
            // SAFETY: the communicator exists and has no other user. That its end fails changes nothing.
            unsafe { (functions.abort)(owned.0) };
            let _ = done.send(());
        };
        if thread::Builder::new().name("nccl".to_owned()).spawn(abort).is_ok() {
            let _ = is_done.recv_timeout(ABORT);
        }
    }
}

impl Drop for NcclCommunicator {
    /// Aborts: nothing is under way that anybody waits for, and any other end would wait for the other processes.
    fn drop(&mut self) {
        self.abort();
    }
}

/// A sum under way. Dropped before it is done, it aborts the communicator.
#[derive(Debug)]
pub struct NcclReduction<'a> {
    communicator: &'a NcclCommunicator,
    after: Option<CudaEvent>,
    is_done: bool,
    /// Keeps the memory.
    _tensors: Vec<Tensor>,
}

impl NcclReduction<'_> {
    /// Whether the sums are there, for what the device's own stream is given next.
    ///
    /// # Errors
    /// When the device or NCCL has failed.
    pub fn is_done(&mut self) -> Result<bool> {
        if self.is_done {
            return Ok(true);
        }
        // Until then nothing may come after it on the stream.
        if !self.communicator.is_ready()? {
            return Ok(false);
        }
        let after = match self.after.take() {
            Some(after) => after,
            None => self.communicator.stream.record_event(None).w()?,
        };
        self.is_done = after.try_is_complete().w()?;
        if self.is_done {
            self.communicator.device.cuda_stream().wait(&after).w()?;
        }
        self.after = Some(after);
        Ok(self.is_done)
    }
}

impl Drop for NcclReduction<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.communicator.abort();
        }
    }
}
