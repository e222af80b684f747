//! The models and tokenizers for the inputs of the metrics.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use mixce_eval::metric::Need;
use mixce_lm::{ScoringOptions, Tokenizer};

use super::ScoreArgs;
use super::args::DEFAULT_FEATURIZER;
use super::cache::RowSource;
use super::embed::{DEFAULT_EMBEDDER, Embedder};
use super::featurize::Featurizer;
use super::settings::{FeaturizerRecord, TokenizerRecord};
use crate::models;
use crate::models::Network;

/// The loaded models; only those needed, and the given tokenizer.
pub(super) struct Models {
    pub(super) featurizer: Option<Featurizer>,
    pub(super) embedder: Option<Embedder>,
    tokenizer: Option<Tokenizer>,
}

impl Models {
    pub(super) fn load(
        args: &ScoreArgs,
        needs: &BTreeSet<Need>,
        has_features: bool,
        device: &Device,
        source: &RowSource,
    ) -> Result<Self> {
        let needs = |need: Need| needs.contains(&need);
        let featurizer = (needs(Need::Features) && !has_features) || needs(Need::WindowFeatures);
        let featurizer = featurizer.then(|| {
            let name = featurizer_name(args);
            let options =
                ScoringOptions { batch_tokens: args.batch_tokens, precision: args.precision.on(device)? };
            Featurizer::load(name, device, args.max_length, options, source.clone())
        });
        let embedder = (needs(Need::Embeddings) || needs(Need::WindowEmbeddings)).then(|| {
            let name = args.embedder.as_deref().unwrap_or(DEFAULT_EMBEDDER);
            Embedder::load(name, device, args.batch_tokens, source.clone())
        });
        let named = args.tokenizer.as_deref();
        let tokenizer = named.map(|name| models::tokenizer_for(Some(name), Path::new("."), Network::Allowed));
        Ok(Self {
            featurizer: featurizer.transpose()?,
            embedder: embedder.transpose()?,
            tokenizer: tokenizer.transpose()?,
        })
    }

    /// What determines the numbers of the models.
    pub(super) fn fingerprint(&self) -> Vec<u8> {
        let featurizer = self.featurizer.as_ref().map(|featurizer| &*featurizer.fingerprint);
        let embedder = self.embedder.as_ref().map(Embedder::fingerprint);
        featurizer.into_iter().chain(embedder).collect::<String>().into()
    }

    /// The given tokenizer, else the featurizer's.
    pub(super) fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref().or_else(|| self.featurizer.as_ref().map(Featurizer::tokenizer))
    }

    /// The description of the featurizer in the report.
    pub(super) fn featurizer_record(&self, args: &ScoreArgs) -> Option<FeaturizerRecord> {
        self.featurizer.as_ref().map(|featurizer| FeaturizerRecord {
            model: featurizer_name(args).to_owned(),
            fingerprint: featurizer.fingerprint.clone(),
            max_length: featurizer.max_tokens,
            precision: args.precision.precision,
        })
    }

    /// The description of the tokenizer in the report.
    pub(super) fn tokenizer_record(&self, args: &ScoreArgs) -> Result<Option<TokenizerRecord>> {
        let Some(tokenizer) = self.tokenizer() else { return Ok(None) };
        let model = args.tokenizer.as_deref().unwrap_or(featurizer_name(args)).to_owned();
        Ok(Some(TokenizerRecord { model, fingerprint: tokenizer.fingerprint()? }))
    }
}

fn featurizer_name(args: &ScoreArgs) -> &str {
    args.featurizer.as_deref().unwrap_or(DEFAULT_FEATURIZER)
}
