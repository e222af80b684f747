//! `mixce push`: uploads a model to the hub.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use mixce::FAMILIES;
use mixce_hub::{Hub, HubEnvironment, ModelId, PushRequest};
use mixce_lm::config;
use mixce_lm::export::model_card;
use serde_json::json;

use super::export::facts_of;
use crate::context::Context;
use crate::error::Problem;
use crate::interrupt;
use crate::models::{self, Network};
use crate::output::bytes;
use crate::progress::FetchBars;

/// Upload a model folder to the hub, with a model card; new repositories are private
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce push runs/first/best me/my-gpt2\n\n\
    The token comes from HF_TOKEN or the login of the Python tools, needs write permission, and is never printed.")]
pub(crate) struct PushArgs {
    /// Folder of a model (as `mixce export` writes it), or a run folder (its best model)
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Target repository: owner/name, or owner/name@branch for an existing branch
    #[arg(value_name = "REPO")]
    repository: String,
    /// Create the repository as public (existing ones are unchanged)
    #[arg(long)]
    public: bool,
    /// Commit message
    #[arg(long, default_value = "Upload model with mixce", value_name = "TEXT")]
    message: String,
}

pub(crate) fn run(args: &PushArgs, context: &Context) -> Result<()> {
    let id: ModelId = args.repository.parse()?;
    if !args.folder.is_dir() {
        let problem = Problem::new(format!("`{}` is not a folder", args.folder.display()));
        return Err(problem.hint("the folder comes first, then the repository").into());
    }
    let named = args.folder.display().to_string();
    // An existing folder is never taken for a hub id.
    let folder = models::locate(&named, Network::CacheOnly)?.path;
    require_model(&folder)?;
    interrupt::install("nothing is visible in the repository before the commit");
    let extra = card(&folder, &named)?;
    let request =
        PushRequest { folder: &folder, extra, id: &id, private: !args.public, message: &args.message };
    let pushed = Hub::new(HubEnvironment::from_process()?)?.push(&request, &mut FetchBars::default())?;
    let report = json!({
        "repository": id.to_string(),
        "url": pushed.url,
        "commit": pushed.commit,
        "created": pushed.created,
        "private": if pushed.created { Some(!args.public) } else { None },
        "files": pushed.files,
        "uploaded_bytes": pushed.uploaded_bytes,
    });
    context.output.either(&report, || {
        let made = match (pushed.created, args.public) {
            (true, true) => " (new, public)",
            (true, false) => " (new, private)",
            (false, _) => "",
        };
        let (files, sent) = (pushed.files.len(), bytes(pushed.uploaded_bytes));
        format!("{}{made}\ncommit {}, {files} files, {sent} to the storage", pushed.url, pushed.commit)
    })
}

/// Refuses folders that no tool could load, and training checkpoints, which are three times the model's size.
fn require_model(folder: &Path) -> Result<()> {
    if !folder.join("config.json").is_file() {
        return Err(Problem::new(format!("`{}` has no `config.json`: it is not a model", folder.display()))
            .hint("`mixce export --model MODEL --out DIR` writes a folder to upload")
            .into());
    }
    if folder.join("optimizer.safetensors").exists() {
        return Err(Problem::new(format!("`{}` is a training checkpoint", folder.display()))
            .hint(format!("export its model first: `mixce export --model {} --out DIR`", folder.display()))
            .into());
    }
    Ok(())
}

/// A model card for a folder that has none.
fn card(folder: &Path, named: &str) -> Result<Vec<(String, Vec<u8>)>> {
    if folder.join("README.md").is_file() {
        return Ok(Vec::new());
    }
    let config = config::from_file(&folder.join("config.json"), FAMILIES)?;
    let mut facts = facts_of(folder, named)?;
    // A local folder is not a base model that others could find.
    if facts.base_model.as_deref() == Some(named) {
        facts.base_model = None;
    }
    Ok(vec![("README.md".to_owned(), model_card(&*config, &facts).into_bytes())])
}
