//! `mixce man`: manual pages.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Command};
use clap_mangen::Man;
use mixce_base::files::write_atomic;

use crate::cli;
use crate::context::Context;

/// Print the manual page, or write the pages of all commands to a folder
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce man --out ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Folder for one page per command (mixce.1, mixce-train.1, ...); without it the main page goes to stdout
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs, context: &Context) -> Result<()> {
    let Some(folder) = &args.out else { return context.output.bytes(&page(cli::command())?) };
    let mut whole = cli::command();
    whole.build();
    let mut pages = vec![("mixce".to_owned(), cli::command())];
    add_pages("mixce", &whole, &mut pages);
    for (name, command) in pages {
        let path = folder.join(format!("{name}.1"));
        write_atomic(&path, &page(command)?)?;
        context.output.line(&path.display().to_string())?;
    }
    Ok(())
}

/// Writes a page for each subcommand, recursively.
fn add_pages(above: &str, command: &Command, pages: &mut Vec<(String, Command)>) {
    for subcommand in command.get_subcommands() {
        let name = format!("{above}-{}", subcommand.get_name());
        pages.push((name.clone(), subcommand.clone().name(name.clone())));
        add_pages(&name, subcommand, pages);
    }
}

fn page(command: clap::Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text).context("cannot render a manual page")?;
    Ok(text)
}
