//! `mixce evaluate`: negative log-likelihood and perplexity of a file under a model.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_core::objective::Mle;
use mixce_train::data::cache::{encode_input, open_or_build};
use mixce_train::data::{EncodeSettings, Examples};
use mixce_train::evaluate::{DEFAULT_BATCH_TOKENS, Scored, evaluate};
use serde_json::json;

use super::train::sources::{CACHED_FROM_BYTES, default_cache};
use crate::authors;
use crate::context::Context;
use crate::error::Problem;
use crate::files::{self, AtomicFile};
use crate::reading::ReadingArgs;
use crate::{models, progress};

/// Perplexity and negative log-likelihood of a file under a model
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce evaluate --model runs/first --data test.txt --json")]
pub(crate) struct EvaluateArgs {
    /// Folder of a model, run folder (its best model), or hub id
    #[arg(long, alias = authors::MODEL, value_name = "MODEL")]
    model: String,
    /// Documents: files or patterns, or `-`; .txt (one a line), .jsonl, .csv, .tsv, .parquet, also .gz and .zst
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Write the log-probability (nats) of every token here, one JSON object a document
    #[arg(long, value_name = "FILE")]
    per_token: Option<PathBuf>,
    /// Replace an existing `--per-token` file
    #[arg(long)]
    overwrite: bool,
    /// Longest document in tokens, EOS included; the rest is cut
    #[arg(long, alias = authors::MAX_LENGTH, default_value_t = 512, value_name = "TOKENS")]
    max_length: usize,
    /// Glue documents into blocks of this many tokens; 0: do not
    #[arg(long, alias = authors::BLOCK_SIZE, default_value_t = 0, value_name = "TOKENS")]
    block_size: usize,
    /// Within blocks, let attention see a token's own document only
    #[arg(long, requires = "block_size")]
    confine_attention: bool,
    /// Put the tokenizer's BOS before each document
    #[arg(long)]
    add_bos: bool,
    /// Tokens that go through the model together; memory only, the numbers do not depend on it
    #[arg(long, default_value_t = DEFAULT_BATCH_TOKENS, value_name = "TOKENS")]
    batch_tokens: usize,
    /// Folder or hub id of the tokenizer [default: the model's own]
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
}

pub(crate) fn run(args: &EvaluateArgs, context: &Context) -> Result<()> {
    if let Some(path) = &args.per_token {
        files::refuse_existing(path, args.overwrite)?;
    }
    let device = context.start()?;
    let loaded = models::load(&args.model, args.tokenizer.as_deref(), &device)?;
    // As in training, documents that are glued into blocks are glued whole.
    let max_length = (args.block_size == 0).then_some(args.max_length);
    let settings = EncodeSettings { max_length, add_bos: args.add_bos };
    let input = args.reading.open(&args.data)?;
    // As in training, the tokens of a large file go to disk and not into memory.
    let store = match default_cache().filter(|_| input.bytes().is_ok_and(|n| n >= CACHED_FROM_BYTES)) {
        Some(cache) => open_or_build(&input, &loaded.tokenizer, settings, &cache)?,
        None => encode_input(&input, &loaded.tokenizer, settings)?,
    };
    let truncated = store.counts().truncated;
    if truncated > 0 {
        tracing::warn!("{truncated} documents were cut to {} tokens (`--max-length`)", args.max_length);
    }
    let examples = match args.block_size {
        0 => Examples::documents(store),
        n if args.confine_attention => Examples::confined_blocks(store, n)?,
        n => Examples::blocks(store, n)?,
    };
    require_context(&input.name(), &examples, loaded.model.config().n_positions)?;

    let bar = progress::bar(examples.len() as u64, "documents");
    let mut per_token = args.per_token.as_deref().map(AtomicFile::create).transpose()?;
    // An error of ours cannot pass through the library's callback; it is kept here.
    let mut failure = None;
    let mut on_example = |scored: Scored<'_>| {
        bar.set_position(scored.index as u64 + 1);
        if let (Some(file), None) = (&mut per_token, &failure) {
            let line = json!({"index": scored.index, "tokens": scored.tokens, "log_q": scored.log_q});
            failure = file.write(format!("{line}\n").as_bytes()).err();
        }
        Ok(())
    };
    let result = evaluate(&loaded.model, &examples, &Mle, args.batch_tokens.max(1), &mut on_example)?;
    bar.finish_and_clear();
    if let Some(failure) = failure {
        return Err(failure);
    }
    if let Some(file) = per_token {
        file.finish()?;
    }
    context.output.either(&result, || {
        format!(
            "nll         {:.4} nats per token\nperplexity  {:.3}\ntokens      {}\ndocuments   {}",
            result.nll, result.perplexity, result.tokens, result.documents
        )
    })
}

/// Refuses documents that the model has no positions for. (The last token of a document is a target only.)
fn require_context(name: &str, examples: &Examples, positions: usize) -> Result<()> {
    match (0..examples.len()).find(|&i| examples.length(i) > positions + 1) {
        None => Ok(()),
        Some(index) => {
            let tokens = examples.length(index);
            let problem = Problem::new(format!(
                "document {} of `{name}` has {tokens} tokens, but the model has {positions} positions (config key `n_positions`)",
                index + 1
            ));
            let cut = positions + 1;
            Err(problem
                .hint(format!("cut documents with `--max-length {cut}` (and `--block-size {cut}` at most)"))
                .into())
        }
    }
}
