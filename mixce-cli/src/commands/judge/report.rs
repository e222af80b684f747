//! `mixce judge report`: what the judges say.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_judge::{Estimate, ItemReport, Report, ReportSettings, Results, Study};

use crate::context::Context;
use crate::output::table;

/// Report wins, ties and losses of each pair of systems, agreement, attention checks and times
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce judge report study --items\n\n\
    Can be run while the server is running. Intervals are bootstrapped over items; the sign test counts each item once, by the\n\
    majority of its judges.")]
pub(crate) struct ReportArgs {
    /// Folder of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// List every item with its answers
    #[arg(long)]
    items: bool,
    /// Bootstrap resamples; 0 for no intervals
    #[arg(long, default_value_t = ReportSettings::default().resamples, value_name = "N")]
    resamples: usize,
    /// Level of the confidence intervals, between 0 and 1
    #[arg(long, alias = "level", default_value_t = ReportSettings::default().level, value_name = "P")]
    confidence: f64,
    /// Repeat the results without the judges who failed a larger share of the attention checks
    #[arg(long, default_value_t = ReportSettings::default().max_failed_checks, value_name = "SHARE")]
    max_failed_checks: f64,
}

pub(crate) fn run(args: &ReportArgs, context: &Context) -> Result<()> {
    let study = Study::open(&args.study)?;
    let settings = ReportSettings {
        resamples: args.resamples,
        level: args.confidence,
        max_failed_checks: args.max_failed_checks,
        items: args.items,
    };
    let report = mixce_judge::report(&study, settings)?;
    context.output.either(&report, || text(&report))
}

fn text(report: &Report) -> String {
    let mut text = format!("{} of {} tasks answered\n", report.answered, report.planned);
    if let Some(time) = report.seconds {
        let (low, median, high) = (time.lower_quartile, time.median, time.upper_quartile);
        // Writing to a string does not fail, here and below.
        let _ =
            writeln!(text, "seconds per comparison: median {median:.1}, quartiles {low:.1} and {high:.1}");
    }
    text += &results("all judges", &report.all);
    if let Some(attentive) = &report.attentive {
        text += &results("without judges who failed attention checks", attentive);
    }
    text += &judges(report);
    for item in report.items.iter().flatten() {
        text += &item_text(item);
    }
    text
}

fn results(title: &str, results: &Results) -> String {
    let head = [
        "first",
        "second",
        "items",
        "answers",
        "wins",
        "ties",
        "losses",
        "net",
        "items won",
        "tied",
        "lost",
        "p",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for pair in &results.pairs {
        let mut row =
            vec![pair.first.clone(), pair.second.clone(), pair.items.to_string(), pair.answers.to_string()];
        row.extend([pair.wins, pair.ties, pair.losses, pair.net].map(estimate));
        row.extend([pair.items_won, pair.items_tied, pair.items_lost].map(|n| n.to_string()));
        row.push(format!("{:.3}", pair.p_value));
        rows.push(row);
    }
    let mut right = [true; 12];
    right[..2].fill(false);
    let agreement = results.agreement;
    format!(
        "\n{title} ({} judges, {} answers)\n{}agreement on {} items: {} raw, alpha {} nominal, {} ordinal\n",
        results.judges,
        results.answers,
        table(&rows, &right),
        agreement.items,
        number(agreement.raw),
        number(agreement.alpha_nominal),
        number(agreement.alpha_ordinal),
    )
}

fn judges(report: &Report) -> String {
    let mut rows =
        vec![["judge", "answered", "failed checks", "median seconds", ""].map(str::to_owned).to_vec()];
    for judge in &report.judges {
        rows.push(vec![
            judge.name.clone(),
            format!("{} of {}", judge.answered, judge.planned),
            format!("{} of {}", judge.failed_checks, judge.checks),
            judge.median_seconds.map_or_else(|| "-".into(), |s| format!("{s:.1}")),
            if judge.dropped { "inattentive".into() } else { String::new() },
        ]);
    }
    format!("\n{}", table(&rows, &[false, true, true, true, false]))
}

fn item_text(item: &ItemReport) -> String {
    // Texts of models may hold escape sequences, which a terminal would obey.
    let plain = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    let indented =
        |text: &str| text.trim_end().chars().map(plain).collect::<String>().replace('\n', "\n    ");
    let mut text = format!("\nitem {}\n    {}\n", item.item, indented(&item.prompt));
    for candidate in [&item.first, &item.second] {
        let _ = writeln!(text, "  {}\n    {}", candidate.system, indented(&candidate.text));
    }
    for answer in &item.answers {
        let better = answer.better.as_deref().unwrap_or("no difference");
        let strength = if answer.preference.abs() == 2 { " (much)" } else { "" };
        let reasons = if answer.reasons.is_empty() {
            String::new()
        } else {
            format!(": {}", answer.reasons.join(", "))
        };
        let note =
            if answer.note.is_empty() { String::new() } else { format!(" \"{}\"", indented(&answer.note)) };
        let _ = writeln!(text, "  {} -> {better}{strength}{reasons}{note}", answer.name);
    }
    text
}

fn estimate(estimate: Estimate) -> String {
    match (estimate.share, estimate.interval) {
        (Some(share), Some(interval)) => format!("{share:.3} [{:.3}, {:.3}]", interval.low, interval.high),
        (share, _) => number(share),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.3}"))
}
