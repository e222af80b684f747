//! Turns examples into the model's inputs and targets.
use candle_core::Tensor;
use mixce_kernels::upload;
use mixce_lm::{LanguageModel, PackedBatch};

use crate::error::{Error, Result};

/// Inputs and targets of some examples, concatenated without padding.
///
/// An example of `n` tokens gives the inputs `0..n - 1` and the targets `1..n`: nothing is computed for positions without a
/// target.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Inputs: N tokens.
    pub(crate) inputs: PackedBatch,
    /// `[N]` u32.
    pub(crate) targets: Tensor,
}

impl Packed {
    /// Packs examples of at least two tokens each (shorter ones contribute nothing).
    pub(crate) fn new(model: &dyn LanguageModel, examples: &[impl AsRef<[u32]>]) -> Result<Self> {
        let usable = || examples.iter().map(AsRef::as_ref).filter(|e| e.len() >= 2);
        let inputs: Vec<&[u32]> = usable().map(|e| &e[..e.len() - 1]).collect();
        let targets: Vec<u32> = usable().flat_map(|e| &e[1..]).copied().collect();
        let n = targets.len();
        let targets = upload(&targets, n, model.device()).map_err(Error::tensor("targets of a batch"))?;
        Ok(Self { inputs: model.pack(&inputs)?, targets })
    }
}
