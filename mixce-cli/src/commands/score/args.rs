//! The flags of `mixce score`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_eval::METRICS;
use mixce_eval::metric::{MetricSpec, Need, Scorer};

use super::cache::Cache;
use super::metric_flags::{SettingFlags, metric_parser};
use super::windows::WindowFlags;
use crate::authors;
use crate::commands::evaluate::Compat;
use crate::error::Problem;
use crate::precision::PrecisionArgs;
use crate::ranks;
use crate::reading::ReadingArgs;

/// The MixCE authors' feature model for MAUVE.
pub(crate) const DEFAULT_FEATURIZER: &str = "openai-community/gpt2-large";

/// Compare texts with human ones: diversity, repetition, lengths, MAUVE, coherence, with intervals and paired tests
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce score --human test.txt --model-text mle.jsonl mixce.jsonl --tokenizer openai-community/gpt2\n\n\
    A file has one text per line, or is .jsonl with `text`, or with `prompt` and `continuation` (or `text`), as `mixce generate --json` writes; or \
    csv, tsv or parquet. It may be compressed, or a pattern that matches several files.\n\n\
    The paper's metrics: mixce score --human human.txt --model-text mixce.txt --metrics diversity,repetition,mauve,coherence,controlled-mauve,controlled-coherence\n\n\
    With a build with the feature mpi, `mpirun -n 4 mixce score ...` divides the models' passes over the texts between processes; the first one\n\
    computes the metrics and writes what one process writes."
)]
pub(crate) struct ScoreArgs {
    /// Human texts
    #[arg(long, value_name = "FILE", required_unless_present = "human_features")]
    pub(super) human: Option<PathBuf>,
    /// Generated texts, one file per system, which is named after the file's stem
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "human_features")]
    pub(super) model_text: Vec<PathBuf>,
    /// Metrics to compute [default: all that need no further model, MAUVE with features or a featurizer, coherence with an
    /// embedder]
    #[arg(long, value_parser = metric_parser(), value_delimiter = ',', value_name = "METRICS")]
    pub(super) metrics: Vec<&'static MetricSpec>,
    /// Folder or hub id of the tokenizer for n-grams and lengths [default: the featurizer's, else whitespace words]
    #[arg(long, value_name = "MODEL")]
    pub(super) tokenizer: Option<String>,
    /// Folder or hub id of the language model for MAUVE's features
    #[arg(long, value_name = "MODEL")]
    pub(super) featurizer: Option<String>,
    /// Folder or hub id of the BERT for coherence [default: princeton-nlp/sup-simcse-bert-base-uncased]
    #[arg(long, value_name = "MODEL")]
    pub(super) embedder: Option<String>,
    /// Prompt length in texts whose file does not separate the prompt, in tokens; without a tokenizer, at 1.35 tokens per word
    #[arg(long, alias = authors::PROMPT_LENGTH, default_value_t = 50, value_name = "TOKENS")]
    pub(super) prompt_length: usize,
    /// Split like another program: `authors` takes the common prefix of human and model text as the prompt
    #[arg(long, value_enum, value_name = "PROGRAM")]
    pub(super) compat: Option<Compat>,
    #[command(flatten)]
    pub(super) windows: WindowFlags,
    /// Features of the human texts, .npy or .safetensors, one row per text
    #[arg(long, value_name = "FILE", requires = "model_features", conflicts_with = "featurizer")]
    pub(super) human_features: Option<PathBuf>,
    /// Features of the systems' texts, in the order of `--model-text` if given
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "human_features")]
    pub(super) model_features: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) reading: ReadingArgs,
    #[command(flatten)]
    pub(super) settings: SettingFlags,
    /// Maximum tokens per text for MAUVE's features [default: 512, or the featurizer's context length if shorter]
    #[arg(long, value_name = "TOKENS")]
    pub(super) max_length: Option<usize>,
    /// Tokens per forward pass; affects memory only
    #[arg(long, default_value_t = 4096, value_name = "TOKENS")]
    pub(super) batch_tokens: usize,
    #[command(flatten)]
    pub(super) precision: PrecisionArgs,
    /// Cache folder of computed features [default: $XDG_CACHE_HOME/mixce/features]
    #[arg(long, value_name = "FOLDER")]
    pub(super) cache_dir: Option<PathBuf>,
    /// Do not cache features on disk
    #[arg(long, conflicts_with = "cache_dir")]
    pub(super) no_cache: bool,
    /// Write the value of each text here, for metrics that have one: a JSON object of arrays in the order of the texts
    #[arg(long, value_name = "FILE")]
    pub(super) per_text: Option<PathBuf>,
    /// Replace an existing `--per-text` file
    #[arg(long, requires = "per_text")]
    pub(super) overwrite: bool,
    /// Bootstrap resamples of an interval and sign patterns of a paired test; 0: neither
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub(super) resamples: usize,
    /// Level of the confidence intervals, between 0 and 1
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    pub(super) confidence: f64,
    #[command(flatten)]
    pub(super) patience: ranks::TimeoutArgs,
}

