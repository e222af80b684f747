//! `mixce generate`: samples from a model.

mod prompts;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_gpt2::Tokenizer;
use mixce_gpt2::generate::{Continuation, Finish, GenerateOptions, generate};
use mixce_gpt2::sampling::Sampling;
use serde::Serialize;

use crate::authors;
use crate::context::Context;
use crate::error::Problem;
use crate::files::{self, AtomicFile};
use crate::{models, progress};
use prompts::Prompt;

/// Sample from a model: unbiased by default, or with temperature, top-k, top-p, greedy
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce generate --model runs/first --prompts test.txt --prompt-length 50 --out samples.jsonl\n\n\
    A sample depends on the model, its prompt, the seed and its index alone, not on the batch size."
)]
pub(crate) struct GenerateArgs {
    /// Folder of a model, run folder (its best model), or hub id
    #[arg(long, alias = authors::MODEL, value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    source: PromptSource,
    /// Take only the first N tokens of each prompt [default: all]
    #[arg(long, alias = authors::PROMPT_LENGTH, value_name = "TOKENS")]
    pub(crate) prompt_length: Option<usize>,
    /// Longest continuation in tokens
    #[arg(long, default_value_t = 128, value_name = "TOKENS")]
    pub(crate) max_new_tokens: usize,
    /// Divide the logits by this, above 0; 1: the model as it is
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    temperature: f64,
    /// Choose among the K most likely tokens [default: all]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Choose among the most likely tokens that sum to probability P, in (0, 1] [default: all]
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Take the most likely token instead of sampling
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p"])]
    greedy: bool,
    /// Samples of each prompt
    #[arg(long, default_value_t = 1, value_name = "N")]
    num_samples: usize,
    /// Samples drawn at once; memory only, the texts do not depend on it
    #[arg(long, default_value_t = 32, value_name = "N")]
    batch_size: usize,
    /// File for the samples: JSON lines if it ends in .jsonl or with --json, else text [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace an existing `--out` file
    #[arg(long)]
    overwrite: bool,
    /// Folder or hub id of the tokenizer [default: the model's own]
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
}

/// Where the prompts come from: one of these is needed.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PromptSource {
    /// File of prompts: one a line, or .jsonl (objects with `prompt`)
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// A prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// N samples from the beginning-of-text token
    #[arg(long, value_name = "N")]
    unconditional: Option<usize>,
}

/// A sample as `--json` prints it.
#[derive(Debug, Serialize)]
struct Sample<'a> {
    index: u64,
    prompt: &'a str,
    text: String,
    tokens: &'a [u32],
    seed: u64,
    finish: Finish,
}

/// More samples or tokens than anyone waits for; above it a number is a slip.
const MAX_COUNT: usize = 100_000_000;

pub(crate) fn run(args: &GenerateArgs, context: &Context) -> Result<()> {
    let sampling =
        Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, greedy: args.greedy };
    sampling.validate()?;
    for (flag, value) in [
        ("--num-samples", args.num_samples),
        ("--batch-size", args.batch_size),
        ("--prompt-length", args.prompt_length.unwrap_or(1)),
        ("--unconditional", args.source.unconditional.unwrap_or(1)),
        ("--max-new-tokens", args.max_new_tokens),
    ] {
        if value == 0 {
            return Err(Problem::new(format!("`{flag}`: expected at least 1, got `0`")).into());
        }
        if value > MAX_COUNT {
            return Err(Problem::new(format!("`{flag}`: expected at most {MAX_COUNT}, got `{value}`")).into());
        }
    }
    if let Some(out) = &args.out {
        files::refuse_existing(out, args.overwrite)?;
    }
    let texts = match (&args.source.prompts, &args.source.prompt) {
        (Some(path), _) => Some(prompts::read(path)?),
        (None, Some(prompt)) => Some(vec![("`--prompt`".to_owned(), prompt.clone())]),
        (None, None) => None,
    };
    let device = context.start()?;
    let loaded = models::load(&args.model, args.tokenizer.as_deref(), &device)?;
    let prompts = match texts {
        Some(texts) => prompts::encode(&texts, &loaded.tokenizer, args.prompt_length, loaded.model.config())?,
        None => vec![prompts::beginning(&loaded.tokenizer)?; args.source.unconditional.unwrap_or(1)],
    };

    let jobs: Vec<(u64, &Prompt)> =
        (0..).zip(prompts.iter().flat_map(|p| std::iter::repeat_n(p, args.num_samples))).collect();
    let numbered: Vec<(u64, &[u32])> = jobs.iter().map(|(i, p)| (*i, p.tokens.as_slice())).collect();
    let options = GenerateOptions {
        sampling,
        max_new_tokens: args.max_new_tokens,
        eos: loaded.tokenizer.eos_id(),
        batch_size: args.batch_size,
        seed: context.seed(),
    };
    let bar = progress::bar(numbered.len() as u64, "samples");
    let samples = generate(&loaded.model, &numbered, &options, &mut |ended, _| bar.inc(ended as u64))?;
    bar.finish_and_clear();

    let as_json = context.output.is_json()
        || args.out.as_ref().is_some_and(|out| out.extension().is_some_and(|e| e == "jsonl"));
    let lines = samples
        .iter()
        .zip(&jobs)
        .map(|(sample, (_, prompt))| render(sample, prompt, &loaded.tokenizer, context.seed(), as_json));
    match &args.out {
        None => lines.into_iter().try_for_each(|line| context.output.line(&line?)),
        Some(out) => {
            let mut file = AtomicFile::create(out)?;
            lines.into_iter().try_for_each(|line| file.write(format!("{}\n", line?).as_bytes()))?;
            file.finish()
        }
    }
}

/// One line: a JSON object, or prompt and continuation with line breaks turned into spaces.
fn render(
    sample: &Continuation,
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    seed: u64,
    as_json: bool,
) -> Result<String> {
    let text = tokenizer.decode_plain(&sample.tokens)?;
    if as_json {
        let (index, tokens, finish) = (sample.index, sample.tokens.as_slice(), sample.finish);
        return Ok(serde_json::to_string(&Sample {
            index,
            prompt: &prompt.text,
            text,
            tokens,
            seed,
            finish,
        })?);
    }
    let whole = format!("{}{text}", prompt.text);
    Ok(whole.split(['\n', '\r']).map(str::trim_end).collect::<Vec<_>>().join(" "))
}
