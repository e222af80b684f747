//! `mixce evaluate`: negative log-likelihood and perplexity of a file under a model.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::{Args, ValueEnum};
use mixce_core::objective::Mle;
use mixce_eval::perplexity::LikelihoodSums;
use mixce_lm::{ScoringOptions, Tokenizer};
use mixce_train::data::cache::{encode_input, open_or_build};
use mixce_train::data::{DataCounts, EncodeSettings, Examples, Input};
use mixce_train::distributed::{Launched, first_rank_first, require_same};
use mixce_train::evaluate::{DEFAULT_BATCH_TOKENS, Scored, evaluate_for_first_rank};
use serde::Serialize;
use serde_json::json;

use super::train::sources::{CACHED_FROM_BYTES, default_cache};
use crate::authors;
use crate::context::Context;
use crate::error::Problem;
use crate::files::{self, OutputFile};
use crate::positions::{DEFAULT_MAX_LENGTH, at_most};
use crate::precision::PrecisionArgs;
use crate::reading::ReadingArgs;
use crate::{interrupt, models, progress, ranks};

/// Perplexity and negative log-likelihood of a file under a model
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce evaluate --model runs/first --data test.txt --json\n\n\
    With a build with the feature mpi, `mpirun -n 4 mixce evaluate ...` divides the documents between processes and writes what one process\n\
    writes.")]
pub(crate) struct EvaluateArgs {
    /// Folder or GGUF file of a model, run folder (its best model), or hub id
    #[arg(long, alias = authors::MODEL, value_name = "MODEL")]
    model: String,
    /// Documents: files or patterns, or `-`; .txt (one per line), .jsonl, .csv, .tsv, .parquet, also .gz and .zst
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Write the log-probability (nats) of every token here, one JSON object per document
    #[arg(long, value_name = "FILE")]
    per_token: Option<PathBuf>,
    /// Replace an existing `--per-token` file
    #[arg(long)]
    overwrite: bool,
    /// Longest document in tokens, EOS included; longer ones are truncated [default: 512, or the model's context length if
    /// shorter]
    #[arg(long, alias = authors::MAX_LENGTH, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Concatenate documents into blocks of this many tokens; 0: do not
    #[arg(long, alias = authors::BLOCK_SIZE, default_value_t = 0, value_name = "TOKENS")]
    block_size: usize,
    /// Within blocks, restrict attention to a token's own document
    #[arg(long, requires = "block_size")]
    confine_attention: bool,
    /// Prepend the tokenizer's BOS to each document, or not [default: as the tokenizer's files ask]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    add_bos: Option<bool>,
    /// Condition on the first N tokens of each document without scoring them: the perplexity of continuations
    #[arg(long, alias = authors::PROMPT_LENGTH, default_value_t = 0, value_name = "TOKENS", conflicts_with_all = ["block_size", "confine_attention"])]
    prompt_length: usize,
    /// Average like another program: `authors` takes the mean of the token means of batches, in the data's order [default: the
    /// mean over tokens]
    #[arg(long, value_enum, value_name = "PROGRAM")]
    compat: Option<Compat>,
    /// Documents per batch of `--compat authors`
    #[arg(long, default_value_t = 32, value_name = "N", requires = "compat")]
    batch_size: usize,
    /// Tokens per forward pass; affects memory, not the result
    #[arg(long, default_value_t = DEFAULT_BATCH_TOKENS, value_name = "TOKENS")]
    batch_tokens: usize,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Folder or hub id of the tokenizer [default: the model's own]
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
    #[command(flatten)]
    patience: ranks::TimeoutArgs,
}

/// Values of `--compat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compat {
    /// The MixCE authors' scripts
    Authors,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    /// Mean of `-log q`, as `settings.compat` says.
    nll: f64,
    perplexity: f64,
    tokens: u64,
    documents: u64,
    /// Skipped: documents without text, documents without a token to predict, and bad rows.
    empty: u64,
    short: u64,
    bad: u64,
    /// The mean over tokens, if `nll` is another mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_nll: Option<f64>,
    settings: serde_json::Value,
}