/// More resamples than is practical; a larger number is a typo.
const MAX_RESAMPLES: usize = 10_000_000;

/// Refuses values of `--resamples` and `--confidence` that are no number of resamples and no level.
pub(crate) fn check_resampling(resamples: usize, confidence: f64) -> Result<()> {
    if resamples > MAX_RESAMPLES {
        let problem = format!("`--resamples`: expected at most {MAX_RESAMPLES}, got `{resamples}`");
        return Err(Problem::new(problem).into());
    }
    if !(confidence > 0.0 && confidence < 1.0) {
        let problem = format!("`--confidence`: expected a number between 0 and 1, got `{confidence}`");
        return Err(Problem::new(problem).into());
    }
    Ok(())
}

impl ScoreArgs {
    /// The requested metrics, or those that need no further download; in the order of their results.
    fn wanted(&self) -> Result<Vec<&'static MetricSpec>> {
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

    /// The requested metrics with their settings, after all checks of the flags.
    pub(crate) fn scorer(&self, seed: u64) -> Result<Scorer> {
        self.check()?;
        Ok(Scorer::new(&self.wanted()?, &self.settings.values(seed)?)?)
    }

    fn has_texts(&self) -> bool {
        self.human.is_some() && !self.model_text.is_empty()
    }

    /// Whether an input is available from the flags.
    fn is_at_hand(&self, need: Need) -> bool {
        match need {
            Need::Texts | Need::TokenIds => self.has_texts(),
            Need::Features => self.featurizer.is_some() || self.human_features.is_some(),
            Need::Embeddings => self.has_texts() && self.embedder.is_some(),
            Need::WindowFeatures | Need::WindowEmbeddings => false,
        }
    }

    /// Refuses invalid flag values.
    fn check(&self) -> Result<()> {
        let refuse = |flag: &str, expected: &str, got: String| {
            Err(Problem::new(format!("`{flag}`: expected {expected}, got `{got}`")).into())
        };
        if self.max_length == Some(0) {
            return refuse("--max-length", "at least 1", "0".to_owned());
        }
        check_resampling(self.resamples, self.confidence)?;
        if !self.model_features.is_empty()
            && !self.model_text.is_empty()
            && self.model_features.len() != self.model_text.len()
        {
            let expected = format!("one file for each of the {} of `--model-text`", self.model_text.len());
            return refuse("--model-features", &expected, self.model_features.len().to_string());
        }
        Ok(())
    }

    /// The cache of features and embeddings.
    pub(super) fn cache(&self) -> Option<Cache> {
        let folder = self.cache_dir.clone().or_else(Cache::default_folder);
        folder.filter(|_| !self.no_cache).map(Cache::new)
    }
}
