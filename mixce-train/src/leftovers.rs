//! Leftovers of a killed run.
use std::fs;
use std::path::Path;

use mixce_base::files::Temporary;

use crate::error::{Error, Result};

/// Removes temporary entries left in `folder` by a killed process, if `is_ours`; a folder that was moved aside and never replaced is
/// moved back. Only for the process that holds the lock. An absent folder is treated as empty.
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
        tracing::info!("removing the incomplete `{}`", path.display());
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}
