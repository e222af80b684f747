//! What a killed run left half-written.
use std::fs;
use std::path::Path;

use mixce_base::files::Temporary;

use crate::error::{Error, Result};

/// Removes what a killed process left half-written in `folder` of entries that `is_ours`; what was moved aside, and whose replacement never
/// arrived, gets its name back. Only for the one process that may write there. An absent folder holds nothing.
pub(crate) fn remove(folder: &Path, is_ours: &dyn Fn(&str) -> bool) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(Temporary { target, is_aside }) = Temporary::of(&name).filter(|t| is_ours(t.target)) else {
            continue;
        };
        let target = folder.join(target);
        if is_aside && !target.exists() {
            fs::rename(&path, &target).map_err(Error::io("rename", &path))?;
            continue;
        }
        tracing::info!("removing the half-written `{}`", path.display());
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}
