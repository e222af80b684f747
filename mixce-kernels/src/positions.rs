//! Positions of tokens in their documents.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use crate::device_copy::DeviceCopy;
use crate::upload::upload;

/// The position of each row of a batch in its document, from 0. Cloning is cheap: clones share the numbers, on the host and, once a
/// kernel has asked for them, on the device.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    host: Arc<[u32]>,
    on_device: Arc<DeviceCopy>,
}

impl Positions {
    /// The positions of rows, in their order.
    #[must_use]
    pub fn new(positions: impl Into<Arc<[u32]>>) -> Self {
        Self { host: positions.into(), on_device: Arc::default() }
    }

    /// Positions of which there is a copy on the device, `[N]` u32.
    pub(crate) fn with_copy(positions: impl Into<Arc<[u32]>>, copy: Tensor) -> Self {
        Self { host: positions.into(), on_device: Arc::new(DeviceCopy::of(copy)) }
    }

    /// On the host.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.host
    }

    /// Takes a copy on the device, `[N]` u32, unless there is one.
    pub(crate) fn take_copy(&self, copy: Tensor) -> Result<()> {
        let device = copy.device().clone();
        self.on_device.get(&device, || Ok(copy)).map(drop)
    }

    /// `[N]` u32: copied to the device once.
    pub(crate) fn on(&self, device: &Device) -> Result<Tensor> {
        self.on_device.get(device, || upload(&self.host, self.host.len(), device))
    }
}
