//! The fingerprint of a model.

use candle_core::DType;
use mixce_base::digest::{Digest, Sha256, hex};
use rayon::prelude::*;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::params::Parameters;

/// See [`LanguageModel::fingerprint`](crate::LanguageModel::fingerprint).
pub(crate) fn fingerprint(config: &dyn ModelConfig, parameters: &Parameters) -> Result<String> {
    let tensors: Vec<_> = parameters.iter().collect();
    let digest = |(name, tensor): &(&str, &candle_core::Tensor)| -> Result<Vec<u8>> {
        let values: Vec<f32> = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
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
    all.update(Sha256::digest(config.to_json()));
    digests.iter().for_each(|digest| all.update(digest));
    Ok(hex(&all.finalize()))
}
