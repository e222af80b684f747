//! The settings of a training run.
//!
//! In increasing precedence: [`TrainConfig::default`] (the paper's settings), a TOML file ([`TrainConfig::from_toml_file`]), and flags, which
//! the caller writes into the fields. Call [`TrainConfig::validate`] once, before any file is written.
mod files;
mod load;
mod objective;
mod relative;
mod validate;
mod values;
#[cfg(test)]
mod written_before_tests;

use std::path::PathBuf;
use std::sync::Arc;

use mixce_core::ObjectiveConfig;
use mixce_data::ReadSettings;
use mixce_data::input::{Format, OneOrMany};
use mixce_lm::{ModelConfig, PassOptions, Tokenizer};
use serde::{Deserialize, Serialize};

pub use files::DataFiles;
pub(crate) use load::PROVENANCE;
pub use values::{Every, Pack, Precision, Selection};

use crate::data::BatcherConfig;
use crate::distributed::ReduceDtype;
use crate::optim::{AdamWConfig, ScheduleKind};

/// The settings of a run: one field for each flag of `mixce train`, and one key of the same name in a TOML file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Model to finetune: hub id, `id@revision` or folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Train from scratch: a `config.json`. Excludes `model`, needs `tokenizer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_config: Option<PathBuf>,
    /// Tokenizer, in the same form as `model`; default: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Files of training documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<DataFiles>,
    /// Files of development documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<DataFiles>,
    /// Text column of tables (several are joined with a space); default: detected.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub text_column: OneOrMany,
    /// Separator between documents of text files; default: one document per line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document_separator: Option<String>,
    /// Bad rows that may be skipped in each of `train` and `valid`.
    pub skip_bad_rows: u64,
    /// Format of the data files; default: by file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_format: Option<Format>,
    /// Field separator of CSV and TSV; default: detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// CSV and TSV have no header; columns are called `1`, `2`, ...
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_header: bool,
    /// Run folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// Folder of the token caches; without one, documents are encoded in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,

    /// The training objective.
    pub objective: ObjectiveConfig,
    /// Parameter `eta` of the objective; parameters without a key are given with its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// Parameter `gamma` of the objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// Parameter `min_weight` of the objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_weight: Option<f64>,
    /// Parameter `alpha` of the objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,

    /// Passes over the training documents; ignored when `max_steps` is set.
    pub epochs: u64,
    /// Optimizer steps of the whole run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Documents per microbatch.
    pub batch_size: usize,
    /// Microbatches per optimizer step.
    pub grad_accum: usize,
    /// Longest document in tokens, EOS included; longer ones are truncated. Default: 512, or the model's positions if fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Whether documents are concatenated into blocks; default: if `block_size` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pack: Option<Pack>,
    /// Concatenate documents into blocks of this many tokens; 0: do not.
    pub block_size: usize,
    /// Within blocks, restrict attention to a token's own document.
    pub confine_attention: bool,
    /// Prepend the tokenizer's BOS to each document; default: as the tokenizer's files ask ([`Tokenizer::opening`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_bos: Option<bool>,
    /// Keep the file's order in every epoch.
    pub no_shuffle: bool,

    /// Peak learning rate.
    pub lr: f64,
    /// Learning-rate schedule after the warm-up.
    pub scheduler: ScheduleKind,
    /// Optimizer steps of warm-up.
    pub warmup_steps: u64,
    /// Decoupled weight decay of embeddings and matrices (never of biases and layer norms).
    pub weight_decay: f64,
    /// Maximum global gradient norm; 0: no clipping.
    pub clip_grad_norm: f64,
    /// Skip the update of a step whose gradient norm exceeds this many times its running median; default: skip none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_outlier_steps: Option<f64>,
    /// AdamW's two decay rates.
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// All three dropout rates; default: the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Number format of matrix products in the forward and backward passes.
    pub precision: Precision,
    /// Recompute each block in the backward pass instead of saving its activations: less memory, bit-identical results.
    pub activation_checkpointing: bool,
    /// Divide AdamW's moments over the processes of the run instead of having them in each: less memory, bit-identical results.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shard_optimizer: bool,
    /// Number format in which the processes of the run exchange gradients.
    #[serde(skip_serializing_if = "is_default_reduce_dtype")]
    pub grad_reduce_dtype: ReduceDtype,

    /// When to evaluate on `valid`.
    pub eval_every: Every,
    /// When to write a checkpoint.
    pub save_every: Every,
    /// Number of checkpoints to keep.
    pub keep_last: usize,
    /// Criterion for the best model.
    pub select: Selection,
    /// With `select = mauve`: the first so many development documents are continued and scored.
    #[serde(skip_serializing_if = "is_default_select_documents")]
    pub select_documents: usize,
    /// With `select = mauve`: tokens of a prompt.
    #[serde(skip_serializing_if = "is_default_select_prompt_length")]
    pub select_prompt_length: usize,
    /// With `select = mauve`: the language model of MAUVE's features, in the same form as `model`; default: the program's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select_featurizer: Option<String>,
    /// Stop after this many consecutive evaluations without improvement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// Log every this many optimizer steps.
    pub log_every: u64,
    /// Continue from a checkpoint: a checkpoint folder, a run folder, or `auto` (the newest in `out`, if any).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,

    /// Seed of all random numbers.
    pub seed: u64,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// CPU threads; default: all cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

/// Default of `max_length` for models with enough positions, as in the paper.
pub const DEFAULT_MAX_LENGTH: usize = 512;

