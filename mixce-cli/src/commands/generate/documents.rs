//! The paper's evaluation of a model: several continuations of human documents, with several sampling methods.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use mixce_base::files::{AtomicFile, remove_stale};
use mixce_lm::generate::Finish;
use mixce_lm::sampling::Sampling;
use mixce_train::data::cache::encode_input;
use mixce_train::data::{EncodeSettings, Input, TokenStore};
use mixce_train::distributed::{Launched, first_rank_first, lead};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::GenerateArgs;
use super::grid::ending;
use super::record::Record;
use super::sample_file::Sample;
use super::sampler::{Job, Sampler, one_line};
use crate::commands::evaluate::Compat;
use crate::context::Context;
use crate::error::Problem;
use crate::files::Lock;
use crate::models::{self, LoadedModel};
use crate::output::table;
use crate::positions::{DEFAULT_MAX_LENGTH, fitted};
use crate::{interrupt, progress, ranks};

/// Tokens of a prompt, as in the paper.
const PROMPT_TOKENS: usize = 50;
/// Samples per document, as in the paper.
const RUNS: usize = 3;
/// A document to continue.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    /// Its index in the data.
    pub(super) index: u64,
    /// Its tokens without EOS, truncated to the maximum length.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the prompt plus the longest continuation.
    pub(super) length_tokens: usize,
}

/// What a sample depends on besides its document, the seed and the sampling method.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    prompt_tokens: usize,
    max_length: usize,
    /// Documents per batch, if samples are limited to the longest document of their batch.
    authors_batch: Option<usize>,
}

/// The documents longer than a prompt, and the number of others.
fn documents(store: &TokenStore, lengths: Lengths) -> (Vec<Document>, usize) {
    let tokens: Vec<Vec<u32>> = (0..store.len()).map(|i| store.document(i)).collect();
    let length_of = |i: usize| match lengths.authors_batch {
        None => lengths.max_length,
        Some(size) => {
            let batch = &tokens[i / size * size..tokens.len().min((i / size + 1) * size)];
            batch.iter().map(Vec::len).max().unwrap_or(0).max(lengths.prompt_tokens + 1)
        }
    };
    let mut documents = Vec::new();
    for (i, all) in tokens.iter().enumerate() {
        let text = &all[..all.len() - 1];
        if text.len() > lengths.prompt_tokens {
            documents.push(Document { index: i as u64, tokens: text.to_vec(), length_tokens: length_of(i) });
        }
    }
    let skipped = tokens.len() - documents.len();
    (documents, skipped)
}

/// The files of one name in the folder `--out`, which this process alone writes.
struct Claim<'a> {
    out: &'a Path,
    name: String,
    input: Input,
    record: Record,
    _lock: Lock,
}

/// What the first process reads for all.
#[derive(Debug, Serialize, Deserialize)]
struct Corpus {
    /// The prefix of the files' names.
    name: String,
    documents: Vec<Document>,
    prompt_tokens: usize,
    /// Documents that are too short, and those that are truncated.
    skipped: usize,
    cut: u64,
    settings: Value,
}

impl<'a> Claim<'a> {
    fn take(args: &GenerateArgs, out: &'a Path) -> Result<Self> {
        let input = args.reading.open(&args.source.documents)?;
        let name = args.name.clone().unwrap_or_else(|| input.stem());
        require_plain_name(&name)?;
        std::fs::create_dir_all(out).with_context(|| format!("cannot create `{}`", out.display()))?;
        let lock = Lock::take(&out.join(&name))?;
        let prefix = format!("{name}.");
        remove_stale(out, &|target| target.starts_with(&prefix))?;
        let record = Record::new(out, &name, args.resume);
        record.require_usable()?;
        Ok(Self { out, name, input, record, _lock: lock })
    }

