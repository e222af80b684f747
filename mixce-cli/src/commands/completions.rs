//! `mixce completions`: shell completions.

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use crate::cli;
use crate::context::Context;

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce completions bash > ~/.local/share/bash-completion/completions/mixce")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, context: &Context) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "mixce", &mut script);
    context.output.bytes(&script)
}