pub(crate) fn run(args: &EvaluateArgs, context: &Context) -> Result<()> {
    if args.batch_size == 0 {
        return Err(Problem::new("`--batch-size`: expected at least 1, got `0`").into());
    }
    let launched = Launched::of_environment()?;
    let ranks = ranks::connect(launched, args.patience.timeout())?;
    let input = args.reading.open(&args.data)?;
    let per_token = args.per_token.as_ref().filter(|_| ranks.rank() == 0);
    if let Some(path) = per_token {
        files::refuse_existing(path, args.overwrite)?;
        files::refuse_input(path, input.paths())?;
    }
    let device = context.start_rank(None, ranks::threads(launched), launched.as_ref())?;
    let precision = args.precision.on(&device)?;
    let load = || models::load(&args.model, args.tokenizer.as_deref(), &device);
    let loaded = first_rank_first(&*ranks, load)?;
    let stop = interrupt::install("nothing is written");
    let positions = loaded.model.spec().positions;
    // In blocks documents are not truncated.
    let room = if args.block_size == 0 { positions } else { usize::MAX };
    // The last token of a document needs no position: an explicit length may be one more, and is checked per document.
    let max_length = at_most("--max-length", args.max_length, DEFAULT_MAX_LENGTH, room);
    let add_bos = args.add_bos.unwrap_or_else(|| loaded.tokenizer.opening().is_some());
    let settings = EncodeSettings {
        // As in training, documents that are concatenated into blocks stay whole.
        max_length: (args.block_size == 0).then_some(max_length),
        add_bos,
    };
    let encode = || examples(args, settings, &input, &loaded.tokenizer, stop);
    let examples = first_rank_first(&*ranks, encode)?;
    require_same(&*ranks, "data", examples.store().fingerprint().into())?;
    require_context(&input.name(), &examples, positions)?;

    let bar = progress::bar(examples.len() as u64, "documents");
    let claim = |path: &PathBuf| OutputFile::claim(path, args.overwrite);
    let mut per_token = per_token.map(claim).transpose()?;
    let mut sums = LikelihoodSums::new(args.batch_size);
    // `log_q` begins with the second token.
    let uncounted = match args.prompt_length {
        0 => 0,
        tokens => tokens - 1 + usize::from(add_bos),
    };
    // The library's callback cannot return our error; it is kept here.
    let mut failure = None;
    let mut on_example = |scored: Scored<'_>| {
        bar.set_position(scored.index as u64 + 1);
        sums.add(&scored.log_q[uncounted.min(scored.log_q.len())..]);
        if let (Some(file), None) = (&mut per_token, &failure) {
            let line = json!({"index": scored.index, "tokens": scored.tokens, "log_q": scored.log_q});
            failure = file.put(format!("{line}\n").as_bytes()).err();
        }
        Ok(())
    };
    let (model, options) =
        (&*loaded.model, ScoringOptions { batch_tokens: args.batch_tokens.max(1), precision });
    let all = evaluate_for_first_rank(&*ranks, model, &examples, &Mle, options, stop, &mut on_example)?;
    let leads = ranks.rank() == 0;
    ranks::disconnect(ranks);
    if !leads {
        return Ok(());
    }
    bar.finish_and_clear();
    if let Some(failure) = failure {
        return Err(failure);
    }
    if let Some(file) = per_token {
        file.finish()?;
    }
    let report = report(args, (max_length, add_bos), &sums, all.documents, examples.store().counts())?;
    context.output.either(&report, || report.text())
}

/// The documents, encoded, and truncated or concatenated according to the flags.
fn examples(
    args: &EvaluateArgs,
    settings: EncodeSettings,
    input: &Input,
    tokenizer: &Tokenizer,
    stop: &AtomicBool,
) -> Result<Examples> {
    // As in training, the tokens of a large file are cached on disk.
    let store = match default_cache().filter(|_| input.bytes().is_ok_and(|n| n >= CACHED_FROM_BYTES)) {
        Some(cache) => open_or_build(input, tokenizer, settings, &cache, stop)?,
        None => encode_input(input, tokenizer, settings, stop)?,
    };
    let truncated = store.counts().truncated;
    if let (1.., Some(max_length)) = (truncated, settings.max_length) {
        tracing::warn!("{truncated} documents were cut to {max_length} tokens (`--max-length`)");
    }
    Ok(match args.block_size {
        0 => Examples::documents(store),
        n if args.confine_attention => Examples::confined_blocks(store, n)?,
        n => Examples::blocks(store, n)?,
    })
}

fn report(
    args: &EvaluateArgs,
    (max_length, add_bos): (usize, bool),
    sums: &LikelihoodSums,
    documents: u64,
    data: DataCounts,
) -> Result<Report> {
    let of_tokens = sums.nll().ok_or_else(|| {
        let problem = format!("no document is longer than its prompt of {} tokens", args.prompt_length);
        Problem::new(problem).hint("choose a smaller `--prompt-length`")
    })?;
    // Documents no longer than the prompt have no scored token.
    let documents = if args.prompt_length == 0 { documents } else { sums.documents() };
    let (nll, token_nll) = match (args.compat, sums.mean_of_batch_means()) {
        (Some(Compat::Authors), Some(of_batches)) => (of_batches, Some(of_tokens)),
        _ => (of_tokens, None),
    };
    let settings = json!({
        "max_length": max_length,
        "block_size": args.block_size,
        "confine_attention": args.confine_attention,
        "add_bos": add_bos,
        "prompt_length": args.prompt_length,
        "compat": args.compat,
        "batch_size": args.compat.map(|_| args.batch_size),
        "precision": args.precision.precision,
    });
    let DataCounts { empty, short, bad, .. } = data;
    let (perplexity, tokens) = (nll.exp(), sums.tokens());
    Ok(Report { nll, perplexity, tokens, documents, empty, short, bad, token_nll, settings })
}

impl Report {
    fn text(&self) -> String {
        let Self { nll, perplexity, tokens, documents, empty, short, bad, .. } = self;
        let unit = if self.token_nll.is_some() { "mean of batch means" } else { "per token" };
        let left_out = match (empty, short, bad) {
            (0, 0, 0) => String::new(),
            _ => format!(" ({empty} empty, {short} without a target and {bad} bad ones left out)"),
        };
        format!(
            "nll         {nll:.4} nats {unit}\nperplexity  {perplexity:.3}\ntokens      {tokens}\ndocuments   {documents}{left_out}"
        )
    }
}

/// Refuses documents that exceed the model's context. (The last token of a document is only a target.)
fn require_context(name: &str, examples: &Examples, positions: usize) -> Result<()> {
    match (0..examples.len()).find(|&i| examples.length(i) > positions + 1) {
        None => Ok(()),
        Some(index) => {
            let tokens = examples.length(index);
            let problem = Problem::new(format!(
                "document {} of `{name}` has {tokens} tokens, but the model has {positions} positions (config key `n_positions` or `max_position_embeddings`)",
                index + 1
            ));
            let cut = positions + 1;
            Err(problem
                .hint(format!("cut documents with `--max-length {cut}` (and `--block-size {cut}` at most)"))
                .into())
        }
    }
}
