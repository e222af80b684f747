//! The flags of `mixce train` that are settings of the run. All are optional: only given flags override the file.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use mixce_core::ObjectiveConfig;
use mixce_train::config::{DataFiles, Every, Pack, Precision, Selection, TrainConfig};
use mixce_train::distributed::ReduceDtype;
use mixce_train::optim::ScheduleKind;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as WordError, StrDeserializer};

use crate::authors;
use crate::objective::{ObjectiveParser, short_form_help};
use crate::reading::ReadingArgs;

/// One flag per key of the TOML file.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Settings {
    /// Model to finetune: hub id, id@revision, folder or GGUF file
    #[arg(long, alias = authors::MODEL, value_name = "MODEL", help_heading = "Model and data")]
    pub(crate) model: Option<String>,
    /// Train from scratch with this config.json (needs --tokenizer)
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub(crate) from_config: Option<PathBuf>,
    /// Folder or hub id of the tokenizer [default: the model's own]
    #[arg(long, value_name = "MODEL", help_heading = "Model and data")]
    pub(crate) tokenizer: Option<String>,
    /// Training documents: files or patterns, or `-`; .txt (one per line), .jsonl, .csv, .tsv, .parquet, also .gz and .zst
    #[arg(long, alias = authors::TRAIN, value_name = "FILE", num_args = 1.., help_heading = "Model and data")]
    pub(crate) train: Vec<PathBuf>,
    /// Development documents, for selecting the best model; files as for --train
    #[arg(long, alias = authors::VALID, value_name = "FILE", num_args = 1.., help_heading = "Model and data")]
    pub(crate) valid: Vec<PathBuf>,
    /// How the data files are read
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Run folder; must be empty or not exist, unless the run is resumed
    #[arg(long, alias = authors::OUT, value_name = "DIR", help_heading = "Model and data")]
    pub(crate) out: Option<PathBuf>,
    /// Folder of the token caches [default: $XDG_CACHE_HOME/mixce/tokens for files of 8 MiB or more, memory for smaller ones]
    #[arg(long, value_name = "DIR", help_heading = "Model and data")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Longest document in tokens, EOS included; longer ones are truncated [default: 512, or the model's context length if
    /// shorter]
    #[arg(long, alias = authors::MAX_LENGTH, value_name = "TOKENS", help_heading = "Model and data")]
    pub(crate) max_length: Option<usize>,
    /// Training examples: single documents, or blocks of concatenated documents [default: concat with --block-size]
    #[arg(long, value_parser = words::<Pack>(&["documents", "concat"]), help_heading = "Model and data")]
    pub(crate) pack: Option<Pack>,
    /// Within blocks, restrict attention to a token's own document
    #[arg(long, help_heading = "Model and data")]
    pub(crate) confine_attention: bool,
    /// Concatenate documents into blocks of this many tokens; 0: do not [default: 0]
    #[arg(long, alias = authors::BLOCK_SIZE, value_name = "TOKENS", help_heading = "Model and data")]
    pub(crate) block_size: Option<usize>,
    /// Prepend the tokenizer's BOS to each document, or not [default: as the tokenizer's files ask]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Model and data")]
    pub(crate) add_bos: Option<bool>,
    /// Keep the file's order in every epoch
    #[arg(long, help_heading = "Model and data")]
    pub(crate) no_shuffle: bool,

    /// Training objective: the weight w of a token's cross-entropy as a function of its probability q [default: mixce]
    #[arg(long, value_name = "NAME[:PARAMETER=VALUE,..]", value_parser = ObjectiveParser, help_heading = "Objective")]
    pub(crate) objective: Option<ObjectiveConfig>,
    #[arg(long, aliases = [authors::ETA, "mixing-ratio"], value_name = "ETA", help = short_form_help("eta"), help_heading = "Objective", allow_negative_numbers = true)]
    pub(crate) eta: Option<f64>,
    #[arg(long, value_name = "GAMMA", help = short_form_help("gamma"), help_heading = "Objective", allow_negative_numbers = true)]
    pub(crate) gamma: Option<f64>,
    #[arg(long, value_name = "W", help = short_form_help("min_weight"), help_heading = "Objective", allow_negative_numbers = true)]
    pub(crate) min_weight: Option<f64>,
    #[arg(long, value_name = "ALPHA", help = short_form_help("alpha"), help_heading = "Objective", allow_negative_numbers = true)]
    pub(crate) alpha: Option<f64>,

    /// Passes over the training documents [default: 5]
    #[arg(long, alias = authors::EPOCHS, value_name = "N", help_heading = "Optimization")]
    pub(crate) epochs: Option<u64>,
    /// Optimizer steps of the whole run, instead of epochs
    #[arg(long, alias = authors::MAX_STEPS, value_name = "N", help_heading = "Optimization")]
    pub(crate) max_steps: Option<u64>,
    /// Documents per microbatch [default: 8]
    #[arg(long, alias = authors::BATCH_SIZE, value_name = "N", help_heading = "Optimization")]
    pub(crate) batch_size: Option<usize>,
    /// Microbatches per optimizer step [default: 8]
    #[arg(long, alias = authors::GRAD_ACCUM, value_name = "N", help_heading = "Optimization")]
    pub(crate) grad_accum: Option<usize>,
    /// Peak learning rate [default: 5e-5]
    #[arg(long, alias = authors::LR, value_name = "RATE", help_heading = "Optimization", allow_negative_numbers = true)]
    pub(crate) lr: Option<f64>,
    /// Learning-rate schedule after the warm-up [default: linear]
    #[arg(long, alias = authors::SCHEDULER, value_parser = words::<ScheduleKind>(&["linear", "cosine", "constant"]), help_heading = "Optimization")]
    pub(crate) scheduler: Option<ScheduleKind>,
    /// Optimizer steps of warm-up [default: 0]
    #[arg(long, alias = authors::WARMUP_STEPS, value_name = "N", help_heading = "Optimization")]
    pub(crate) warmup_steps: Option<u64>,
    /// AdamW's weight decay of matrices and embeddings [default: 0]
    #[arg(long, value_name = "DECAY", help_heading = "Optimization", allow_negative_numbers = true)]
    pub(crate) weight_decay: Option<f64>,
    /// Maximum global gradient norm; 0: no clipping [default: 0]
    #[arg(long, value_name = "NORM", help_heading = "Optimization", allow_negative_numbers = true)]
    pub(crate) clip_grad_norm: Option<f64>,
    /// Skip the update of a step whose gradient norm exceeds K times its running median, K above 1 [default: skip none]
    #[arg(long, value_name = "K", help_heading = "Optimization", allow_negative_numbers = true)]
    pub(crate) skip_outlier_steps: Option<f64>,
    /// AdamW's decay rates [default: 0.9,0.999]
    #[arg(long, value_name = "B1,B2", value_parser = two_numbers, help_heading = "Optimization")]
    pub(crate) betas: Option<[f64; 2]>,
    /// AdamW's epsilon [default: 1e-8]
    #[arg(long, value_name = "EPS", help_heading = "Optimization", allow_negative_numbers = true)]
    pub(crate) adam_epsilon: Option<f64>,
    /// All three dropout rates, in [0, 1) [default: the checkpoint's]
    #[arg(long, value_name = "P", help_heading = "Optimization", allow_negative_numbers = true)]
    pub(crate) dropout: Option<f64>,
    /// Number format of the operands of matrix products in training and its evaluations; bf16 needs a CPU with AVX512-BF16 or a GPU of compute
    /// capability 8.0 [default: f32]
    #[arg(long, value_parser = words::<Precision>(&["f32", "bf16"]), help_heading = "Optimization")]
    pub(crate) precision: Option<Precision>,
    /// Recompute activations in the backward pass: less memory, more time
    #[arg(long, help_heading = "Optimization")]
    pub(crate) activation_checkpointing: bool,
    /// With several processes, divide AdamW's moments between them (ZeRO stage 1): less memory, the same results
    #[arg(long, help_heading = "Optimization")]
    pub(crate) shard_optimizer: bool,
    /// With several processes, the number format in which they exchange gradients: bf16 halves the bytes, and rounds gradients and
    /// their sums to 8 bits of precision [default: f32]
    #[arg(long, value_parser = words::<ReduceDtype>(&["f32", "bf16"]), help_heading = "Optimization")]
    pub(crate) grad_reduce_dtype: Option<ReduceDtype>,

    /// Evaluate at the end of each `epoch`, or every N steps [default: epoch]
    #[arg(long, value_name = "epoch|N|never", help_heading = "Evaluation and checkpoints")]
    pub(crate) eval_every: Option<Every>,
    /// Write a checkpoint at the end of each `epoch`, or every N steps [default: epoch]
    #[arg(long, value_name = "epoch|N|never", help_heading = "Evaluation and checkpoints")]
    pub(crate) save_every: Option<Every>,
    /// Number of checkpoints to keep [default: 2]
    #[arg(long, value_name = "N", help_heading = "Evaluation and checkpoints")]
    pub(crate) keep_last: Option<usize>,
    /// Criterion for the best model, on the development documents; mauve samples continuations at each evaluation and scores them
    /// [default: nll]
    #[arg(long, value_parser = words::<Selection>(&["loss", "nll", "mauve"]), help_heading = "Evaluation and checkpoints")]
    pub(crate) select: Option<Selection>,
    /// With --select mauve: continue and score the first N development documents [default: 200]
    #[arg(long, value_name = "N", help_heading = "Evaluation and checkpoints")]
    pub(crate) select_documents: Option<usize>,
    /// With --select mauve: tokens of a prompt [default: 50]
    #[arg(long, value_name = "TOKENS", help_heading = "Evaluation and checkpoints")]
    pub(crate) select_prompt_length: Option<usize>,
    /// With --select mauve: folder or hub id of the language model for the features [default: openai-community/gpt2-large]
    #[arg(long, value_name = "MODEL", help_heading = "Evaluation and checkpoints")]
    pub(crate) select_featurizer: Option<String>,
    /// Stop after this many consecutive evaluations without improvement
    #[arg(long, value_name = "N", help_heading = "Evaluation and checkpoints")]
    pub(crate) patience: Option<u64>,
    /// Log every N optimizer steps [default: 10]
    #[arg(long, value_name = "N", help_heading = "Evaluation and checkpoints")]
    pub(crate) log_every: Option<u64>,
    /// Continue a run: `auto` (the newest checkpoint in --out, if any), a run folder, or a checkpoint folder
    #[arg(long, alias = authors::RESUME, value_name = "auto|DIR", help_heading = "Evaluation and checkpoints")]
    pub(crate) resume: Option<String>,
}

