//! MAUVE's features of texts with a language model.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use candle_core::Device;
use mixce_base::digest::{Digest as _, Sha256, hex};
use mixce_eval::features::Features;
use mixce_kernels::Precision;
use mixce_lm::{LanguageModel, ScoringOptions, Tokenizer};

use super::cache::RowSource;
use crate::models::{self, LoadedModel};
use crate::positions::{DEFAULT_MAX_LENGTH, fitted};

/// How many texts may be featurized before a stop is noticed.
const TEXTS_BETWEEN_CHECKS: usize = 4;

/// A model that maps texts to features.
#[derive(Debug)]
pub(crate) struct Featurizer {
    model: Box<dyn LanguageModel>,
    tokenizer: Tokenizer,
    /// SHA-256 of configuration and weights, in hex.
    pub(super) fingerprint: String,
    /// Maximum tokens per text.
    pub(super) max_tokens: usize,
    options: ScoringOptions,
    source: RowSource,
}

impl Featurizer {
    /// Loads the model.
    pub(super) fn load(
        name: &str,
        device: &Device,
        max_length: Option<usize>,
        options: ScoringOptions,
        source: RowSource,
    ) -> Result<Self> {
        let LoadedModel { model, tokenizer, .. } = models::load(name, None, device)?;
        let fingerprint = model.fingerprint()?;
        let positions = model.spec().positions;
        let max_tokens = fitted("--max-length", max_length, DEFAULT_MAX_LENGTH, positions)?;
        Ok(Self { model: model.detached()?, tokenizer, fingerprint, max_tokens, options, source })
    }

    /// Loads the model for texts that are scored once.
    pub(crate) fn uncached(name: &str, device: &Device, options: ScoringOptions) -> Result<Self> {
        Self::load(name, device, None, options, RowSource::alone())
    }

    /// The model's tokenizer.
    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The features of the non-empty texts.
    pub(crate) fn features(&self, texts: &[String]) -> Result<Features> {
        let ids = self.ids(texts)?;
        let columns = self.model.spec().channels;
        let kind = (columns, "texts featurized");
        let values = self.source.rows(&ids, kind, |ids| self.key(ids), |ids| self.states(ids))?;
        Ok(Features::new(ids.len(), columns, values)?)
    }

    /// The same without a cache; none once `stop` is set. A signal does what the caller has promised.
    pub(crate) fn features_unless(&self, stop: &AtomicBool, texts: &[String]) -> Result<Option<Features>> {
        let ids = self.ids(texts)?;
        let mut values = Vec::new();
        for ids in ids.chunks(TEXTS_BETWEEN_CHECKS) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            values.extend(self.states(ids)?);
        }
        Ok(Some(Features::new(ids.len(), self.model.spec().channels, values)?))
    }

    /// The tokens of the non-empty texts.
    fn ids(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        let mut ids = self.tokenizer.encode_batch(texts)?;
        ids.retain(|ids| !ids.is_empty());
        for ids in &mut ids {
            // As mauve-text does, which takes the tokenizer's own template.
            ids.splice(0..0, self.tokenizer.opening());
            ids.truncate(self.max_tokens);
        }
        Ok(ids)
    }

    /// The rows of their features, one after the other.
    fn states(&self, ids: &[Vec<u32>]) -> Result<Vec<f32>> {
        let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let states = self.model.last_hidden_states(&texts, self.options)?;
        Ok(states.flatten_all()?.to_vec1()?)
    }

    /// The cache key of these texts' features. It includes the device, because rounding differs between devices.
    fn key(&self, ids: &[Vec<u32>]) -> String {
        let mut hash = Sha256::new();
        let kind = match self.options.precision {
            Precision::F32 => "last hidden state",
            Precision::Bf16 => "last hidden state in bf16",
        };
        hash.update(format!("{kind}\0{}\0{:?}\0", self.fingerprint, self.model.device().location()));
        for ids in ids {
            hash.update((ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        }
        hex(&hash.finalize())
    }
}
