//! `mixce download`: downloads a checkpoint from the hub.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use mixce_hub::{Hub, HubEnvironment, ModelSource};
use serde_json::json;

use crate::context::Context;
use crate::error::Problem;
use crate::interrupt;
use crate::progress::FetchBars;

/// Download a checkpoint into the hub cache or a folder, with resume and checksums
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce download openai-community/gpt2 --out models/gpt2\n\n\
    HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE work as in the Python tools, which share the cache.")]
pub(crate) struct DownloadArgs {
    /// Hub id, with or without revision: owner/name, owner/name@branch
    #[arg(value_name = "MODEL")]
    model: String,
    /// Folder for a copy of the files; must be empty or not exist [default: only the cache]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &DownloadArgs, context: &Context) -> Result<()> {
    let id = match ModelSource::parse(&args.model)? {
        ModelSource::Hub(id) => id,
        ModelSource::Local(path) => {
            return Err(Problem::new(format!("`{}` is a folder or file on this machine", path.display()))
                .hint("`mixce export` copies a local model")
                .into());
        }
    };
    interrupt::install("partial downloads are kept and resumed next time");
    let hub = Hub::new(HubEnvironment::from_process()?)?;
    let mut bars = FetchBars::default();
    let snapshot = match &args.out {
        Some(folder) => hub.download_to(&id, folder, &mut bars)?,
        None => hub.fetch_model(&id, &mut bars)?,
    };
    let report = json!({
        "model": id.to_string(),
        "commit": snapshot.commit,
        "path": snapshot.path,
        "files": snapshot.files,
    });
    context.output.either(&report, || snapshot.path.display().to_string())
}
