//! `mixce data`: detokenise text, prepare data sets.

mod detokenize;
mod fetch;
mod prepare;
mod report;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::context::Context;

/// Prepare data sets, detokenise text
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce data prepare wikitext --out data/wikitext")]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    Prepare(Box<prepare::PrepareArgs>),
    Detokenize(detokenize::DetokenizeArgs),
}

pub(crate) fn run(args: &DataArgs, context: &Context) -> Result<()> {
    match &args.command {
        DataCommand::Prepare(args) => prepare::run(args, context),
        DataCommand::Detokenize(args) => detokenize::run(args, context),
    }
}
