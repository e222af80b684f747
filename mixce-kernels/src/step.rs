//! A step of decoding on a GPU: its inputs in one place, and the whole of it recorded.

#![expect(unsafe_code, reason = "recorded kernels read and write memory that must be kept")]

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Result, Tensor, bail};

use crate::cuda::{Gpu, Recording};
use crate::upload::upload;
use crate::{Embedded, Positions};

static RECORDING_IS_ALLOWED: AtomicBool = AtomicBool::new(false);

/// Lets this process record steps of decoding. A program calls it that uses GPUs from one thread at a time: all threads share a device's one
/// stream, so that what another thread launches while a step is recorded would become part of it.
pub fn allow_recording() {
    RECORDING_IS_ALLOWED.store(true, Ordering::Relaxed);
}

/// Whether [`allow_recording`] was called.
#[must_use]
pub fn recording_is_allowed() -> bool {
    RECORDING_IS_ALLOWED.load(Ordering::Relaxed)
}

/// The new token of each sequence of a batch: what a step of decoding reads beside weights and caches. On a GPU it is in one tensor, so that
/// a step copies to the device once.
#[derive(Debug)]
pub struct StepInputs {
    /// The tokens.
    pub tokens: Embedded,
    /// The position of each token.
    pub positions: Positions,
    /// The tokens of each sequence with the new one: one more than its position.
    pub lengths: Positions,
    /// All three `[3, B]` u32.
    on_gpu: Option<Tensor>,
}

impl StepInputs {
    /// Token ids and their positions, one of each per sequence.
    ///
    /// # Errors
    /// If their numbers differ, or the device fails.
    pub fn new(ids: &[u32], positions: &[u32], device: &Device) -> Result<Self> {
        let lengths: Vec<u32> = positions.iter().map(|position| position + 1).collect();
        if Gpu::of(device).is_none() {
            let (positions, lengths) = (Positions::new(positions), Positions::new(lengths));
            return Ok(Self {
                tokens: Embedded::at(ids, &positions, device)?,
                positions,
                lengths,
                on_gpu: None,
            });
        }
        let all = upload(&[ids, positions, &lengths].concat(), (3, ids.len()), device)?;
        let positions = Positions::with_copy(positions, all.get(1)?);
        Ok(Self {
            tokens: Embedded::with_copy(ids, &positions, all.get(0)?)?,
            positions,
            lengths: Positions::with_copy(lengths, all.get(2)?),
            on_gpu: Some(all),
        })
    }

    /// The inputs of the next step in the place of these, on the GPU alone.
    fn replace(&self, ids: &[u32], positions: &[u32]) -> Result<()> {
        let Some(all) = &self.on_gpu else { bail!("step: expected inputs on a GPU") };
        let (_, b) = all.dims2()?;
        if [ids.len(), positions.len()] != [b, b] {
            bail!("step: expected {b} tokens and positions, got {} and {}", ids.len(), positions.len());
        }
        let lengths: Vec<u32> = positions.iter().map(|position| position + 1).collect();
        match Gpu::of(all.device()) {
            Some(gpu) => gpu.upload(&[ids, positions, &lengths].concat(), all),
            None => bail!("step: expected inputs on a GPU"),
        }
    }
}

/// A step of decoding that a GPU has recorded: a CUDA graph, which is launched at once instead of kernel by kernel.
pub struct RecordedStep<F> {
    recording: Recording,
    inputs: StepInputs,
    tokens: Tensor,
    /// It keeps what the recorded kernels read and write beside inputs and tokens.
    _work: F,
}

impl<F> fmt::Debug for RecordedStep<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedStep").field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

impl<F: Fn(&StepInputs, &Tensor) -> Result<()>> RecordedStep<F> {
    /// Records what `work` launches for these inputs, without doing it; its result `[B]` u32 goes to `tokens`.
    ///
    /// `work` must copy nothing from or to the host, wait for nothing and have been done before. What it reads and writes it must own or
    /// borrow. No other thread may use the device meanwhile ([`allow_recording`]).
    ///
    /// # Errors
    /// When the inputs are not on a GPU, `work` fails, or the driver cannot record it.
    pub fn new(inputs: StepInputs, tokens: Tensor, work: F) -> Result<Self> {
        let Some(gpu) = Gpu::of(tokens.device()).filter(|_| inputs.on_gpu.is_some()) else {
            bail!("step: expected inputs and tokens on a GPU")
        };
        let recording = gpu.record(|| work(&inputs, &tokens))?;
        Ok(Self { recording, inputs, tokens, _work: work })
    }

    /// Does the step for other tokens of the same sequences, and returns what `work` leaves in `tokens`.
    ///
    /// # Errors
    /// When there are more or fewer tokens, or the driver fails.
    pub fn run(&mut self, ids: &[u32], positions: &[u32]) -> Result<&Tensor> {
        self.inputs.replace(ids, positions)?;
        // SAFETY: inputs and tokens are here, and the work holds all else.
        unsafe { self.recording.run() }?;
        Ok(&self.tokens)
    }
}
