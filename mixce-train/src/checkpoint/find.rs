//! Finds checkpoints.
use std::fs;
use std::path::{Path, PathBuf};

use super::{COMPLETE_FILE, STATE_FILE};
use crate::error::{Error, Result};
use crate::leftovers;

/// Complete checkpoints in the folder `checkpoints`, by ascending step. An absent folder has none.
///
/// # Errors
/// [`Error::Io`].
pub fn complete(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found: Vec<_> =
        steps_in(checkpoints)?.into_iter().filter(|(_, path)| path.join(COMPLETE_FILE).is_file()).collect();
    found.sort();
    Ok(found)
}

/// The newest complete checkpoint.
///
/// # Errors
/// [`Error::Io`].
pub fn latest(checkpoints: &Path) -> Result<Option<(u64, PathBuf)>> {
    Ok(complete(checkpoints)?.pop())
}

/// Removes incomplete checkpoints of a killed run. Only for the process that holds the lock on the run folder.
///
/// # Errors
/// [`Error::Io`].
pub fn clean_up(checkpoints: &Path) -> Result<()> {
    leftovers::remove(checkpoints, &|name| step_of(name).is_some())?;
    for (_, path) in steps_in(checkpoints)?.into_iter().filter(|(_, p)| !p.join(COMPLETE_FILE).is_file()) {
        tracing::info!("removing the incomplete checkpoint `{}`", path.display());
        fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// Resolves `config.resume`: `auto` is the newest checkpoint of the run folder `out` (`None` if there is none yet); a path is a
/// checkpoint folder, or a run folder whose newest checkpoint is taken.
///
/// # Errors
/// [`Error::NoCheckpoint`] when a path holds none, [`Error::Io`].
pub fn resolve_resume(resume: &str, out: &Path) -> Result<Option<PathBuf>> {
    if resume == "auto" {
        return Ok(latest(&out.join("checkpoints"))?.map(|(_, path)| path));
    }
    let path = Path::new(resume);
    if path.join(COMPLETE_FILE).is_file() && path.join(STATE_FILE).is_file() {
        return Ok(Some(path.into()));
    }
    for folder in [path.join("checkpoints"), path.into()] {
        if let Some((_, newest)) = latest(&folder)? {
            return Ok(Some(newest));
        }
    }
    Err(Error::NoCheckpoint { path: path.into() })
}

fn steps_in(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step = |path: &PathBuf| step_of(path.file_name()?.to_str()?);
    let folders = entries(checkpoints)?.into_iter().filter(|path| path.is_dir());
    Ok(folders.filter_map(|path| Some((step(&path)?, path))).collect())
}

/// The step of a checkpoint folder of this name.
fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    entries.map(|entry| Ok(entry.map_err(Error::io("read", folder))?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(folder: &Path, step: u64) -> PathBuf {
        let path = folder.join(super::super::folder_name(step));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(STATE_FILE), "{}").unwrap();
        fs::write(path.join(COMPLETE_FILE), "").unwrap();
        path
    }

    #[test]
    fn resume_takes_a_run_a_checkpoint_or_auto() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(resolve_resume("auto", run.path()).unwrap(), None);
        assert!(matches!(resolve_resume("/nowhere", run.path()), Err(Error::NoCheckpoint { .. })));
        let checkpoints = run.path().join("checkpoints");
        let (old, new) = (make(&checkpoints, 9), make(&checkpoints, 10));
        assert_eq!(resolve_resume("auto", run.path()).unwrap(), Some(new.clone()));
        assert_eq!(resolve_resume(run.path().to_str().unwrap(), Path::new("x")).unwrap(), Some(new));
        assert_eq!(resolve_resume(old.to_str().unwrap(), run.path()).unwrap(), Some(old));
    }
}
