//! Work that is recorded once and runs again with one launch: a CUDA graph.

use std::fmt;

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::CudaGraph;
use candle_core::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::{Result, bail};

use super::Gpu;

/// Recorded work. What it reads and writes must live as long, where it lay when it was recorded.
pub(crate) struct Recording(CudaGraph);

// SAFETY: the driver lets any thread use a graph, as long as no two do so at once: launching one takes `&mut self`.
unsafe impl Send for Recording {}
// SAFETY: nothing can be done with a shared reference.
unsafe impl Sync for Recording {}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recording")
    }
}

impl Recording {
    /// Does the work once more.
    ///
    /// # Errors
    /// When the driver fails.
    ///
    /// # Safety
    /// All memory outside of the recording that the work reads and writes must still be there.
    pub(crate) unsafe fn run(&mut self) -> Result<()> {
        self.0.launch().w()
    }
}

impl Gpu<'_> {
    /// Records what `work` launches, without doing it.
    ///
    /// It must copy nothing from or to the host, wait for nothing, have been done before (so that its kernels are loaded), free all memory that
    /// it allocates and no other.
    ///
    /// # Errors
    /// When `work` fails, or the driver cannot record it.
    pub(crate) fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Recording> {
        let stream = self.0.cuda_stream();
        // Libraries may load what they need meanwhile.
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).w()?;
        let done = work();
        // In any case the stream must go back to doing what it is given.
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        done?;
        match graph.w()? {
            Some(graph) => Ok(Recording(graph)),
            None => bail!("recording: the driver has recorded nothing"),
        }
    }
}