/// Default of `select_documents`.
const DEFAULT_SELECT_DOCUMENTS: usize = 200;
/// Default of `select_prompt_length`, as in the paper.
const DEFAULT_SELECT_PROMPT_LENGTH: usize = 50;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_select_documents(n: &usize) -> bool {
    *n == DEFAULT_SELECT_DOCUMENTS
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_select_prompt_length(n: &usize) -> bool {
    *n == DEFAULT_SELECT_PROMPT_LENGTH
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_reduce_dtype(dtype: &ReduceDtype) -> bool {
    *dtype == ReduceDtype::default()
}

impl Default for TrainConfig {
    /// The paper's settings: MixCE, AdamW at 5e-5 decaying linearly to 0, five epochs, 64 documents of at most 512 tokens per
    /// step.
    fn default() -> Self {
        let adamw = AdamWConfig::default();
        Self {
            model: None,
            from_config: None,
            tokenizer: None,
            train: None,
            valid: None,
            text_column: OneOrMany::default(),
            document_separator: None,
            skip_bad_rows: 0,
            data_format: None,
            delimiter: None,
            no_header: false,
            out: None,
            cache_dir: None,
            objective: ObjectiveConfig::default(),
            eta: None,
            gamma: None,
            min_weight: None,
            alpha: None,
            epochs: 5,
            max_steps: None,
            batch_size: 8,
            grad_accum: 8,
            max_length: None,
            pack: None,
            block_size: 0,
            confine_attention: false,
            add_bos: None,
            no_shuffle: false,
            lr: 5e-5,
            scheduler: ScheduleKind::Linear,
            warmup_steps: 0,
            weight_decay: adamw.weight_decay,
            clip_grad_norm: 0.0,
            skip_outlier_steps: None,
            betas: [adamw.beta1, adamw.beta2],
            adam_epsilon: adamw.epsilon,
            dropout: None,
            precision: Precision::F32,
            activation_checkpointing: false,
            shard_optimizer: false,
            grad_reduce_dtype: ReduceDtype::F32,
            eval_every: Every::Epoch,
            save_every: Every::Epoch,
            keep_last: 2,
            select: Selection::Nll,
            select_documents: DEFAULT_SELECT_DOCUMENTS,
            select_prompt_length: DEFAULT_SELECT_PROMPT_LENGTH,
            select_featurizer: None,
            patience: None,
            log_every: 10,
            resume: None,
            seed: 42,
            device: "auto".into(),
            threads: None,
        }
    }
}

impl TrainConfig {
    /// How the examples are grouped into steps.
    #[must_use]
    pub fn batcher(&self) -> BatcherConfig {
        BatcherConfig {
            batch_size: self.batch_size,
            grad_accum: self.grad_accum,
            shuffle: !self.no_shuffle,
            seed: self.seed,
        }
    }

    /// Tokens of the longest document: `max_length`, else [`DEFAULT_MAX_LENGTH`], or the model's positions if fewer. (In blocks documents are
    /// not truncated.)
    #[must_use]
    pub fn max_length_for(&self, positions: usize) -> usize {
        let room = if self.block_size == 0 { positions } else { usize::MAX };
        self.max_length.unwrap_or(DEFAULT_MAX_LENGTH.min(room))
    }

    /// Whether documents begin with BOS: `add_bos`, or else what the tokenizer's files ask for.
    #[must_use]
    pub fn add_bos_for(&self, tokenizer: Option<&Tokenizer>) -> bool {
        self.add_bos.unwrap_or_else(|| tokenizer.is_some_and(|tokenizer| tokenizer.opening().is_some()))
    }

    /// [`Self::resolved`], with the defaults that depend on the model and its tokenizer spelt out too.
    #[must_use]
    pub fn resolved_for(&self, positions: usize, tokenizer: Option<&Tokenizer>) -> Self {
        Self {
            max_length: Some(self.max_length_for(positions)),
            add_bos: Some(self.add_bos_for(tokenizer)),
            ..self.resolved()
        }
    }

    /// How the data files are read.
    #[must_use]
    pub fn reading(&self) -> ReadSettings {
        ReadSettings {
            text_column: self.text_column.clone(),
            document_separator: self.document_separator.clone(),
            skip_bad_rows: self.skip_bad_rows,
            data_format: self.data_format,
            delimiter: self.delimiter.clone(),
            no_header: self.no_header,
            ..ReadSettings::default()
        }
    }

    /// Optimizer steps of the whole run: `max_steps`, else `epochs` times the steps per epoch.
    #[must_use]
    pub fn total_steps(&self, steps_per_epoch: u64) -> u64 {
        self.max_steps.unwrap_or_else(|| self.epochs.saturating_mul(steps_per_epoch))
    }

    /// The model's configuration with this run's dropout rates, if set.
    #[must_use]
    pub fn with_dropout(&self, model: &Arc<dyn ModelConfig>) -> Arc<dyn ModelConfig> {
        self.dropout.map_or_else(|| model.clone(), |p| model.with_dropout(p))
    }

    /// Precision and recomputation of forward and backward passes.
    #[must_use]
    pub fn pass_options(&self) -> PassOptions {
        PassOptions {
            recompute: self.activation_checkpointing,
            precision: self.precision.into(),
            dropout: None,
        }
    }

    /// The optimizer's constants.
    #[must_use]
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.betas[0],
            beta2: self.betas[1],
            epsilon: self.adam_epsilon,
            weight_decay: self.weight_decay,
        }
    }
}
