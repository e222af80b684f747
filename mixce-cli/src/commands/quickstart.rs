//! `mixce quickstart`: why MixCE exists, in under two minutes and offline.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use mixce_synthetic::grammar::Noise;

use crate::context::Context;
use crate::progress;
use crate::quickstart::{self, Progress, Settings, free_folder};

/// Where the files go without `--out`.
const DEFAULT_FOLDER: &str = "runs/quickstart";

/// Offline demonstration: train by MLE and by MixCE on texts whose true distribution is known, and compare
///
/// A built-in grammar writes a corpus in which some texts carry a wrong word. A small GPT-2 learns it by MLE and is then
/// finetuned twice with one seed and budget: by MLE and by MixCE. Both are sampled as they are. Printed for each: perplexity
/// on clean held-out texts, the share of samples inside the grammar's support, their cross-entropy under the (smoothed)
/// grammar in nats a text, and their diversity; and for comparison the MLE model sampled at the temperature at which it is
/// as diverse as MixCE.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce quickstart\n         mixce quickstart --eta 0.1 --noise any-word --out runs/any-word"
)]
pub(crate) struct QuickstartArgs {
    /// Folder for corpus, models, samples, report and figure [default: runs/quickstart, or the next free runs/quickstart-N]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// MixCE's share of the forward cross-entropy, 0 to 1; 1 is MLE
    #[arg(long, value_name = "ETA", default_value_t = Settings::default().eta)]
    eta: f64,
    /// The kind of wrong word
    #[arg(long, value_enum, value_name = "KIND", default_value = "slip")]
    noise: NoiseKind,
    /// Share of the training texts that are drawn for a wrong word, 0 to 1
    #[arg(long, value_name = "P", default_value_t = Settings::default().noise_rate)]
    noise_rate: f64,
    /// Optimizer steps of the base model
    #[arg(long, value_name = "N", default_value_t = Settings::default().base_steps,
          value_parser = clap::value_parser!(u64).range(1..))]
    base_steps: u64,
    /// Optimizer steps of each finetuning
    #[arg(long, value_name = "N", default_value_t = Settings::default().finetune_steps,
          value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Training texts
    #[arg(long, value_name = "N", default_value_t = Settings::default().texts,
          value_parser = clap::value_parser!(u64).range(1..10_000_000))]
    texts: u64,
    /// Samples from each model
    #[arg(long, value_name = "N", default_value_t = Settings::default().samples,
          value_parser = clap::value_parser!(u64).range(1..10_000_000))]
    samples: u64,
}

/// `--noise`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum NoiseKind {
    /// A slip of the pen in a function word (she for he, is for are): likely where the right word is all but certain
    Slip,
    /// Any word of the lexicon in place of another: each error is rare everywhere
    AnyWord,
}

impl From<NoiseKind> for Noise {
    fn from(kind: NoiseKind) -> Self {
        match kind {
            NoiseKind::Slip => Self::Slip,
            NoiseKind::AnyWord => Self::AnyWord,
        }
    }
}

pub(crate) fn run(args: &QuickstartArgs, context: &Context) -> Result<()> {
    let settings = Settings {
        seed: context.seed(),
        eta: args.eta,
        noise: args.noise.into(),
        noise_rate: args.noise_rate,
        base_steps: args.base_steps,
        finetune_steps: args.steps,
        texts: args.texts,
        samples: args.samples,
        ..Settings::default()
    };
    let out = args.out.clone().unwrap_or_else(|| free_folder(Path::new(DEFAULT_FOLDER)));
    let device = context.start()?;
    let report = quickstart::run(&settings, &out, &device, &mut Bars::default())?;
    context.output.either(&report, || report.to_text(&out))
}

/// One progress bar a stage.
#[derive(Default)]
struct Bars {
    current: Option<ProgressBar>,
}

impl Progress for Bars {
    fn begin(&mut self, stage: &str, total: u64) {
        let bar = progress::bar(total, stage);
        bar.set_position(0);
        self.current = Some(bar);
    }

    fn update(&mut self, done: u64, note: &str) {
        if let Some(bar) = &self.current {
            bar.set_position(done);
            bar.set_message(note.to_owned());
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}
