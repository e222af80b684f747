//! `mixce report`: tables, figures and a page about training runs and sweeps.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_report::{Report, Resampling, Settings, Study};

use super::score::check_resampling;
use crate::context::Context;

/// Write tables, figures and a self-contained page about training runs and sweeps, with the uncertainty of every comparison
///
/// Reads run folders (of `mixce train`) and sweep folders (of `mixce sweep`), complete or not, and changes nothing in them. The output folder gets
/// index.html, which needs neither network nor scripts, tables/ (Markdown, CSV, LaTeX), figures/ (SVG) and report.json.
///
/// Metrics that are means over prompts (diversity, repetition, coherence, likelihood of a document) are compared with MLE and its controls by
/// resampling prompts; MAUVE, which is not such a mean, over seeds. Nothing is called better unless the interval excludes zero and the
/// p-value, corrected for the number of tests, agrees.
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce report sweeps/wiki --out reports/wiki\n         \
    mixce report runs/mle runs/mixce --out reports/two-runs\n         \
    mixce report sweeps/wiki --judge study --out reports/wiki\n\n\
    For a single run the report shows curves and settings. If its folder also has valid/ or test/ with evaluate.json, score.json, samples-0.jsonl and\n\
    human.jsonl (what `evaluate --json`, `score --json` and `generate --json` print, and the human texts), scores and samples are shown too;\n\
    with per-token.jsonl and per-token-samples.jsonl (`evaluate --per-token` of human texts and samples) histograms of likelihoods.")]
pub(crate) struct ReportArgs {
    /// Run folders and sweep folders
    #[arg(value_name = "RUN_OR_SWEEP", required = true, num_args = 1..)]
    folders: Vec<PathBuf>,
    /// Folder for the report; must be empty or not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folders of human evaluations (of `mixce judge`), whose results belong to the report
    #[arg(long, value_name = "STUDY", num_args = 1..)]
    judge: Vec<PathBuf>,
    /// Title of the page [default: the names of the folders]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Prompts whose samples are shown side by side; 0 for none
    #[arg(long, default_value_t = 30, value_name = "N")]
    samples: usize,
    /// Bootstrap resamples per interval, and sign patterns per paired test
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
    let resampling = Resampling { resamples: args.resamples, level: args.confidence, seed: context.seed() };
    let mut study = Study::read(&args.folders)?;
    for folder in &args.judge {
        study.add_judged(folder, &resampling)?;
    }
    let settings = Settings {
        title: args.title.clone(),
        samples: args.samples,
        resampling,
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
