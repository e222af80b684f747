//! The paper's evaluation of a model: several continuations of human documents, with several sampling methods.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mixce_base::files::{AtomicFile, remove_stale};
use mixce_lm::generate::Finish;
use mixce_lm::sampling::Sampling;
use mixce_train::data::cache::encode_input;
use mixce_train::data::{EncodeSettings, Input, TokenStore};
use serde::Serialize;
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
use crate::{interrupt, progress};

/// Tokens of a prompt, as in the paper.
const PROMPT_TOKENS: usize = 50;
/// Samples per document, as in the paper.
const RUNS: usize = 3;
/// A document to continue.
#[derive(Debug)]
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

pub(super) fn run(args: &GenerateArgs, input: &Input, grid: &[Sampling], context: &Context) -> Result<()> {
    let out = args.out.as_deref().context("`--documents` needs `--out`, a folder")?;
    let name = args.name.clone().unwrap_or_else(|| input.stem());
    require_plain_name(&name)?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create `{}`", out.display()))?;
    let _lock = Lock::take(&out.join(&name))?;
    let prefix = format!("{name}.");
    remove_stale(out, &|target| target.starts_with(&prefix))?;
    let record = Record::new(out, &name, args.resume);
    record.require_usable()?;

    let device = context.start()?;
    let loaded = models::load(&args.model, args.tokenizer.as_deref(), &device)?;
    let stop = interrupt::install("whole batches are kept, `--resume` continues after them");
    let lengths = lengths(args, loaded.model.spec().positions)?;
    let encoding = EncodeSettings { max_length: Some(lengths.max_length), add_bos: false };
    let store = encode_input(input, &loaded.tokenizer, encoding, stop)?;
    let (documents, skipped) = documents(&store, lengths);
    let longer = lengths.prompt_tokens;
    if documents.is_empty() {
        let problem = format!("`{}`: no document has more than {longer} tokens", input.name());
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
        "prompt_length": lengths.prompt_tokens,
        "max_length": lengths.max_length,
        "compat": args.compat,
        "authors_batch_size": lengths.authors_batch,
        "precision": args.precision,
        "ends": loaded.ends,
        "seed": context.seed(),
    });
    record.keep(&settings)?;
    write_human(&out.join(format!("{name}.human")), &documents, longer, &loaded)?;
    let runs = args.num_samples.unwrap_or(if args.greedy { 1 } else { RUNS });
    let path = |ending: String| out.join(format!("{name}.{ending}"));
    let jobs: Vec<Job> = grid
        .iter()
        .flat_map(|sampling| (0..runs).map(move |run| (sampling.clone(), run)))
        .map(|(sampling, run)| Job {
            path: path(ending(&sampling, run)),
            sampling,
            run,
            seed: context.seed().wrapping_add(run as u64),
        })
        .collect();
    let decoder = loaded.model.into_decoder(args.precision.into())?;
    let sampler = Sampler {
        documents: &documents,
        prompt_tokens: longer,
        batch_size: args.batch_size,
        decoder: &*decoder,
        tokenizer: &loaded.tokenizer,
        ends: &loaded.ends,
    };
    let bar = progress::bar((jobs.len() * documents.len()) as u64, "samples");
    let mut files = Vec::new();
    for job in &jobs {
        files.push(FileReport::new(job, &sampler.samples(job, &bar)?));
    }
    bar.finish_and_clear();
    let report =
        Report { documents: documents.len(), skipped, cut: store.counts().truncated, files, settings };
    context.output.either(&report, || report.text())
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