    /// Reads the documents, and writes the settings and the human texts.
    fn begin(
        &self,
        args: &GenerateArgs,
        loaded: &LoadedModel,
        seed: u64,
        stop: &AtomicBool,
    ) -> Result<Corpus> {
        let lengths = lengths(args, loaded.model.spec().positions)?;
        let encoding = EncodeSettings { max_length: Some(lengths.max_length), add_bos: false };
        let store = encode_input(&self.input, &loaded.tokenizer, encoding, stop)?;
        let (documents, skipped) = documents(&store, lengths);
        let longer = lengths.prompt_tokens;
        if documents.is_empty() {
            let problem = format!("`{}`: no document has more than {longer} tokens", self.input.name());
            return Err(Problem::new(problem).hint("choose a smaller `--prompt-length`").into());
        }
        if skipped > 0 {
            tracing::warn!(
                "{skipped} documents of at most {longer} tokens are skipped: nothing follows the prompt"
            );
        }
        let settings = json!({
            "model": args.model,
            "model_sha256": loaded.model.fingerprint()?,
            "tokenizer_sha256": loaded.tokenizer.fingerprint()?,
            "documents_sha256": store.fingerprint(),
            "prompt_length": longer,
            "max_length": lengths.max_length,
            "compat": args.compat,
            "authors_batch_size": lengths.authors_batch,
            "precision": args.precision,
            "ends": loaded.ends,
            "seed": seed,
        });
        self.record.keep(&settings)?;
        let (out, name, cut) = (self.out, self.name.clone(), store.counts().truncated);
        write_human(&out.join(format!("{name}.human")), &documents, longer, loaded)?;
        Ok(Corpus { name, documents, prompt_tokens: longer, skipped, cut, settings })
    }
}

/// Of several processes each continues a part of the documents; the first one reads and writes.
pub(super) fn run(args: &GenerateArgs, grid: &[Sampling], context: &Context) -> Result<()> {
    let out = args.out.as_deref().context("`--documents` needs `--out`, a folder")?;
    let launched = Launched::of_environment()?;
    let ranks = ranks::connect(launched, args.patience.timeout())?;
    let claim = lead(&*ranks, || Claim::take(args, out))?;
    let device = context.start_rank(None, ranks::threads(launched), launched.as_ref())?;
    let load = || models::load(&args.model, args.tokenizer.as_deref(), &device);
    let loaded = first_rank_first(&*ranks, load)?;
    let promise = "whole batches are kept, `--resume` continues after them";
    let stop = interrupt::install(if claim.is_some() { promise } else { "" });
    let begin = || {
        let claim = claim.as_ref().context("only the first process reads")?;
        claim.begin(args, &loaded, context.seed(), stop)
    };
    let Corpus { name, documents, prompt_tokens, skipped, cut, settings } =
        ranks::from_first(&*ranks, begin)?;
    let decoder = loaded.model.into_decoder(args.precision.into())?;
    let sampler = Sampler {
        documents: &documents,
        prompt_tokens,
        batch_size: args.batch_size,
        decoder: &*decoder,
        tokenizer: &loaded.tokenizer,
        ends: &loaded.ends,
        ranks: &*ranks,
    };
    let jobs = jobs(args, grid, &out.join(&name), context.seed());
    let bar = progress::bar((jobs.len() * documents.len()) as u64, "samples");
    let mut files = Vec::new();
    for job in &jobs {
        files.extend(sampler.samples(job, &bar)?.map(|samples| FileReport::new(job, &samples)));
    }
    bar.finish_and_clear();
    ranks::disconnect(ranks);
    if claim.is_none() {
        return Ok(());
    }
    let report = Report { documents: documents.len(), skipped, cut, files, settings };
    context.output.either(&report, || report.text())
}

/// A job for each sampling method and run; the files' names begin with `prefix`.
fn jobs(args: &GenerateArgs, grid: &[Sampling], prefix: &Path, seed: u64) -> Vec<Job> {
    let runs = args.num_samples.unwrap_or(if args.greedy { 1 } else { RUNS });
    let each = grid.iter().flat_map(|sampling| (0..runs).map(move |run| (sampling.clone(), run)));
    let job = |(sampling, run): (Sampling, usize)| {
        let mut path = prefix.as_os_str().to_owned();
        path.push(format!(".{}", ending(&sampling, run)));
        Job { path: path.into(), sampling, run, seed: seed.wrapping_add(run as u64) }
    };
    each.map(job).collect()
}

