//! Sentence embeddings of texts with BERT.

use anyhow::Result;
use candle_core::Device;
use mixce_base::digest::{Digest as _, Sha256, hex};
use mixce_encoder::{Pooling, SentenceEncoder};
use mixce_eval::features::Features;
use mixce_eval::metric::EmbeddedPairs;
use serde::Serialize;

use super::cache::RowSource;
use super::prompts::Pairs;
use crate::models::{self, Network};
use crate::progress;

/// The coherence encoder of the MixCE authors.
pub(super) const DEFAULT_EMBEDDER: &str = "princeton-nlp/sup-simcse-bert-base-uncased";

/// Maximum tokens per text, as in the authors' code.
const MAX_TOKENS: usize = 512;

/// A model that maps texts to unit vectors.
#[derive(Debug)]
pub(super) struct Embedder {
    name: String,
    encoder: SentenceEncoder,
    batch_tokens: usize,
    source: RowSource,
    device: String,
}

impl Embedder {
    /// Loads the model.
    pub(super) fn load(name: &str, device: &Device, batch_tokens: usize, source: RowSource) -> Result<Self> {
        let folder = models::locate(name, Network::Allowed)?.path;
        let spinner = progress::spinner(format!("loading {}", folder.display()));
        let encoder = SentenceEncoder::load(&folder, name, device, MAX_TOKENS)?;
        spinner.finish_and_clear();
        let device = format!("{:?}", device.location());
        Ok(Self { name: name.to_owned(), encoder, batch_tokens, source, device })
    }

    /// SHA-256 of what determines its vectors.
    pub(super) fn fingerprint(&self) -> &str {
        self.encoder.fingerprint()
    }

    /// Its description in the report.
    pub(super) fn record(&self) -> EmbedderRecord {
        EmbedderRecord {
            model: self.name.clone(),
            fingerprint: self.fingerprint().to_owned(),
            pooling: self.encoder.pooling(),
            max_length: self.encoder.max_tokens(),
        }
    }

    /// The embeddings of prompts and continuations.
    pub(super) fn pairs(&self, Pairs { present, parts }: Pairs) -> Result<EmbeddedPairs> {
        let side = |side: usize| {
            let texts: Vec<&str> = parts.iter().map(|pair| pair[side].as_str()).collect();
            Ok::<_, anyhow::Error>(Features::new(texts.len(), self.encoder.width(), self.vectors(&texts)?)?)
        };
        Ok(EmbeddedPairs::new(present, side(0)?, side(1)?)?)
    }

    fn vectors(&self, texts: &[&str]) -> Result<Vec<f32>> {
        self.source.rows(
            texts,
            (self.encoder.width(), "texts embedded"),
            |texts| self.key(texts),
            |texts| Ok(self.encoder.embed(texts, self.batch_tokens)?),
        )
    }

    /// The cache key of these texts' vectors.
    fn key(&self, texts: &[&str]) -> String {
        let mut hash = Sha256::new();
        let (fingerprint, length) = (self.fingerprint(), self.encoder.max_tokens());
        hash.update(format!("sentence embedding\0{fingerprint}\0{length}\0{}\0", self.device));
        for text in texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hex(&hash.finalize())
    }
}

/// The description of an embedder in the report.
#[derive(Debug, Serialize)]
pub(super) struct EmbedderRecord {
    model: String,
    fingerprint: String,
    pooling: Pooling,
    max_length: usize,
}
