//! The settings of the scores, `settings` in the output.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mixce_eval::metric::Fact;
use mixce_train::config::Precision;
use serde::Serialize;

use super::embed::EmbedderRecord;
use super::prompts::PromptRecord;
use super::windows::WindowRecord;

/// Everything that the numbers depend on. Unused settings have no key.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    pub(super) version: &'static str,
    pub(super) metrics: Vec<&'static str>,
    pub(super) seed: u64,
    pub(super) resamples: usize,
    pub(super) confidence: f64,
    pub(super) device: String,
    /// The unit of n-grams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<&'static str>,
    /// `Some(None)`, null in JSON: whitespace words are used instead of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tokenizer: Option<Option<TokenizerRecord>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) featurizer: Option<FeaturizerRecord>,
    /// Files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) features: Option<Vec<PathBuf>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) embedder: Option<EmbedderRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompts: Option<PromptRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) windows: Option<WindowRecord>,
    /// The metrics' settings.
    #[serde(flatten)]
    pub(super) of_metrics: BTreeMap<&'static str, Fact>,
}

/// The description of a tokenizer in the report.
#[derive(Debug, Serialize)]
pub(super) struct TokenizerRecord {
    pub(super) model: String,
    pub(super) fingerprint: String,
}

/// The description of a featurizer in the report.
#[derive(Debug, Serialize)]
pub(super) struct FeaturizerRecord {
    pub(super) model: String,
    pub(super) fingerprint: String,
    pub(super) max_length: usize,
    pub(super) precision: Precision,
}
