//! `mixce bench generate`.

use anyhow::Result;
use clap::Args;
use mixce_kernels::rng::{Stream, purpose};
use mixce_lm::generate::{GenerateOptions, generate};
use mixce_lm::sampling::Sampling;
use mixce_lm::{Parameters, flops};
use mixce_train::config::Precision;
use serde_json::json;

use super::measure::{Step, steps};
use super::model::Common;
use super::report::{Measured, print};
use crate::commands::train::words;
use crate::context::Context;
use crate::error::{Problem, at_least};
use crate::positions::at_most;
use crate::speed::timed;

/// Default tokens of a prompt, if the model's context length permits.
const PROMPT_TOKENS: usize = 50;
/// Default tokens of a continuation, likewise.
const NEW_TOKENS: usize = 64;

/// Measure sampling: unbiased continuations of random prompts, one batch at a time
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce bench generate --model-config gpt2 --batch-size 32 --prompt-len 50 --new-tokens 64 --threads 2 --json\n\n\
    Tokens are new tokens; the time includes processing the prompts. The end-of-text token does not end a sample here, so that\n\
    every sequence has its full length. A step is one batch from prompts to finished continuations."
)]
pub(super) struct GenerateBench {
    #[command(flatten)]
    common: Common,
    /// Tokens per prompt [default: 50, or half of the sequence if fewer]
    #[arg(long, value_name = "TOKENS")]
    prompt_len: Option<usize>,
    /// Tokens per continuation [default: 64, or as many as the model's context length permits]
    #[arg(long, value_name = "TOKENS")]
    new_tokens: Option<usize>,
    /// Tokens of prompt plus continuation, instead of --new-tokens
    #[arg(long, value_name = "TOKENS", conflicts_with = "new_tokens")]
    seq_len: Option<usize>,
    /// Number format of the operands of matrix products; bf16 needs a CPU with AVX512-BF16 or a GPU of compute capability 8.0
    #[arg(long, default_value = "f32", value_parser = words::<Precision>(&["f32", "bf16"]))]
    precision: Precision,
}

impl GenerateBench {
    /// Tokens of each prompt and each continuation; defaults are reduced to fit `positions`.
    fn lengths(&self, positions: usize) -> Result<(usize, usize)> {
        let half = self.seq_len.unwrap_or(positions) / 2;
        let prompt = at_most("--prompt-len", self.prompt_len, PROMPT_TOKENS, half.max(1));
        let Some(whole) = self.seq_len else {
            let room = positions.saturating_sub(prompt).max(1);
            return Ok((prompt, at_most("--new-tokens", self.new_tokens, NEW_TOKENS, room)));
        };
        match whole.checked_sub(prompt) {
            Some(rest) if rest > 0 => Ok((prompt, rest)),
            _ => {
                let problem =
                    format!("`--seq-len {whole}`: expected more than the {prompt} tokens of the prompt");
                Err(Problem::new(problem).hint("shorten it with `--prompt-len`").into())
            }
        }
    }
}

pub(super) fn run(args: &GenerateBench, context: &Context) -> Result<()> {
    let (seed, batch_size) = (context.seed(), args.common.batch_size);
    let config = args.common.model_config()?;
    let (prompt_len, new_tokens) = args.lengths(config.spec().positions)?;
    at_least("--prompt-len", prompt_len as u64, 1)?;
    at_least("--new-tokens", new_tokens as u64, 1)?;
    let whole = prompt_len.saturating_add(new_tokens);
    args.common.check(&*config, "--prompt-len plus --new-tokens", whole)?;

    let device = context.start()?;
    let parameters = Parameters::random(&*config, seed, &device)?;
    let count = parameters.element_count();
    let decoder = config.build(parameters)?.into_decoder(args.precision.into())?;
    let vocabulary = config.spec().vocabulary as u64;
    let options = GenerateOptions {
        sampling: Sampling::default(),
        max_new_tokens: new_tokens,
        eos: Vec::new(),
        batch_size,
        seed,
    };
    let stream = Stream::new(seed).fold(purpose::CORPUS);
    let steps = steps(&args.common, |index| {
        let token = |row: u64, i| stream.fold(index).fold(row).below(i, vocabulary) as u32;
        let prompt = |row: u64| (0..prompt_len as u64).map(|i| token(row, i)).collect();
        let prompts: Vec<Vec<u32>> = (0..batch_size as u64).map(prompt).collect();
        let first = index.wrapping_mul(batch_size as u64);
        let numbered = (0u64..).zip(&prompts).map(|(i, prompt)| (first.wrapping_add(i), prompt.as_slice()));
        let numbered: Vec<(u64, &[u32])> = numbered.collect();
        let (texts, seconds) =
            timed(&device, || Ok(generate(&*decoder, &numbered, &options, &mut |_, _| ())?))?;
        let tokens: usize = texts.iter().map(|text| text.tokens.len()).sum();
        // The last new token is not fed back.
        let flops = flops::forward(&*config, vec![whole - 1; batch_size], tokens);
        Ok(Step { tokens: tokens as u64, flops, seconds })
    })?;
    let own = json!({
        "prompt_len": prompt_len,
        "new_tokens": new_tokens,
        "sampling": options.sampling,
        "eos": "an ordinary token",
        "precision": args.precision,
        "seed": seed,
    });
    let settings = vec![json!(args.common), own];
    let measured = Measured { bench: "generate", unit: "new tokens", steps, parameters: count, settings };
    print(measured, args.common.gflops, &device, context)
}
