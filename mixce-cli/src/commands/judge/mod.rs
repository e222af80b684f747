//! `mixce judge`: blind human evaluation.

mod export;
mod make;
mod report;
mod serve;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::context::Context;

/// Let people compare continuations blind, in the browser
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce judge make --human human.jsonl --systems mle.jsonl mixce.jsonl --items 50 --judges 3 --out study\n         \
    mixce judge serve study\n         mixce judge report study"
)]
pub(crate) struct JudgeArgs {
    #[command(subcommand)]
    command: JudgeCommand,
}

#[derive(Debug, Subcommand)]
enum JudgeCommand {
    Make(make::MakeArgs),
    Serve(serve::ServeArgs),
    Export(export::ExportArgs),
    Report(report::ReportArgs),
}

pub(crate) fn run(args: &JudgeArgs, context: &Context) -> Result<()> {
    match &args.command {
        JudgeCommand::Make(args) => make::run(args, context),
        JudgeCommand::Serve(args) => serve::run(args, context),
        JudgeCommand::Export(args) => export::run(args, context),
        JudgeCommand::Report(args) => report::run(args, context),
    }
}
