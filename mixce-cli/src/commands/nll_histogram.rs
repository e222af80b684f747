//! `mixce nll-histogram`: negative log-likelihood of human and generated texts under a model, per text and per token.

mod figure;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use mixce_core::objective::Mle;
use mixce_data::{Input, ReadSettings};
use mixce_eval::histogram::{Bins, Summary};
use mixce_lm::ScoringOptions;
use mixce_train::data::cache::encode_input;
use mixce_train::data::{EncodeSettings, Examples};
use mixce_train::evaluate::{DEFAULT_BATCH_TOKENS, Scored, evaluate};
use serde::Serialize;
use serde_json::{Value, json};

use crate::authors;
use crate::context::Context;
use crate::error::Problem;
use crate::files::{self, OutputFile};
use crate::models::LoadedModel;
use crate::output::table;
use crate::positions::{DEFAULT_MAX_LENGTH, fitted};
use crate::precision::PrecisionArgs;
use crate::reading::ReadingArgs;
use crate::{interrupt, models, progress};

/// Maximum number of bins; a larger number is a typo.
const MAX_BINS: usize = 10_000;
/// Maximum default number of bins: more are indistinguishable in the figure.
const MAX_DEFAULT_BINS: usize = 100;

/// Histograms of the negative log-likelihood of human and generated texts under a model, as in figure 2 of the paper
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce nll-histogram --model runs/first --human samples/dev.human --generated samples/dev.sample --svg nll.svg\n\n\
    Texts are scored by the mean over their tokens, tokens individually, both in nats. EOS is not scored, because a truncated sample\n\
    has none. In .jsonl files a row's `prompt` and `continuation` (or `text`) are one text, as `mixce generate` writes them."
)]
pub(crate) struct NllHistogramArgs {
    /// Folder or GGUF file of a model, run folder (its best model), or hub id
    #[arg(long, alias = authors::MODEL, value_name = "MODEL")]
    model: String,
    /// Human texts: files or patterns, or `-`
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    human: Vec<PathBuf>,
    /// Generated texts; several files are pooled
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    generated: Vec<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Condition on the first N tokens of each text without scoring them: prompts of generated texts are human
    #[arg(long, alias = authors::PROMPT_LENGTH, default_value_t = 0, value_name = "TOKENS")]
    prompt_length: usize,
    /// Longest text in tokens; longer ones are truncated [default: 512, or the model's context length if shorter]
    #[arg(long, alias = authors::MAX_LENGTH, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Bins of each histogram [default: twice the cube root of the smaller set's size, at most 100]
    #[arg(long, value_name = "N")]
    bins: Option<usize>,
    /// Draw the histograms here
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace an existing `--svg` file
    #[arg(long)]
    overwrite: bool,
    /// Tokens per forward pass; affects memory, not the result
    #[arg(long, default_value_t = DEFAULT_BATCH_TOKENS, value_name = "TOKENS")]
    batch_tokens: usize,
    #[command(flatten)]
    precision: PrecisionArgs,
    /// Folder or hub id of the tokenizer [default: the model's own]
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
}

/// Negative log-likelihoods (nats) of a set of texts.
#[derive(Debug, Default)]
struct Likelihoods {
    /// The mean over the scored tokens of each text.
    texts: Vec<f64>,
    /// Each scored token.
    tokens: Vec<f64>,
    /// Texts without a scored token.
    too_short: u64,
    /// Truncated texts.
    cut: u64,
}

impl Likelihoods {
    fn add(&mut self, log_q: &[f32], uncounted: usize) {
        let text = &log_q[..log_q.len() - 1];
        let counted = &text[uncounted.min(text.len())..];
        if counted.is_empty() {
            self.too_short += 1;
            return;
        }
        let before = self.tokens.len();
        self.tokens.extend(counted.iter().map(|log_q| -f64::from(*log_q)));
        let own = &self.tokens[before..];
        self.texts.push(own.iter().sum::<f64>() / own.len() as f64);
    }
}

/// Both sets at one level, over common bins.
#[derive(Debug, Serialize)]
struct Level {
    /// Bin edges in nats, one more than bins.
    edges: Vec<f64>,
    human: Set,
    generated: Set,
}

/// One set at one level.
#[derive(Debug, Serialize)]
struct Set {
    counts: Vec<u64>,
    #[serde(flatten)]
    summary: Summary,
}

impl Level {
    /// `None` if a set is empty. The default number of bins is Rice's rule, `2 n^(1/3)` for the smaller set.
    fn of(human: &[f64], generated: &[f64], bins: Option<usize>) -> Option<Self> {
        let smaller = human.len().min(generated.len()) as f64;
        let bins = bins.unwrap_or_else(|| ((2.0 * smaller.cbrt()).ceil() as usize).min(MAX_DEFAULT_BINS));
        let bins = Bins::covering(human.iter().chain(generated).copied(), bins)?;
        let set = |values: &[f64]| {
            Some(Set { counts: bins.counts(values.iter().copied()), summary: Summary::of(values)? })
        };
        Some(Self { edges: bins.edges().to_vec(), human: set(human)?, generated: set(generated)? })
    }

