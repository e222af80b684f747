//! Benchmark inputs: random tokens, or documents of a file.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_kernels::rng::{Stream, purpose};
use mixce_lm::ModelConfig;
use mixce_train::data::cache::encode_file;
use mixce_train::data::{EncodeSettings, Examples, Microbatch};
use serde::Serialize;

use super::model::Common;
use crate::error::{Problem, at_least};
use crate::models::{self, Network};
use crate::positions::{DEFAULT_MAX_LENGTH, at_most};

/// The flags of benchmarks that read whole sequences.
#[derive(Clone, Debug, Args, Serialize)]
pub(super) struct TextArgs {
    /// Tokens per sequence; with --data the longest document, EOS included (longer ones are truncated) [default: 512, or the
    /// model's context length if shorter]
    #[arg(long, value_name = "TOKENS")]
    pub(super) seq_len: Option<usize>,
    /// Use documents instead of random tokens: text (one per line) or .jsonl, repeated in the file's order
    #[arg(long, value_name = "FILE")]
    pub(super) data: Option<PathBuf>,
    /// Tokenizer of --data: folder or hub id [default: that of the --model-config folder]
    #[arg(long, value_name = "MODEL", requires = "data")]
    pub(super) tokenizer: Option<String>,
}

impl TextArgs {
    /// The same with an explicit length.
    pub(super) fn fitted(&self, config: &dyn ModelConfig) -> Self {
        let seq_len = at_most("--seq-len", self.seq_len, DEFAULT_MAX_LENGTH, config.spec().positions);
        Self { seq_len: Some(seq_len), ..self.clone() }
    }
}

/// A source of batches; batch `i` is always the same.
#[derive(Debug)]
pub(super) enum Batches {
    /// Sequences of random tokens, uniform over the vocabulary.
    Random {
        stream: Stream,
        batch_size: usize,
        /// One more than is read: the last token is only a target.
        length: usize,
        vocabulary: u64,
    },
    /// Documents in order, repeated.
    Documents { examples: Examples, batch_size: usize },
}

impl Batches {
    pub(super) fn new(common: &Common, args: &TextArgs, config: &dyn ModelConfig, seed: u64) -> Result<Self> {
        let seq_len = args.seq_len.unwrap_or(DEFAULT_MAX_LENGTH);
        common.check(config, "--seq-len", seq_len)?;
        let batch_size = common.batch_size;
        let Some(data) = &args.data else {
            let (stream, vocabulary) =
                (Stream::new(seed).fold(purpose::CORPUS), config.spec().vocabulary as u64);
            return Ok(Self::Random { stream, batch_size, length: seq_len + 1, vocabulary });
        };
        at_least("--seq-len", seq_len as u64, 2)?;
        let tokenizer = match (&args.tokenizer, common.model()?) {
            (Some(named), folder) => {
                models::tokenizer_for(Some(named), &folder.unwrap_or_default(), Network::Allowed)?
            }
            (None, Some(folder)) => models::tokenizer_for(None, &folder, Network::Allowed)?,
            (None, None) => {
                let problem = Problem::new("`--data` needs `--tokenizer`");
                return Err(problem
                    .hint("or a folder or GGUF file with a tokenizer as `--model-config`")
                    .into());
            }
        };
        tokenizer.check_vocabulary(config.spec().vocabulary);
        let settings = EncodeSettings::of(&tokenizer, Some(seq_len));
        let store = encode_file(data, &tokenizer, settings)?;
        store.require_vocabulary(config.spec().vocabulary)?;
        if store.is_empty() {
            let problem = format!("`{}` contains no document of two tokens or more", data.display());
            return Err(Problem::new(problem).into());
        }
        Ok(Self::Documents { examples: Examples::documents(store), batch_size })
    }

    /// Batch `index`, a sequence of `n` tokens giving `n - 1` inputs and as many targets.
    pub(super) fn get(&self, index: u64) -> Microbatch {
        let examples = match self {
            Self::Random { stream, batch_size, length, vocabulary } => {
                let of_batch = stream.fold(index);
                let token = |stream: Stream, i| stream.below(i, *vocabulary) as u32;
                let sequence = |stream: Stream| (0..*length as u64).map(|i| token(stream, i)).collect();
                (0..*batch_size as u64).map(|row| sequence(of_batch.fold(row))).collect()
            }
            Self::Documents { examples, batch_size } => {
                let first = index.wrapping_mul(*batch_size as u64);
                let document =
                    |i: u64| examples.get((first.wrapping_add(i) % examples.len() as u64) as usize);
                (0..*batch_size as u64).map(document).collect()
            }
        };
        Microbatch { examples }
    }
}

/// The number of inputs of each sequence of a batch: one less than its tokens.
pub(super) fn input_lengths(batch: &Microbatch) -> impl Iterator<Item = usize> {
    batch.examples.iter().map(|example| example.len() - 1)
}
