//! `mixce watch`: the live state of a training run or a sweep.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_report::{Resampling, Settings};
use mixce_watch::{Page, PageSettings, Screen, Watch};
use serde_json::json;

use crate::context::Context;
use crate::interrupt;

/// Show the live state of a training run or a sweep
///
/// Reads the files of the folder, which may belong to another process, and changes and locks nothing: curves, progress, speed, memory, time left,
/// the last samples; of a sweep the grid of its cells. Keys: q, Esc or Ctrl-C quit, up and down scroll. Without a terminal it prints the state once.
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce watch runs/first\n         mixce watch sweeps/wiki --serve\n\n\
    Memory, and whether a process is still at work, are told from the system's list of locks (Linux). Elsewhere a run that has logged\n\
    something in the last ten minutes counts as running.")]
pub(crate) struct WatchArgs {
    /// Folder of a run or a sweep
    #[arg(value_name = "RUN_OR_SWEEP")]
    folder: PathBuf,
    /// Print the state once as text, also on a terminal
    #[arg(long)]
    once: bool,
    /// Serve the report on the folder as a page on this machine, which follows its files, until Ctrl-C
    #[arg(long, conflicts_with = "once")]
    serve: bool,
    /// Port of the page; 0 picks a free port [default: 8766]
    #[arg(long, value_name = "PORT", requires = "serve")]
    port: Option<u16>,
}

/// Where `--serve` listens.
const PORT: u16 = 8766;
/// Prompts whose samples the page shows of each group, and resamples of its intervals: fewer than a report has, because it is made again and again.
const SAMPLES: usize = 10;
const RESAMPLES: usize = 500;

pub(crate) fn run(args: &WatchArgs, context: &Context) -> Result<()> {
    if args.serve {
        return serve(args, context);
    }
    let mut watch = Watch::open(&args.folder)?;
    let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let is_plain = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    if args.once || context.output.is_json() || !is_terminal || is_plain {
        let snapshot = watch.poll();
        return context.output.either(&snapshot, || mixce_watch::text::text(&snapshot));
    }
    let stop = interrupt::install("the terminal is given back");
    let mut screen = Screen::take()?;
    screen.run(&mut watch, stop)?;
    Ok(())
}

fn serve(args: &WatchArgs, context: &Context) -> Result<()> {
    context.start_threads(None);
    let report = Settings {
        title: None,
        samples: SAMPLES,
        resampling: Resampling { resamples: RESAMPLES, level: 0.95, seed: context.seed() },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let page = Page::bind(&args.folder, PageSettings { port: args.port.unwrap_or(PORT), report })?;
    let address = format!("http://{}", page.address());
    context.output.either(&json!({"address": address}), || {
        format!("serving `{}` at {address} until Ctrl-C", args.folder.display())
    })?;
    let stop = interrupt::install("the server ends");
    Ok(page.run_until_set(stop)?)
}
