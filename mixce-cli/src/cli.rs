//! Global flags and subcommands.

use std::ffi::OsString;
use std::io::IsTerminal as _;

use anyhow::Result;
use clap::{Args, ColorChoice, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::commands::{
    bench, completions, data, doctor, download, evaluate, export, generate, inspect, judge, man,
    nll_histogram, plan, push, quickstart, report, score, sweep, synthetic, train, watch,
};
use crate::context::Context;
use crate::{ranks, version};

/// Finetune GPT-2, Llama, Mistral or Qwen with MixCE, a mixture of forward and reverse cross-entropy
///
/// Results go to stdout, everything else to stderr. Exit status: 0 success, 1 a failed check, 2 an error, 130 Ctrl-C, 143 SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "mixce", version = version::text(), propagate_version = true, disable_help_subcommand = true)]
#[command(
    after_help = "Example: mixce train --model openai-community/gpt2 --train train.txt --valid valid.txt --out runs/first"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every subcommand.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Device: auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long, global = true, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// CPU threads [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Seed of all random numbers [default: 42]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Print results as JSON, one object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// More log output on stderr (repeat for more detail)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No progress bars, no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Use colours on stderr and in help
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: ColorWhen,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl ColorWhen {
    /// Whether to colour stderr.
    pub(crate) fn on_stderr(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && std::io::stderr().is_terminal()
            }
        }
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Quickstart(quickstart::QuickstartArgs),
    Synthetic(Box<synthetic::SyntheticArgs>),
    Data(data::DataArgs),
    Train(Box<train::TrainArgs>),
    Evaluate(evaluate::EvaluateArgs),
    Generate(Box<generate::GenerateArgs>),
    Score(Box<score::ScoreArgs>),
    Sweep(Box<sweep::SweepArgs>),
    NllHistogram(nll_histogram::NllHistogramArgs),
    Report(report::ReportArgs),
    Watch(watch::WatchArgs),
    Judge(judge::JudgeArgs),
    Export(export::ExportArgs),
    Push(push::PushArgs),
    Inspect(inspect::InspectArgs),
    Download(download::DownloadArgs),
    Plan(plan::PlanArgs),
    Bench(Box<bench::BenchArgs>),
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

impl Cli {
    /// Runs the subcommand.
    pub(crate) fn run(self) -> Result<()> {
        // The shards of a sweep do different work, and each speaks.
        let are_ranks = matches!(
            self.command,
            Command::Train(_)
                | Command::Evaluate(_)
                | Command::Generate(_)
                | Command::Score(_)
                | Command::Doctor(_)
        );
        let rank = if are_ranks { ranks::rank() } else { None };
        let context = Context::new(&self.global, rank)?;
        match self.command {
            Command::Quickstart(args) => quickstart::run(&args, &context),
            Command::Synthetic(args) => synthetic::run(&args, &context),
            Command::Data(args) => data::run(&args, &context),
            Command::Train(args) => train::run(&args, &context),
            Command::Evaluate(args) => evaluate::run(&args, &context).map_err(ranks::without_checkpoints),
            Command::Generate(args) => generate::run(&args, &context).map_err(ranks::without_checkpoints),
            Command::Score(args) => score::run(&args, &context).map_err(ranks::without_checkpoints),
            Command::Sweep(args) => sweep::run(*args, &context),
            Command::NllHistogram(args) => nll_histogram::run(&args, &context),
            Command::Report(args) => report::run(&args, &context),
            Command::Watch(args) => watch::run(&args, &context),
            Command::Judge(args) => judge::run(&args, &context),
            Command::Export(args) => export::run(&args, &context),
            Command::Push(args) => push::run(&args, &context),
            Command::Inspect(args) => inspect::run(&args, &context),
            Command::Download(args) => download::run(&args, &context),
            Command::Plan(args) => plan::run(&args, &context),
            Command::Bench(args) => bench::run(&args, &context),
            Command::Doctor(args) => doctor::run(&args, &context).map_err(ranks::without_checkpoints),
            Command::Completions(args) => completions::run(&args, &context),
            Command::Man(args) => man::run(&args, &context),
        }
    }
}

/// The clap command, for completions and manual pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Whether the program or a subcommand has the flag `--NAME`.
pub(crate) fn has_flag(name: &str) -> bool {
    fn has(command: &clap::Command, name: &str) -> bool {
        command.get_arguments().any(|argument| argument.get_long() == Some(name))
            || command.get_subcommands().any(|command| has(command, name))
    }
    has(&command(), name)
}

/// The value of `--color`, needed for help and usage errors before the command line is parsed.
pub(crate) fn early_color(arguments: &[OsString]) -> ColorChoice {
    let words: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    let value = words.iter().enumerate().find_map(|(i, word)| match word.strip_prefix("--color") {
        Some("") => words.get(i + 1).map(|next| next.to_string()),
        Some(rest) => rest.strip_prefix('=').map(str::to_owned),
        None => None,
    });
    match value.as_deref() {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_help_and_every_command_an_example() {
        for subcommand in command().get_subcommands() {
            let name = subcommand.get_name();
            assert!(subcommand.get_about().is_some(), "`{name}` has no description");
            let after = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains(&format!("mixce {name}")), "`{name}` has no example");
            for argument in subcommand.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(argument.get_help().is_some(), "`{name}` {} has no help", argument.get_id());
            }
        }
    }

    #[test]
    fn the_colour_is_known_before_parsing() {
        let early = |line: &str| early_color(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(early("mixce --color never"), ColorChoice::Never);
        assert_eq!(early("mixce --color=always train"), ColorChoice::Always);
        assert_eq!(early("mixce train"), ColorChoice::Auto);
    }
}
