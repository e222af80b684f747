//! What a model is, in one number.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::model::Gpt2;

impl Gpt2 {
    /// SHA-256, in hex, of the configuration and all weights in f32.
    ///
    /// Two models with one fingerprint compute the same numbers; where they were loaded from, and in which file format, does not count.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let tensors: Vec<_> = self.parameters().iter().collect();
        let digest = |(name, tensor): &(&str, &candle_core::Tensor)| -> Result<Vec<u8>> {
            let values: Vec<f32> = tensor.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1()?;
            let mut hash = Sha256::new();
            hash.update(format!("{name}\0{:?}\0", tensor.dims()));
            let mut bytes = Vec::new();
            for block in values.chunks(1 << 14) {
                bytes.clear();
                bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
                hash.update(&bytes);
            }
            Ok(hash.finalize().to_vec())
        };
        let digests = tensors.par_iter().map(digest).collect::<Result<Vec<_>>>()?;
        let mut all = Sha256::new();
        all.update(Sha256::digest(self.config().to_json()));
        digests.iter().for_each(|digest| all.update(digest));
        Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