fn lengths(args: &GenerateArgs, positions: usize) -> Result<Lengths> {
    let max_length = fitted("--max-length", args.max_length, DEFAULT_MAX_LENGTH, positions)?;
    let prompt_tokens = args.prompt_length.unwrap_or_else(|| prompt_within(max_length));
    if max_length <= prompt_tokens + 1 {
        let problem = format!(
            "`--max-length {max_length}` leaves no room after a prompt of {prompt_tokens} tokens and EOS"
        );
        return Err(Problem::new(problem).hint("raise it, or lower `--prompt-length`").into());
    }
    let authors_batch = (args.compat == Some(Compat::Authors)).then_some(args.batch_size);
    Ok(Lengths { prompt_tokens, max_length, authors_batch })
}

/// The default prompt length: the paper's, or half of the maximum length if that has no room for it, with a log line.
fn prompt_within(max_length: usize) -> usize {
    if max_length > PROMPT_TOKENS + 1 {
        return PROMPT_TOKENS;
    }
    let half = max_length / 2;
    tracing::warn!(
        "`--prompt-length` is {half}, half of `--max-length {max_length}`, which has no room for the default of {PROMPT_TOKENS}"
    );
    half
}

/// A name is a prefix of file names in the output folder, so it must not contain path separators.
fn require_plain_name(name: &str) -> Result<()> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    if plain {
        return Ok(());
    }
    Err(Problem::new(format!("`--name`: expected a word that can begin a file name, got `{name}`")).into())
}

/// Writes the human texts in the same formats as the samples: `NAME.human` and `NAME.human.jsonl`.
fn write_human(path: &Path, documents: &[Document], prompt: usize, loaded: &LoadedModel) -> Result<()> {
    let (mut text, mut rows) =
        (AtomicFile::create(path)?, AtomicFile::create(&path.with_extension("human.jsonl"))?);
    for document in documents {
        let (prompt, rest) = document.tokens.split_at(prompt);
        let decode = |tokens: &[u32]| loaded.tokenizer.decode_plain(tokens);
        let row = json!({"index": document.index, "prompt": decode(prompt)?, "text": decode(rest)?});
        rows.put(format!("{row}\n").as_bytes())?;
        text.put((one_line(&decode(&document.tokens)?) + "\n").as_bytes())?;
    }
    text.finish()?;
    Ok(rows.finish()?)
}

/// A finished file.
#[derive(Debug, Serialize)]
struct FileReport {
    path: PathBuf,
    #[serde(flatten)]
    sampling: Sampling,
    run: usize,
    seed: u64,
    samples: usize,
    mean_new_tokens: f64,
    /// Share of the samples that ended with EOS.
    eos: f64,
}

impl FileReport {
    fn new(job: &Job, samples: &[Sample]) -> Self {
        let n = samples.len() as f64;
        let ended = samples.iter().filter(|sample| sample.finish == Finish::Eos).count();
        Self {
            path: job.path.clone(),
            sampling: job.sampling.clone(),
            run: job.run,
            seed: job.seed,
            samples: samples.len(),
            mean_new_tokens: samples.iter().map(|sample| sample.tokens.len()).sum::<usize>() as f64 / n,
            eos: ended as f64 / n,
        }
    }
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    documents: usize,
    skipped: usize,
    cut: u64,
    files: Vec<FileReport>,
    settings: Value,
}

impl Report {
    fn text(&self) -> String {
        let head = ["file", "samples", "new tokens", "ended"].map(str::to_owned).to_vec();
        let rows = self.files.iter().map(|file| {
            vec![
                file.path.display().to_string(),
                file.samples.to_string(),
                format!("{:.1}", file.mean_new_tokens),
                format!("{:.1} %", 100.0 * file.eos),
            ]
        });
        table(&std::iter::once(head).chain(rows).collect::<Vec<_>>(), &[false, true, true, true])
    }
}
