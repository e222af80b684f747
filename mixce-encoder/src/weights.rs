//! The tensors of a BERT checkpoint under candle-transformers' names.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use mixce_base::digest::{Digest as _, Sha256};
use mixce_lm::checkpoint::{self, TensorInfo};

use crate::error::Result;

/// All tensors that belong to the encoder, in f32, and the SHA-256 of their names, shapes and values.
///
/// The prefix `bert.` of task models is stripped, and layer norms converted from TensorFlow (`gamma`, `beta`) are renamed to `weight` and
/// `bias`. Task heads and stored position ids are skipped.
pub(crate) fn load(folder: &Path, device: &Device) -> Result<(HashMap<String, Tensor>, [u8; 32])> {
    let mut tensors = HashMap::new();
    let mut hash = Sha256::new();
    for info in of_one_dictionary(checkpoint::list(folder)?) {
        let Some(name) = wanted(&info.name) else { continue };
        let values = info.read_f32()?;
        hash.update(format!("{name}\0{:?}\0", info.shape));
        for block in values.chunks(1 << 14) {
            hash.update(block.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        }
        tensors.insert(name, Tensor::from_vec(values, info.shape, device)?);
    }
    Ok((tensors, hash.finalize().into()))
}

/// The tensors of the dictionary with the encoder; a PyTorch file may have others.
fn of_one_dictionary(tensors: Vec<TensorInfo>) -> Vec<TensorInfo> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for info in tensors.iter().filter(|info| wanted(&info.name).is_some()) {
        *counts.entry(info.dictionary.clone()).or_default() += 1;
    }
    let Some((best, _)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return tensors };
    tensors.into_iter().filter(|info| info.dictionary == best).collect()
}

fn wanted(name: &str) -> Option<String> {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    let belongs = ["embeddings.", "encoder.", "pooler."].iter().any(|part| name.starts_with(part));
    if !belongs || name.ends_with(".position_ids") {
        return None;
    }
    Some(name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_encoder() {
        let of = |name: &str| wanted(name);
        let norm = Some("embeddings.LayerNorm.weight".to_owned());
        assert_eq!(of("bert.embeddings.LayerNorm.gamma"), norm);
        assert_eq!(of("embeddings.LayerNorm.weight"), norm);
        assert_eq!(of("pooler.dense.bias"), Some("pooler.dense.bias".to_owned()));
        assert_eq!(of("cls.predictions.bias"), None);
        assert_eq!(of("bert.embeddings.position_ids"), None);
    }
}
