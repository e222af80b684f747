//! Copies of the host's numbers that kernels read.

use std::sync::OnceLock;

use candle_core::{Device, Result, Tensor};

/// A tensor of the host's numbers on the first device that asks for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceCopy(OnceLock<Tensor>);

impl DeviceCopy {
    /// A copy that is there.
    pub(crate) fn of(tensor: Tensor) -> Self {
        Self(OnceLock::from(tensor))
    }

    /// The copy on `device`, which `make` makes unless it is there.
    pub(crate) fn get(&self, device: &Device, make: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        if let Some(tensor) = self.0.get().filter(|tensor| tensor.device().same_device(device)) {
            return Ok(tensor.clone());
        }
        let tensor = make()?;
        // That of another device stays where it is.
        let _ = self.0.set(tensor.clone());
        Ok(tensor)
    }
}
