//! The flag `--precision` of commands that score texts.

use anyhow::Result;
use candle_core::Device;
use clap::Args;
use mixce_train::config::{Precision, TrainConfig};
use serde::Serialize;

use crate::commands::train::words;

/// The precision of forward passes.
#[derive(Clone, Copy, Debug, Args, Serialize)]
pub(crate) struct PrecisionArgs {
    /// Number format of the operands of matrix products and, on a GPU, of activations; bf16 needs a CPU with AVX512-BF16 or a GPU of
    /// compute capability 8.0
    #[arg(long, default_value = "f32", value_parser = words::<Precision>(&["f32", "bf16"]))]
    pub(crate) precision: Precision,
}

impl PrecisionArgs {
    /// For passes on a device, which is refused as `train` refuses it.
    pub(crate) fn on(self, device: &Device) -> Result<mixce_kernels::Precision> {
        TrainConfig { precision: self.precision, ..TrainConfig::default() }.check_device(device)?;
        Ok(self.precision.into())
    }
}
