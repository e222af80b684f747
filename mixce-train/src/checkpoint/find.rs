//! Finds checkpoints.
use std::fs;
use std::path::{Path, PathBuf};

use super::{COMPLETE_FILE, STATE_FILE, folder_name};
use crate::error::{Error, Result};
use crate::leftovers;

/// Complete checkpoints in the folder `checkpoints`, by ascending step. An absent folder has none. Only folders that are called as
/// [`folder_name`] says count: `step-10` is not this program's.
///
/// # Errors
/// [`Error::Io`].
pub fn complete(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let own = |(_, path): &(u64, PathBuf)| is_own_name(path) && is_complete(path);
    let mut found: Vec<_> = steps_in(checkpoints)?.into_iter().filter(own).collect();
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

/// Removes half-written checkpoints of a killed run. Only for the process that holds the lock on the run folder.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn clean_up(checkpoints: &Path) -> Result<()> {
    leftovers::remove(checkpoints, &|name| step_of(name).is_some())
}

/// Where a run may continue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// Complete checkpoints, the newest first. If one is damaged, the next may be taken.
    pub(crate) checkpoints: Vec<PathBuf>,
    /// Folders named like checkpoints that are none, and why.
    pub(crate) others: Vec<(PathBuf, String)>,
}

impl Candidates {
    fn only(path: &Path) -> Self {
        Self { checkpoints: vec![path.into()], others: Vec::new() }
    }

    /// Those in a folder of checkpoints.
    fn within(checkpoints: &Path) -> Result<Self> {
        let found = complete(checkpoints)?.into_iter().rev().map(|(_, path)| path).collect();
        let mut others: Vec<_> = steps_in(checkpoints)?
            .into_iter()
            .filter_map(|(step, path)| {
                let problem = if !is_complete(&path) {
                    format!("has no `{COMPLETE_FILE}`")
                } else if !is_own_name(&path) {
                    format!("is not called `{}`", folder_name(step))
                } else {
                    return None;
                };
                Some((path, problem))
            })
            .collect();
        others.sort();
        Ok(Self { checkpoints: found, others })
    }

    fn is_empty(&self) -> bool {
        self.checkpoints.is_empty() && self.others.is_empty()
    }
}

/// Resolves `config.resume`: `auto` stands for the checkpoints of the run folder `out` (perhaps none); a path is a checkpoint folder, or a run
/// folder and its checkpoints.
///
/// # Errors
/// [`Error::NoCheckpoint`] when a path holds none, [`Error::Io`].
pub(crate) fn candidates(resume: &str, out: &Path) -> Result<Candidates> {
    if resume == "auto" {
        return Candidates::within(&out.join("checkpoints"));
    }
    let path = Path::new(resume);
    if is_complete(path) && path.join(STATE_FILE).is_file() {
        return Ok(Candidates::only(path));
    }
    for folder in [path.join("checkpoints"), path.into()] {
        let found = Candidates::within(&folder)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(Error::NoCheckpoint { path: path.into() })
}

/// Gives a folder that is not understood another name, so that no checkpoint replaces it; an empty one is removed.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn set_aside(path: &Path, why: &str) -> Result<()> {
    if fs::remove_dir(path).is_ok() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let first = path.with_file_name(format!("{name}.set-aside"));
    let numbered = (2u32..).map(|n| path.with_file_name(format!("{name}.set-aside-{n}")));
    let free = std::iter::once(first.clone()).chain(numbered).find(|target| !target.exists());
    let target = free.unwrap_or(first);
    fs::rename(path, &target).map_err(Error::io("rename", path))?;
    tracing::warn!("`{}` {why}: it is set aside as `{}`", path.display(), target.display());
    Ok(())
}

/// Whether a folder is called as [`folder_name`] says.
pub(crate) fn is_own_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| step_of(name).is_some_and(|step| folder_name(step) == name))
}

pub(super) fn is_complete(path: &Path) -> bool {
    path.join(COMPLETE_FILE).is_file()
}

/// Folders whose names have a step.
fn steps_in(checkpoints: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step = |path: &PathBuf| step_of(path.file_name()?.to_str()?);
    let folders = entries(checkpoints)?.into_iter().filter(|path| path.is_dir());
    Ok(folders.filter_map(|path| Some((step(&path)?, path))).collect())
}

/// The step of a checkpoint folder of this name.
pub(super) fn step_of(name: &str) -> Option<u64> {
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

    fn make(checkpoints: &Path, name: &str) -> PathBuf {
        let path = checkpoints.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(STATE_FILE), "{}").unwrap();
        fs::write(path.join(COMPLETE_FILE), "").unwrap();
        path
    }

    #[test]
    fn resume_takes_a_run_a_checkpoint_or_auto() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(candidates("auto", run.path()).unwrap(), Candidates::default());
        assert!(matches!(candidates("/nowhere", run.path()), Err(Error::NoCheckpoint { .. })));
        let checkpoints = run.path().join("checkpoints");
        let (old, new) = (make(&checkpoints, "step-00000009"), make(&checkpoints, "step-00000010"));
        let both = Candidates { checkpoints: vec![new, old.clone()], others: Vec::new() };
        assert_eq!(candidates("auto", run.path()).unwrap(), both);
        assert_eq!(candidates(run.path().to_str().unwrap(), Path::new("x")).unwrap(), both);
        assert_eq!(candidates(old.to_str().unwrap(), run.path()).unwrap(), Candidates::only(&old));
    }

    #[test]
    fn other_folders_are_named_and_only_own_names_count() {
        let folder = tempfile::tempdir().unwrap();
        let own = make(folder.path(), "step-00000010");
        let short = make(folder.path(), "step-30");
        let half = make(folder.path(), "step-00000020");
        fs::remove_file(half.join(COMPLETE_FILE)).unwrap();
        assert_eq!(latest(folder.path()).unwrap(), Some((10, own.clone())));
        let Candidates { checkpoints, others } = Candidates::within(folder.path()).unwrap();
        assert_eq!(checkpoints, [own]);
        assert_eq!(
            others,
            [(half, "has no `COMPLETE`".to_owned()), (short, "is not called `step-00000030`".to_owned())]
        );
    }

    #[test]
    fn what_is_set_aside_keeps_its_content() {
        let folder = tempfile::tempdir().unwrap();
        for n in ["step-00000010.set-aside", "step-00000010.set-aside-2"] {
            let path = make(folder.path(), "step-00000010");
            fs::write(path.join("notes"), n).unwrap();
            set_aside(&path, "is damaged").unwrap();
            assert_eq!(fs::read_to_string(folder.path().join(n).join("notes")).unwrap(), n);
        }
        let empty = folder.path().join("step-00000010");
        fs::create_dir(&empty).unwrap();
        set_aside(&empty, "has no `COMPLETE`").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
