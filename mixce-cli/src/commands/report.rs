//! `mixce report`: tables, figures and a page about training runs and sweeps.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_report::{Report, Resampling, Settings, Study};

use super::score::check_resampling;
use crate::context::Context;

/// Tables, figures and one self-contained page about training runs and sweeps, with the uncertainty of every comparison
///
/// Reads run folders (of `mixce train`) and sweep folders (of `mixce sweep`), complete or not, and changes nothing in them. The folder gets
/// index.html, which needs neither network nor scripts, tables/ (Markdown, CSV, LaTeX), figures/ (SVG) and report.json.
///
/// What is a mean over prompts (diversity, repetition, coherence, likelihood of a document) is compared with MLE and its controls by
/// resampling prompts; MAUVE, which is none, over seeds. Nothing is called better unless its interval says so after a correction for
/// the number of tests.
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce report sweeps/wiki --out reports/wiki\n         \
    mixce report runs/mle runs/mixce --out reports/two-runs\n\n\
    A single run has its curves and settings. If its folder also has valid/ or test/ with evaluate.json, score.json, samples-0.jsonl and\n\
    human.jsonl (what `evaluate --json`, `score --json` and `generate --json` print, and the human texts), scores and samples are shown too;\n\
    with per-token.jsonl and per-token-samples.jsonl (`evaluate --per-token` of human texts and samples) histograms of likelihoods.")]
pub(crate) struct ReportArgs {
    /// Run folders and sweep folders
    #[arg(value_name = "RUN_OR_SWEEP", required = true, num_args = 1..)]
    folders: Vec<PathBuf>,
    /// Folder for the report; must be empty or not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Title of the page [default: the names of the folders]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Prompts whose samples are shown side by side; 0: none
    #[arg(long, default_value_t = 30, value_name = "N")]
    samples: usize,
    /// Bootstrap resamples of an interval and sign patterns of a paired test
    #[arg(long, default_value_t = 2000, value_name = "N")]
    resamples: usize,
    /// Level of the intervals, between 0 and 1
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    confidence: f64,
    /// Replace an existing report
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(args: &ReportArgs, context: &Context) -> Result<()> {
    crate::error::at_least("--resamples", args.resamples as u64, 1)?;
    check_resampling(args.resamples, args.confidence)?;
    context.start_threads(None);
    let study = Study::read(&args.folders)?;
    let settings = Settings {
        title: args.title.clone(),
        samples: args.samples,
        resampling: Resampling { resamples: args.resamples, level: args.confidence, seed: context.seed() },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let report = Report::new(study, settings)?;
    let written = report.write(&args.out, args.overwrite)?;
    context.output.either(&written, || {
        let mut lines = Vec::new();
        for findings in report.findings() {
            lines.push(format!("{}:", findings.title));
            lines.extend(findings.sentences.iter().map(|sentence| format!("- {sentence}")));
            lines.push(String::new());
        }
        lines.push(format!("{} files; open {}", written.files.len(), written.page));
        lines.join("\n")
    })
}
