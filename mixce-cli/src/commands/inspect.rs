//! `mixce inspect`: describes a checkpoint, weight file, run folder, data set or token cache.

pub(crate) mod dataset;
mod decoding;
mod run_folder;
mod token_cache;
mod verify;
mod weights;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use mixce_data::input::STDIN;

use crate::context::Context;
use crate::error::Problem;
use crate::reading::ReadingArgs;

/// Show the contents of a checkpoint, weight file, run folder, data file or token cache
#[derive(Debug, Args)]
#[command(after_help = "Example: mixce inspect runs/first/best\n\n\
    Reads headers, not weights, unless --verify is given. With --json one object: `kind` is checkpoint, weights, run, dataset or cache.")]
pub(crate) struct InspectArgs {
    /// Folder of a checkpoint or run, weight file (.safetensors, .bin, .gguf), token cache (.tokens), data file, folder of data files, pattern, or `-`
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Folder or hub id of a tokenizer, to count a data file's tokens too
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
    /// Compare weights with the checksums in their files, and training checkpoints with their manifests; exit status 1 if one is damaged
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    reading: ReadingArgs,
}

pub(crate) fn run(args: &InspectArgs, context: &Context) -> Result<()> {
    let path = &args.path;
    if path.join("run.toml").is_file() {
        return run_folder::inspect(path, args.verify, context);
    }
    let is_weights = path
        .extension()
        .is_some_and(|e| ["safetensors", "bin", "pt", "pth", "gguf"].iter().any(|known| e == *known));
    if (path.is_dir() && !is_data_folder(path)) || is_weights {
        return weights::inspect(path, args.verify, context);
    }
    if args.verify {
        let problem = format!("`--verify`: `{}` is no checkpoint, weight file or run folder", path.display());
        return Err(Problem::new(problem).hint("token caches are verified whenever they are opened").into());
    }
    if token_cache::is_cache(path) {
        return token_cache::inspect(path, args.tokenizer.as_deref(), context);
    }
    let is_pattern = path.to_string_lossy().contains(['*', '?', '[']) || path.as_os_str() == STDIN;
    if !path.exists() && !is_pattern {
        return Err(Problem::new(format!("there is no `{}`", path.display()))
            .hint("`mixce download MODEL --out DIR` downloads a hub model to a folder")
            .into());
    }
    dataset::inspect(path, args.tokenizer.as_deref(), &args.reading, context)
}

/// Whether a folder holds files, but none of a checkpoint.
fn is_data_folder(path: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(path) else { return false };
    let names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let is_of_model = |name: &String| {
        let weights = [".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json"];
        name == "config.json" || name == "tokenizer.json" || weights.iter().any(|end| name.ends_with(end))
    };
    !names.is_empty() && !names.iter().any(is_of_model)
}
