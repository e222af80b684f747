//! Resolves a run's model, tokenizer and token caches to local folders.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mixce_train::config::TrainConfig;
use mixce_train::prepare::Sources;

use crate::models::{self, Network};

/// Data files of at least this size are encoded into a cache even without `--cache-dir`.
pub(crate) const CACHED_FROM_BYTES: u64 = 8 << 20;

/// What a run is made from.
#[derive(Debug)]
pub(super) struct Located {
    /// The folders.
    pub(super) sources: Sources,
    /// The model's commit, if it came from the hub.
    pub(super) commit: Option<String>,
    /// The configuration with the hub ids of model and tokenizer pinned to the resolved commits.
    pub(super) pinned: TrainConfig,
}

/// Resolves (and downloads) the model and the tokenizer.
pub(super) fn find(config: &TrainConfig, network: Network) -> Result<Located> {
    let mut pinned = config.clone();
    let named = config.tokenizer.as_deref();
    let tokenizer = named.map(|name| models::locate_tokenizer(name, network)).transpose()?;
    if let (Some(name), Some(folder)) = (&config.tokenizer, &tokenizer) {
        pinned.tokenizer = Some(folder.pinned(name));
    }
    let Some(name) = &config.model else {
        let tokenizer = tokenizer.context("`--from-config` needs `--tokenizer`")?.path;
        return Ok(Located { sources: Sources { model: None, tokenizer }, commit: None, pinned });
    };
    let folder = models::locate(name, network)?;
    pinned.model = Some(folder.pinned(name));
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer.path,
        None => models::tokenizer_folder(None, &folder.path, network)?,
    };
    Ok(Located { sources: Sources { model: Some(folder.path), tokenizer }, commit: folder.commit, pinned })
}

/// On resuming, pins a hub id without a revision to the commit recorded in `run.toml`.
pub(super) fn keep_pins(config: &mut TrainConfig, run_toml: &Path) -> Result<()> {
    let before = TrainConfig::from_toml_file(run_toml)?;
    for (now, before) in [(&mut config.model, before.model), (&mut config.tokenizer, before.tokenizer)] {
        let same = |before: &String| now.as_ref().is_some_and(|now| before.starts_with(&format!("{now}@")));
        if let Some(before) = before.filter(same) {
            *now = Some(before);
        }
    }
    Ok(())
}

/// The folder of the token caches: the given one, else the user's cache folder if a file is large.
pub(super) fn cache_folder(config: &TrainConfig) -> Option<PathBuf> {
    if config.cache_dir.is_some() {
        return config.cache_dir.clone();
    }
    let large = |path: &Path| std::fs::metadata(path).is_ok_and(|data| data.len() >= CACHED_FROM_BYTES);
    let files = || [&config.train, &config.valid].into_iter().flatten().flat_map(|files| &files.0);
    // The size of a pattern or a pipe is not known yet, so it is cached.
    files().find(|path| !path.is_file() || large(path))?;
    default_cache()
}

/// The default folder of the token caches: in the user's cache folder, if there is one.
pub(crate) fn default_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(base.join("mixce").join("tokens"))
}