/// Parses words into a library type with serde.
pub(crate) fn words<T>(known: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: for<'de> Deserialize<'de> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(known).try_map(|word| {
        let word: StrDeserializer<'_, WordError> = word.as_str().into_deserializer();
        T::deserialize(word)
    })
}

/// Parses two numbers separated by a comma.
fn two_numbers(text: &str) -> Result<[f64; 2], String> {
    let numbers: Option<Vec<f64>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
    numbers
        .and_then(|n| n.try_into().ok())
        .ok_or_else(|| "expected two numbers separated by a comma".to_owned())
}

impl Settings {
    /// Overrides a configuration with these flags.
    pub(crate) fn over(&self, mut config: TrainConfig) -> TrainConfig {
        macro_rules! set {
            ($($field:ident)*) => { $(if let Some(value) = self.$field.clone() { config.$field = value; })* };
        }
        macro_rules! set_optional {
            ($($field:ident)*) => { $(if self.$field.is_some() { config.$field.clone_from(&self.$field); })* };
        }
        if let Some(objective) = &self.objective {
            config.set_objective(objective.clone());
        }
        set!(epochs batch_size grad_accum block_size lr scheduler warmup_steps weight_decay);
        set!(grad_reduce_dtype);
        set!(clip_grad_norm betas adam_epsilon precision eval_every save_every keep_last select select_documents select_prompt_length log_every);
        set_optional!(tokenizer max_length pack out cache_dir eta gamma min_weight alpha max_steps dropout patience resume select_featurizer);
        set_optional!(skip_outlier_steps);
        for (files, field) in [(&self.train, &mut config.train), (&self.valid, &mut config.valid)] {
            if !files.is_empty() {
                *field = Some(DataFiles(files.clone()));
            }
        }
        let reading = self.reading.over(config.reading());
        config.text_column = reading.text_column;
        config.document_separator = reading.document_separator;
        config.skip_bad_rows = reading.skip_bad_rows;
        config.data_format = reading.data_format;
        config.delimiter = reading.delimiter;
        config.no_header = reading.no_header;
        // A flag for one source of the model overrides the file's choice of the other.
        if self.model.is_some() != self.from_config.is_some() {
            (config.model, config.from_config) = (None, None);
        }
        set_optional!(model from_config);
        if self.epochs.is_some() && self.max_steps.is_none() {
            config.max_steps = None;
        }
        config.add_bos = self.add_bos.or(config.add_bos);
        config.confine_attention |= self.confine_attention;
        config.no_shuffle |= self.no_shuffle;
        config.activation_checkpointing |= self.activation_checkpointing;
        config.shard_optimizer |= self.shard_optimizer;
        config
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn over(line: &str, config: TrainConfig) -> TrainConfig {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().settings.over(config)
    }

    #[test]
    fn nothing_typed_changes_nothing() {
        let config = TrainConfig { lr: 1.0, eta: Some(0.3), max_steps: Some(4), ..TrainConfig::default() };
        assert_eq!(over("", config.clone()), config);
    }

    #[test]
    fn flags_override_the_file() {
        let file = TrainConfig { model: Some("a/b".into()), max_steps: Some(4), ..TrainConfig::default() };
        let got =
            over("--from-config c.json --tokenizer t --epochs 2 --eta 0.3 --betas 0.8,0.95", file.clone());
        assert_eq!((got.model, got.max_steps, got.epochs), (None, None, 2));
        assert_eq!((got.eta, got.betas), (Some(0.3), [0.8, 0.95]));
        let got = over(
            "--objective tailr --eval-every 20 --save-every epoch --scheduler cosine --no-shuffle",
            file,
        );
        assert_eq!((got.objective.to_string().as_str(), got.eval_every), ("tailr", Every::Steps(20)));
        assert!(got.no_shuffle && got.scheduler == ScheduleKind::Cosine && got.model.is_some());
    }

    #[test]
    fn parameters_with_the_name_override_the_file_and_its_keys() {
        let file = TrainConfig { eta: Some(0.5), ..TrainConfig::default() };
        assert_eq!(over("--objective mixce:eta=0.3", file.clone()).resolved().eta, Some(0.3));
        assert_eq!(over("--objective mixce", file.clone()).resolved().eta, Some(0.5));
        let twice = over("--objective mixce:eta=0.3 --eta 0.4", file);
        assert!(twice.validate_settings().unwrap_err().to_string().contains("set the same parameter"));
    }

    #[test]
    fn every_key_of_a_file_has_a_flag() {
        let command = <Line as clap::CommandFactory>::command();
        let flags: Vec<String> = command.get_arguments().map(|a| a.get_id().to_string()).collect();
        let global = ["seed", "device", "threads"];
        for key in TrainConfig::keys().iter().filter(|key| !global.contains(key)) {
            assert!(flags.iter().any(|flag| flag == key), "`{key}` has no flag");
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        for line in [
            "--objective mixe",
            "--objective mixce:gamma=1",
            "--scheduler square",
            "--eval-every 0",
            "--betas 0.9",
        ] {
            assert!(Line::try_parse_from(std::iter::once("x").chain(line.split(' '))).is_err(), "{line}");
        }
    }
}
