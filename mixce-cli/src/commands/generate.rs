//! `mixce generate`: samples from a model.

mod documents;
mod grid;
mod prompts;
mod record;
mod sample_file;
mod sampler;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_lm::Tokenizer;
use mixce_lm::generate::{Continuation, GenerateOptions, generate};
use mixce_lm::sampling::Sampling;
use mixce_train::config::Precision;
use mixce_train::distributed::{Communicator, Launched, apart, first_rank_first};

use super::evaluate::Compat;
use super::train::words;
use crate::authors;
use crate::context::Context;
use crate::error::Problem;
use crate::files::{self, OutputFile};
use crate::models::{self, LoadedModel};
use crate::reading::ReadingArgs;
use crate::{progress, ranks};
use prompts::Prompt;
use sample_file::Sample;

/// Sample from a model: unbiased by default, or with temperature, top-k, top-p, greedy
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce generate --model runs/first --prompts test.txt --prompt-length 50 --out samples.jsonl\n\n\
    A sample depends only on the model, its prompt, the seed and its index, not on the batch size. With a build with the feature mpi,\n\
    `mpirun -n 4 mixce generate ...` divides prompts or documents between processes and writes what one process writes.\n\n\
    The paper's evaluation, three samples per document and a grid of top-p, written to a folder:\n\
    mixce generate --model runs/first --documents valid.txt --name dev --out samples\n\
    mixce generate --model runs/first --documents valid.txt --name dev --out samples --resume --num-samples 1 --top-p 0.85,0.9,0.95"
)]
pub(crate) struct GenerateArgs {
    /// Folder or GGUF file of a model, run folder (its best model), or hub id
    #[arg(long, alias = authors::MODEL, value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    source: PromptSource,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Use only the first N tokens of each prompt [default: all; with --documents 50]
    #[arg(long, alias = authors::PROMPT_LENGTH, value_name = "TOKENS")]
    pub(crate) prompt_length: Option<usize>,
    /// Longest continuation in tokens
    #[arg(long, default_value_t = 128, value_name = "TOKENS", conflicts_with = "documents")]
    pub(crate) max_new_tokens: usize,
    /// Maximum length of prompt plus continuation, and of human texts, in tokens [default: 512, or the model's context length if
    /// shorter]
    #[arg(long, alias = authors::MAX_LENGTH, value_name = "TOKENS", requires = "documents")]
    max_length: Option<usize>,
    /// Imitate another program: `authors` limits samples to the longest document of their batch [default: to --max-length]
    #[arg(long, value_enum, value_name = "PROGRAM", requires = "documents")]
    compat: Option<Compat>,
    /// Divide the logits by this, above 0; 1: unbiased; several values with --documents [default: 1]
    #[arg(long, value_name = "T", value_delimiter = ',')]
    temperature: Vec<f64>,
    /// Sample from the K most likely tokens [default: all]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the most likely tokens whose probabilities sum to P, in (0, 1]; several values with --documents [default: all]
    #[arg(long, value_name = "P", value_delimiter = ',')]
    top_p: Vec<f64>,
    /// Take the most likely token instead of sampling
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p"])]
    greedy: bool,
    /// Samples per prompt [default: 1; with --documents 3]
    #[arg(long, value_name = "N")]
    num_samples: Option<usize>,
    /// Samples per batch; affects memory, not the texts (except with `--compat authors`)
    #[arg(long, default_value_t = 32, value_name = "N")]
    batch_size: usize,
    /// Output file: JSON lines if it ends in .jsonl or with --json, else text; with --documents a folder [default: stdout]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Replace an existing `--out` file
    #[arg(long, conflicts_with = "documents")]
    overwrite: bool,
    /// Prefix of the file names in the folder `--out` [default: the name of the data file]
    #[arg(long, value_name = "NAME", requires = "documents")]
    name: Option<String>,
    /// Continue the samples in the folder `--out`; more samples and sampling methods may be added
    #[arg(long, requires = "documents")]
    resume: bool,
    /// Folder or hub id of the tokenizer [default: the model's own]
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
    /// Number format of the operands of matrix products; bf16 needs a CPU with AVX512-BF16 or a GPU of compute capability 8.0
    #[arg(long, default_value = "f32", value_parser = words::<Precision>(&["f32", "bf16"]))]
    precision: Precision,
    #[command(flatten)]
    patience: ranks::TimeoutArgs,
}

/// Source of the prompts: exactly one is required.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PromptSource {
    /// File of prompts: one per line, or a table (.jsonl, .csv, ...) with a column `prompt`; `-` is standard input; blank prompts
    /// are skipped and not numbered
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// A prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Documents to continue from their first tokens, as in the paper's evaluation: files or patterns, or `-`
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "out")]
    documents: Vec<PathBuf>,
    /// N samples from the beginning-of-text token
    #[arg(long, value_name = "N")]
    unconditional: Option<usize>,
}

/// More samples or tokens than is practical; a larger number is a typo.
const MAX_COUNT: usize = 100_000_000;

pub(crate) fn run(args: &GenerateArgs, context: &Context) -> Result<()> {
    let grid = args.check()?;
    if !args.source.documents.is_empty() {
        return documents::run(args, &grid, context);
    }
    match grid.as_slice() {
        [sampling] => continue_prompts(args, sampling, context),
        _ => {
            let problem = Problem::new("`--temperature` and `--top-p`: several values need `--documents`");
            Err(problem.hint("run `mixce generate` once per value").into())
        }
    }
}

impl GenerateArgs {
    /// The sampling methods, after all checks of the flags' values.
    pub(crate) fn check(&self) -> Result<Vec<Sampling>> {
        require_counts(self)?;
        grid::grid(&self.temperature, self.top_k, &self.top_p, self.greedy)
    }
}

