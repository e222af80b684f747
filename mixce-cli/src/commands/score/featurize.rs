//! MAUVE's features of texts, by a GPT-2.

use std::fmt::Write as _;

use anyhow::Result;
use candle_core::Device;
use mixce_eval::features::Features;
use mixce_gpt2::{Gpt2, Parameters, Tokenizer};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::cache::Cache;
use crate::error::Problem;
use crate::models::LoadedModel;
use crate::{interrupt, models, progress};

/// Texts whose features are kept in one file: after an interruption at most so many are computed again.
const TEXTS_PER_FILE: usize = 256;

/// A model that turns texts into features.
pub(super) struct Featurizer {
    model: Gpt2,
    tokenizer: Tokenizer,
    /// SHA-256 of configuration and weights, in hex.
    pub(super) fingerprint: String,
    /// Tokens of a text that count.
    pub(super) max_tokens: usize,
    batch_tokens: usize,
    cache: Option<Cache>,
}

impl Featurizer {
    /// Loads the model.
    pub(super) fn load(
        name: &str,
        device: &Device,
        max_tokens: usize,
        batch_tokens: usize,
        cache: Option<Cache>,
    ) -> Result<Self> {
        let LoadedModel { model, tokenizer } = models::load(name, None, device)?;
        let fingerprint = fingerprint(&model.config().to_json(), model.parameters())?;
        let max_tokens = max_tokens.min(model.config().n_positions);
        Ok(Self { model: model.detached()?, tokenizer, fingerprint, max_tokens, batch_tokens, cache })
    }

    /// The model's tokenizer.
    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The features of the texts that are not empty.
    pub(super) fn features(&self, texts: &[String]) -> Result<Features> {
        let mut ids = self.tokenizer.encode_batch(texts)?;
        ids.retain(|ids| !ids.is_empty());
        ids.iter_mut().for_each(|ids| ids.truncate(self.max_tokens));
        let columns = self.model.config().n_embd;
        let mut values = Vec::with_capacity(ids.len() * columns);
        interrupt::install("the features that are done are kept");
        let bar = progress::bar(ids.len() as u64, "texts featurized");
        for ids in ids.chunks(TEXTS_PER_FILE) {
            if interrupt::is_requested() {
                return Err(Problem::interrupted("interrupted: run the same command again to go on").into());
            }
            values.extend(self.chunk(ids, columns)?);
            bar.inc(ids.len() as u64);
        }
        bar.finish_and_clear();
        Ok(Features::new(ids.len(), columns, values)?)
    }

    fn chunk(&self, ids: &[Vec<u32>], columns: usize) -> Result<Vec<f32>> {
        let key = self.key(ids);
        if let Some(cached) = self.cache.as_ref().and_then(|cache| cache.get(&key, ids.len(), columns)) {
            return Ok(cached);
        }
        let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let states = self.model.last_hidden_states(&texts, self.batch_tokens)?;
        let values: Vec<f32> = states.flatten_all()?.to_vec1()?;
        if let Some(cache) = self.cache.as_ref().filter(|_| values.iter().all(|v| v.is_finite())) {
            cache.put(&key, ids.len(), columns, &values);
        }
        Ok(values)
    }

    /// The name of the features of these texts. Rounding differs between devices, so they have their own.
    fn key(&self, ids: &[Vec<u32>]) -> String {
        let mut hash = Sha256::new();
        hash.update(format!(
            "last hidden state\0{}\0{:?}\0",
            self.fingerprint,
            self.model.device().location()
        ));
        for ids in ids {
            hash.update((ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
        hex(&hash.finalize())
    }
}

/// SHA-256 of a configuration and all weights.
fn fingerprint(config: &str, parameters: &Parameters) -> Result<String> {
    let tensors: Vec<_> = parameters.iter().collect();
    let digest = |(name, tensor): &(&str, &candle_core::Tensor)| -> Result<Vec<u8>> {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let mut hash = Sha256::new();
        hash.update(format!("{name}\0{:?}\0", tensor.dims()));
        for block in values.chunks(1 << 14) {
            hash.update(block.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        }
        Ok(hash.finalize().to_vec())
    };
    let digests = tensors.par_iter().map(digest).collect::<Result<Vec<_>>>()?;
    Ok(hex(&Sha256::digest([config.as_bytes(), &digests.concat()].concat())))
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
