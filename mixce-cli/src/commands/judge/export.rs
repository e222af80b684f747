//! `mixce judge export`: the answers as JSON lines.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use mixce_judge::{Study, answers};

use crate::context::Context;
use crate::files::OutputFile;

/// Write the answers with the names of the systems, as JSON lines
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce judge export study > answers.jsonl")]
pub(crate) struct ExportArgs {
    /// Folder of the study
    #[arg(value_name = "STUDY")]
    study: PathBuf,
    /// Output file [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace an existing `--out` file
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn run(args: &ExportArgs, context: &Context) -> Result<()> {
    let study = Study::open(&args.study)?;
    let out = args.out.as_ref().map(|out| OutputFile::claim(out, args.overwrite)).transpose()?;
    let judged = answers(&study)?;
    let Some(mut out) = out else { return judged.iter().try_for_each(|answer| context.output.json(answer)) };
    for answer in judged {
        let line = serde_json::to_string(&answer).context("cannot serialize an answer")?;
        out.put(format!("{line}\n").as_bytes())?;
    }
    out.finish()
}