fn require_counts(args: &GenerateArgs) -> Result<()> {
    for (flag, value) in [
        ("--num-samples", args.num_samples.unwrap_or(1)),
        ("--batch-size", args.batch_size),
        ("--prompt-length", args.prompt_length.unwrap_or(1)),
        ("--unconditional", args.source.unconditional.unwrap_or(1)),
        ("--max-new-tokens", args.max_new_tokens),
        ("--max-length", args.max_length.unwrap_or(1)),
    ] {
        if value == 0 {
            return Err(Problem::new(format!("`{flag}`: expected at least 1, got `0`")).into());
        }
        if value > MAX_COUNT {
            return Err(Problem::new(format!("`{flag}`: expected at most {MAX_COUNT}, got `{value}`")).into());
        }
    }
    Ok(())
}

/// Continuations of prompts as lines. Of several processes each continues a part of the prompts, and the first writes.
fn continue_prompts(args: &GenerateArgs, sampling: &Sampling, context: &Context) -> Result<()> {
    let launched = Launched::of_environment()?;
    let ranks = ranks::connect(launched, args.patience.timeout())?;
    let texts = read_prompts(args, &*ranks)?;
    let claim = |out: &PathBuf| OutputFile::claim(out, args.overwrite);
    let mut file = args.out.as_ref().filter(|_| ranks.rank() == 0).map(claim).transpose()?;
    let device = context.start_rank(None, ranks::threads(launched), launched.as_ref())?;
    let load = || models::load(&args.model, args.tokenizer.as_deref(), &device);
    let loaded = first_rank_first(&*ranks, load)?;
    let prompts = match texts {
        Some(texts) => {
            prompts::encode(&texts, &loaded.tokenizer, args.prompt_length, loaded.model.spec().positions)?
        }
        None => vec![prompts::beginning(&loaded.tokenizer)?; args.source.unconditional.unwrap_or(1)],
    };
    let as_json = context.output.is_json()
        || args.out.as_ref().is_some_and(|out| out.extension().is_some_and(|e| e == "jsonl"));
    let own = || lines_of_rank(args, sampling, context, loaded, &prompts, &*ranks, as_json);
    let own = apart(&*ranks, own)?;
    for lines in ranks.all_gather(own.into_bytes())? {
        let lines = String::from_utf8_lossy(&lines);
        for line in lines.split_terminator('\n').filter(|_| ranks.rank() == 0) {
            match &mut file {
                None if as_json => context.output.json_line(line)?,
                None => context.output.text(line)?,
                Some(file) => file.put(format!("{line}\n").as_bytes())?,
            }
        }
    }
    file.map_or(Ok(()), OutputFile::finish)?;
    ranks::disconnect(ranks);
    Ok(())
}

/// The prompts, which rank 0 reads for all; `None` with `--unconditional`.
fn read_prompts(args: &GenerateArgs, ranks: &dyn Communicator) -> Result<Option<Vec<(String, String)>>> {
    let read = || -> Result<_> {
        if let Some(out) = &args.out {
            files::refuse_input(out, args.source.prompts.as_deref())?;
        }
        Ok(match (&args.source.prompts, &args.source.prompt) {
            (Some(path), _) => Some(prompts::read(path, &args.reading)?),
            (None, Some(prompt)) => Some(vec![("`--prompt`".to_owned(), prompt.clone())]),
            (None, None) => None,
        })
    };
    ranks::from_first(ranks, read)
}

/// The lines of this rank's samples: a consecutive part of all.
fn lines_of_rank(
    args: &GenerateArgs,
    sampling: &Sampling,
    context: &Context,
    loaded: LoadedModel,
    prompts: &[Prompt],
    ranks: &dyn Communicator,
    as_json: bool,
) -> Result<String> {
    let mut jobs: Vec<(u64, &Prompt)> = (0..)
        .zip(prompts.iter().flat_map(|p| std::iter::repeat_n(p, args.num_samples.unwrap_or(1))))
        .collect();
    let (all, rank, size) = (jobs.len(), ranks.rank(), ranks.size());
    jobs.truncate(all * (rank + 1) / size);
    jobs.drain(..all * rank / size);
    let numbered: Vec<(u64, &[u32])> = jobs.iter().map(|(i, p)| (*i, p.tokens.as_slice())).collect();
    let options = GenerateOptions {
        sampling: sampling.clone(),
        max_new_tokens: args.max_new_tokens,
        eos: loaded.ends.clone(),
        batch_size: args.batch_size,
        seed: context.seed(),
    };
    let decoder = loaded.model.into_decoder(args.precision.into())?;
    let bar = progress::bar(numbered.len() as u64, "samples");
    let samples = generate(&*decoder, &numbered, &options, &mut |ended, _| bar.inc(ended as u64))?;
    bar.finish_and_clear();
    let mut lines = String::new();
    for (sample, (_, prompt)) in samples.iter().zip(&jobs) {
        lines += &render(sample, prompt, &loaded.tokenizer, context.seed(), as_json)?;
        lines.push('\n');
    }
    Ok(lines)
}

/// One line: a JSON object, or prompt and continuation with line breaks replaced by spaces.
fn render(
    sample: &Continuation,
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    seed: u64,
    as_json: bool,
) -> Result<String> {
    let text = tokenizer.decode_plain(&sample.tokens)?;
    if as_json {
        return Ok(serde_json::to_string(&Sample {
            index: sample.index,
            prompt: prompt.text.clone(),
            text,
            tokens: sample.tokens.clone(),
            seed,
            finish: sample.finish,
        })?);
    }
    let whole = format!("{}{text}", prompt.text);
    Ok(whole.split(['\n', '\r']).map(str::trim_end).collect::<Vec<_>>().join(" "))
}
