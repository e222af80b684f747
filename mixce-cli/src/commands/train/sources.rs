//! Where model, tokenizer and token caches of a run lie on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mixce_train::config::TrainConfig;
use mixce_train::prepare::Sources;

use crate::models::{self, Network};

/// Data files from this size on are encoded into a cache, also where `--cache-dir` does not say where.
pub(crate) const CACHED_FROM_BYTES: u64 = 8 << 20;

/// Finds (and fetches) the model and the tokenizer; gives the model's commit too.
pub(super) fn find(config: &TrainConfig, network: Network) -> Result<(Sources, Option<String>)> {
    let named = config.tokenizer.as_deref();
    match &config.model {
        Some(model) => {
            let folder = models::locate(model, network)?;
            let tokenizer = models::tokenizer_folder(named, &folder.path, network)?;
            Ok((Sources { model: Some(folder.path), tokenizer }, folder.commit))
        }
        None => {
            let named = named.context("`--from-config` needs `--tokenizer`")?;
            let tokenizer = models::locate(named, network)?.path;
            Ok((Sources { model: None, tokenizer }, None))
        }
    }
}

/// The folder of the token caches: the one that was named, else the user's cache folder if a file is large.
pub(super) fn cache_folder(config: &TrainConfig) -> Option<PathBuf> {
    if config.cache_dir.is_some() {
        return config.cache_dir.clone();
    }
    let large = |path: &Path| std::fs::metadata(path).is_ok_and(|data| data.len() >= CACHED_FROM_BYTES);
    let files = || [&config.train, &config.valid].into_iter().flatten().flat_map(|files| &files.0);
    // The size behind a pattern or a pipe is not known yet: cache it.
    files().find(|path| !path.is_file() || large(path))?;
    default_cache()
}

/// The folder of the token caches where none is named: in the user's cache folder, if there is one.
pub(crate) fn default_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
    Some(base.join("mixce").join("tokens"))
}
