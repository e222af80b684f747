//! `mixce quickstart`: a demonstration of MixCE in under two minutes, offline.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use mixce_synthetic::grammar::Noise;

use crate::context::Context;
use crate::progress;
use crate::quickstart::{self, Progress, Settings, free_folder};

/// Default of `--out`.
const DEFAULT_FOLDER: &str = "runs/quickstart";

/// Offline demonstration: train with MLE and MixCE on texts with a known distribution, and compare
///
/// A built-in grammar generates a corpus in which some texts contain a wrong word. A small GPT-2 is trained on it with MLE and then
/// finetuned twice with the same seed and budget: with MLE and with MixCE. Both are sampled unbiased. Printed for each: perplexity
/// on clean held-out texts, the share of samples inside the grammar's support, their cross-entropy under the (smoothed)
/// grammar in nats per text, and their diversity; and as a control the MLE model sampled at the temperature at which it is
/// as diverse as MixCE.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce quickstart\n         mixce quickstart --eta 0.1 --noise any-word --out runs/any-word"
)]
pub(crate) struct QuickstartArgs {
    /// Folder for corpus, models, samples, report and figure [default: runs/quickstart, or the next free runs/quickstart-N]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// MixCE's weight of the forward cross-entropy, 0 to 1; 1 is MLE
    #[arg(long, value_name = "ETA", default_value_t = Settings::default().eta)]
    eta: f64,
    /// The kind of wrong word
    #[arg(long, value_enum, value_name = "KIND", default_value = "slip")]
    noise: NoiseKind,
    /// Share of training texts selected for a wrong word, 0 to 1
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
    /// Samples per model
    #[arg(long, value_name = "N", default_value_t = Settings::default().samples,
          value_parser = clap::value_parser!(u64).range(1..10_000_000))]
    samples: u64,
}

/// `--noise`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum NoiseKind {
    /// Another function word (she for he, is for are), where the right word is almost certain
    Slip,
    /// Any word of the lexicon replaces another: each error is rare everywhere
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

/// One progress bar per stage.
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
