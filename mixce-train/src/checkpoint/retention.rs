//! Deletes old checkpoints. The best model is not affected: it is in the run folder's `best`.
use std::fs;
use std::path::Path;

use mixce_base::files::temporary_beside;

use super::find::complete;
use super::folder_name;
use crate::error::{Error, Result};

/// The `steps` of complete checkpoints to remove so that the newest `keep_last` (at least one) remain.
#[must_use]
pub fn steps_to_remove(steps: &[u64], keep_last: usize) -> Vec<u64> {
    let mut sorted = steps.to_vec();
    sorted.sort_unstable();
    sorted.truncate(sorted.len().saturating_sub(keep_last.max(1)));
    sorted
}

/// Removes old checkpoints.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_old(checkpoints: &Path, keep_last: usize) -> Result<()> {
    let steps: Vec<u64> = complete(checkpoints)?.into_iter().map(|(step, _)| step).collect();
    steps_to_remove(&steps, keep_last)
        .into_iter()
        .try_for_each(|step| remove(&checkpoints.join(folder_name(step))))
}

/// Removes the complete checkpoints of steps above `step`: those of a branch that is abandoned by resuming from an older one. Otherwise
/// rotation would treat them as the newest.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_above(checkpoints: &Path, step: u64) -> Result<()> {
    for (_, path) in complete(checkpoints)?.into_iter().filter(|(other, _)| *other > step) {
        tracing::warn!("removing `{}`: the run continues from step {step}", path.display());
        remove(&path)?;
    }
    Ok(())
}

/// Removes a checkpoint under a temporary name, so that a kill leaves either all of it or a leftover.
fn remove(path: &Path) -> Result<()> {
    let temporary = temporary_beside(path);
    fs::rename(path, &temporary).map_err(Error::io("rename", path))?;
    fs::remove_dir_all(&temporary).map_err(Error::io("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        assert_eq!(steps_to_remove(&[30, 10, 20], 2), [10]);
        assert!(steps_to_remove(&[10, 20], 5).is_empty());
        assert_eq!(steps_to_remove(&[10, 20], 0), [10], "one always stays");
    }
    /// A copy under another name, and folders that are no checkpoints.
    #[test]
    fn other_folders_stay() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["step-00000010", "step-00000020", "step-10", "step-00000005", "step-00000010.set-aside"];
        for name in names {
            fs::create_dir(folder.path().join(name)).unwrap();
            if name != "step-00000005" {
                fs::write(folder.path().join(name).join(super::super::COMPLETE_FILE), "").unwrap();
            }
        }
        remove_old(folder.path(), 1).unwrap();
        assert!(names.iter().all(|name| folder.path().join(name).exists() == (*name != "step-00000010")));
        remove_above(folder.path(), 4).unwrap();
        assert!(!folder.path().join("step-00000020").exists() && folder.path().join("step-10").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