    fn sets(&self) -> [(&'static str, &Set); 2] {
        [("human", &self.human), ("generated", &self.generated)]
    }
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    sequence: Level,
    token: Level,
    human: Value,
    generated: Value,
    settings: Value,
}

pub(crate) fn run(args: &NllHistogramArgs, context: &Context) -> Result<()> {
    if let Some(bins) = args.bins.filter(|bins| !(1..=MAX_BINS).contains(bins)) {
        return Err(Problem::new(format!("`--bins`: expected 1 to {MAX_BINS}, got `{bins}`")).into());
    }
    let settings = args.reading.over(ReadSettings { whole_samples: true, ..ReadSettings::default() });
    let human = Input::open(&args.human, settings.clone())?;
    let generated = Input::open(&args.generated, settings)?;
    if let Some(svg) = &args.svg {
        files::refuse_input(svg, human.paths().chain(generated.paths()))?;
    }
    let svg = args.svg.as_ref().map(|svg| OutputFile::claim(svg, args.overwrite)).transpose()?;
    let device = context.start()?;
    let precision = args.precision.on(&device)?;
    let loaded = models::load(&args.model, args.tokenizer.as_deref(), &device)?;
    let positions = loaded.model.spec().positions;
    let max_length = fitted("--max-length", args.max_length, DEFAULT_MAX_LENGTH, positions)?;
    let stop = interrupt::install("nothing is written");
    let options = ScoringOptions { batch_tokens: args.batch_tokens.max(1), precision };
    let of = |input: &Input| likelihoods((args.prompt_length, max_length), input, &loaded, options, stop);
    let (of_human, of_generated) = (of(&human)?, of(&generated)?);
    let level = |human: &[f64], generated: &[f64]| {
        Level::of(human, generated, args.bins).ok_or_else(|| {
            let least = args.prompt_length.max(1);
            Problem::new(format!("one of the sets has no text of more than {least} tokens"))
        })
    };
    let described = |input: &Input, of: &Likelihoods| {
        let paths: Vec<_> = input.paths().collect();
        json!({"files": paths, "texts": of.texts.len(), "tokens": of.tokens.len(), "too_short": of.too_short, "cut": of.cut})
    };
    let report = Report {
        sequence: level(&of_human.texts, &of_generated.texts)?,
        token: level(&of_human.tokens, &of_generated.tokens)?,
        human: described(&human, &of_human),
        generated: described(&generated, &of_generated),
        settings: json!({
            "model": args.model,
            "model_sha256": loaded.model.fingerprint()?,
            "prompt_length": args.prompt_length,
            "max_length": max_length,
            "bins": args.bins,
            "precision": args.precision.precision,
        }),
    };
    if let Some(mut file) = svg {
        file.put(figure::draw(&report.sequence, &report.token)?.as_bytes())?;
        file.finish()?;
    }
    context.output.either(&report, || report.text())
}

/// Scores the texts of some files.
fn likelihoods(
    (prompt_length, max_length): (usize, usize),
    input: &Input,
    loaded: &LoadedModel,
    options: ScoringOptions,
    stop: &AtomicBool,
) -> Result<Likelihoods> {
    // EOS is scored like any token, and then left out.
    let begins = usize::from(loaded.tokenizer.opening().is_some());
    let max_length = Some(max_length.saturating_add(1));
    let settings = EncodeSettings { max_length, add_bos: begins == 1 };
    let store = encode_input(input, &loaded.tokenizer, settings, stop)?;
    let mut likelihoods = Likelihoods { cut: store.counts().truncated, ..Likelihoods::default() };
    let examples = Examples::documents(store);
    let bar = progress::bar(examples.len() as u64, "texts");
    // `log_q` begins with the second token.
    let uncounted = match prompt_length {
        0 => 0,
        tokens => tokens - 1 + begins,
    };
    let mut on_example = |scored: Scored<'_>| {
        likelihoods.add(scored.log_q, uncounted);
        bar.set_position(scored.index as u64 + 1);
        if interrupt::is_requested() { Err(mixce_train::Error::Interrupted) } else { Ok(()) }
    };
    evaluate(&*loaded.model, &examples, &Mle, options, &mut on_example)?;
    bar.finish_and_clear();
    Ok(likelihoods)
}

impl Report {
    fn text(&self) -> String {
        let head = ["nll (nats) of", "", "n", "mean", "std", "5%", "25%", "50%", "75%", "95%"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (name, level) in [("texts, mean", &self.sequence), ("tokens", &self.token)] {
            for (set, Set { summary: s, .. }) in level.sets() {
                let mut row = vec![name.to_owned(), set.to_owned(), s.n.to_string()];
                row.extend([s.mean, s.std, s.p5, s.p25, s.median, s.p75, s.p95].map(|x| format!("{x:.3}")));
                rows.push(row);
            }
        }
        let mut right = [true; 10];
        right[..2].fill(false);
        table(&rows, &right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_and_the_prompt_do_not_count() {
        let mut all = Likelihoods::default();
        all.add(&[-1.0, -2.0, -6.0, -100.0], 0);
        assert_eq!((all.texts, all.tokens), (vec![3.0], vec![1.0, 2.0, 6.0]));
        let mut prompted = Likelihoods::default();
        // A prompt of three tokens: the second and third are known.
        prompted.add(&[-1.0, -2.0, -6.0, -100.0], 2);
        prompted.add(&[-1.0, -2.0, -100.0], 2);
        prompted.add(&[-100.0], 2);
        assert_eq!((prompted.texts, prompted.tokens, prompted.too_short), (vec![6.0], vec![6.0], 2));
    }

    #[test]
    fn both_sets_share_their_bins() {
        let level = Level::of(&[1.0, 2.0], &[3.0, 5.0, 4.0], Some(4)).unwrap();
        assert_eq!(level.edges, [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((level.human.counts, level.generated.counts), (vec![1, 1, 0, 0], vec![0, 0, 1, 2]));
        assert!(Level::of(&[], &[1.0], Some(4)).is_none() && Level::of(&[], &[1.0], None).is_none());
        let values: Vec<f64> = (0..1000).map(f64::from).collect();
        assert_eq!(Level::of(&values[..27], &values, None).unwrap().human.counts.len(), 6);
    }
}
