//! The flags of `mixce score`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_eval::METRICS;
use mixce_eval::metric::{MetricSpec, Need};

use super::cache::Cache;
use super::metric_flags::{SettingFlags, metric_parser};
use super::windows::WindowFlags;
use crate::authors;
use crate::commands::evaluate::Compat;
use crate::error::Problem;
use crate::reading::ReadingArgs;

/// The model that the MixCE authors take MAUVE's features from.
pub(super) const DEFAULT_FEATURIZER: &str = "openai-community/gpt2-large";

/// Score texts against human ones: diversity, repetition, lengths, MAUVE, coherence, with intervals and paired tests
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce score --human test.txt --model-text mle.jsonl mixce.jsonl --tokenizer openai-community/gpt2\n\n\
    A file has one text a line, or is .jsonl with `text`, or with `prompt` and `continuation` (or `text`), as `mixce generate --json` writes; or \
    csv, tsv or parquet. It may be compressed, or a pattern that several files match.\n\n\
    The paper's metrics: mixce score --human human.txt --model-text mixce.txt --metrics diversity,repetition,mauve,coherence,controlled-mauve,controlled-coherence"
)]
pub(crate) struct ScoreArgs {
    /// Texts that people wrote
    #[arg(long, value_name = "FILE", required_unless_present = "human_features")]
    pub(super) human: Option<PathBuf>,
    /// Texts that systems wrote, one file a system, named by its stem
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "human_features")]
    pub(super) model_text: Vec<PathBuf>,
    /// What to compute [default: all that needs no further model, MAUVE with features or a featurizer, coherence with an embedder]
    #[arg(long, value_parser = metric_parser(), value_delimiter = ',', value_name = "METRICS")]
    pub(super) metrics: Vec<&'static MetricSpec>,
    /// Folder or hub id of the tokenizer of n-grams and lengths [default: the featurizer's, else whitespace words]
    #[arg(long, value_name = "MODEL")]
    pub(super) tokenizer: Option<String>,
    /// Folder or hub id of the language model that MAUVE takes its features from
    #[arg(long, value_name = "MODEL")]
    pub(super) featurizer: Option<String>,
    /// Folder or hub id of the BERT that coherence is measured with [default: princeton-nlp/sup-simcse-bert-base-uncased]
    #[arg(long, value_name = "MODEL")]
    pub(super) embedder: Option<String>,
    /// Tokens of the prompt in texts whose file does not tell prompt and continuation apart; of the tokenizer, else at 1.35 a word
    #[arg(long, alias = authors::PROMPT_LENGTH, default_value_t = 50, value_name = "TOKENS")]
    pub(super) prompt_length: usize,
    /// As another program splits: `authors` takes the common prefix of human and model text for the prompt
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub(super) compat: Option<Compat>,
    #[command(flatten)]
    pub(super) windows: WindowFlags,
    /// Features of the human texts, .npy or .safetensors, one row a text
    #[arg(long, value_name = "FILE", requires = "model_features", conflicts_with = "featurizer")]
    pub(super) human_features: Option<PathBuf>,
    /// Features of the systems' texts, in the order of `--model-text` if that is given
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "human_features")]
    pub(super) model_features: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) reading: ReadingArgs,
    #[command(flatten)]
    pub(super) settings: SettingFlags,
    /// Tokens of a text that MAUVE's features see [default: 512, or the featurizer's positions if fewer]
    #[arg(long, value_name = "TOKENS")]
    pub(super) max_length: Option<usize>,
    /// Tokens that go through a model together; memory only
    #[arg(long, default_value_t = 4096, value_name = "TOKENS")]
    pub(super) batch_tokens: usize,
    /// Folder of the features that were computed before [default: $XDG_CACHE_HOME/mixce/features]
    #[arg(long, value_name = "FOLDER")]
    pub(super) cache_dir: Option<PathBuf>,
    /// Neither read nor keep features on disk
    #[arg(long, conflicts_with = "cache_dir")]
    pub(super) no_cache: bool,
    /// Resamples of an interval and sign patterns of a paired test; 0: neither
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub(super) resamples: usize,
    /// Level of the confidence intervals, between 0 and 1
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    pub(super) confidence: f64,
}

/// More resamples than anyone waits for; above it a number is a slip.
const MAX_RESAMPLES: usize = 10_000_000;

impl ScoreArgs {
    /// The metrics that were asked for, or those that can be had without another download; in the order of their results.
    pub(super) fn wanted(&self) -> Result<Vec<&'static MetricSpec>> {
        let is_wanted = |metric: &&MetricSpec| match self.metrics.as_slice() {
            [] => metric.needs.iter().all(|need| self.is_at_hand(*need)),
            asked => asked.iter().any(|asked| asked.name == metric.name),
        };
        let wanted: Vec<&MetricSpec> = METRICS.iter().filter(is_wanted).collect();
        let needs_texts = |metric: &&&MetricSpec| metric.needs != [Need::Features];
        if let Some(metric) = wanted.iter().find(needs_texts).filter(|_| !self.has_texts()) {
            let name = metric.name;
            return Err(
                Problem::new(format!("metric `{name}` needs texts: `--human` and `--model-text`")).into()
            );
        }
        let of_windows = [Need::WindowFeatures, Need::WindowEmbeddings];
        if wanted.iter().any(|metric| metric.needs.iter().any(|need| of_windows.contains(need))) {
            self.windows.check(self.prompt_length)?;
        }
        Ok(wanted)
    }

    fn has_texts(&self) -> bool {
        self.human.is_some() && !self.model_text.is_empty()
    }

    /// Whether an input can be had from what the flags name.
    fn is_at_hand(&self, need: Need) -> bool {
        match need {
            Need::Texts | Need::TokenIds => self.has_texts(),
            Need::Features => self.featurizer.is_some() || self.human_features.is_some(),
            Need::Embeddings => self.has_texts() && self.embedder.is_some(),
            Need::WindowFeatures | Need::WindowEmbeddings => false,
        }
    }

    /// Refuses flags whose values cannot be.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |flag: &str, expected: &str, got: String| {
            Err(Problem::new(format!("`{flag}`: expected {expected}, got `{got}`")).into())
        };
        if self.max_length == Some(0) {
            return refuse("--max-length", "at least 1", "0".to_owned());
        }
        if self.resamples > MAX_RESAMPLES {
            return refuse("--resamples", &format!("at most {MAX_RESAMPLES}"), self.resamples.to_string());
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return refuse("--confidence", "a number between 0 and 1", self.confidence.to_string());
        }
        if !self.model_features.is_empty()
            && !self.model_text.is_empty()
            && self.model_features.len() != self.model_text.len()
        {
            let expected = format!("one file for each of the {} of `--model-text`", self.model_text.len());
            return refuse("--model-features", &expected, self.model_features.len().to_string());
        }
        Ok(())
    }

    /// Where features and embeddings are kept.
    pub(super) fn cache(&self) -> Option<Cache> {
        let folder = self.cache_dir.clone().or_else(Cache::default_folder);
        folder.filter(|_| !self.no_cache).map(Cache::new)
    }
}
