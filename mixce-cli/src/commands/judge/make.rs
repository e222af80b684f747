//! `mixce judge make`: draws the items and plans who judges what.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_judge::{MakeSettings, Scale, System};

use crate::context::Context;

/// Draw prompts, add attention checks and plan who judges what
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce judge make --human human.jsonl --systems mle.jsonl mixce.jsonl --items 50 --judges 3 --out study\n\n\
    Files are JSON lines with `prompt`, and `continuation` or `text`, as `mixce generate --json` writes them. Rows are joined by prompt."
)]
pub(crate) struct MakeArgs {
    /// Human continuations of the same prompts, and of further ones for the attention checks
    #[arg(long, value_name = "FILE")]
    human: PathBuf,
    /// Continuations of two or more systems: FILE (named after it) or NAME=FILE; every pair is compared
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    systems: Vec<String>,
    /// Prompts to draw
    #[arg(long, value_name = "N")]
    items: usize,
    /// New folder of the study
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Judges of each comparison
    #[arg(long, default_value_t = 3, value_name = "K")]
    judges_per_item: usize,
    /// Number of judges [default: that of --judges-per-item, so that everyone sees everything]
    #[arg(long, value_name = "N")]
    judges: Option<usize>,
    /// Answers to choose from: 3 (better, no difference, worse) or 5 (with much and slightly)
    #[arg(long, default_value_t = 3, value_name = "3|5")]
    scale: u8,
    /// Attention checks for each judge [default: one for every ten comparisons]
    #[arg(long, value_name = "N")]
    attention: Option<usize>,
}

pub(crate) fn run(args: &MakeArgs, context: &Context) -> Result<()> {
    let settings = MakeSettings {
        human: args.human.clone(),
        systems: args.systems.iter().map(|system| System::parse(system)).collect(),
        items: args.items,
        judges: args.judges.unwrap_or(args.judges_per_item),
        judges_per_item: args.judges_per_item,
        checks: args.attention,
        scale: Scale::try_from(args.scale)?,
        seed: context.seed(),
    };
    let header = mixce_judge::make(&settings, &args.out)?;
    context.output.either(&header, || {
        format!(
            "comparisons {}, attention checks {}, judges {}, judges per comparison {}: `{}`",
            header.comparisons,
            header.checks,
            header.judges,
            header.judges_per_item,
            args.out.display()
        )
    })
}
