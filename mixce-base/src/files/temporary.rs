//! Temporary files and folders of this process.
//!
//! Each is locked as long as its owner lives, which tells [`remove_stale`] those of dead processes from those of live ones; a process id
//! would not, since ids repeat across containers.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::names::{self, Temporary};
use super::{FileError, create_parent};

/// The temporary files and folders that exist now.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every temporary file and folder of this process, for use immediately before the process ends: any other thread that creates,
/// renames or drops one afterwards waits forever.
pub fn abandon_temporaries() {
    let mut live = live();
    for path in std::mem::take(&mut *live) {
        // Best effort: the process is about to end.
        let _ = remove(&path);
    }
    std::mem::forget(live);
}

/// A temporary file or folder, removed on drop unless it has been renamed.
#[derive(Debug)]
pub struct OwnTemporary {
    path: PathBuf,
    renamed: bool,
    /// Keeps a folder locked. A file is locked by its writer.
    _lock: Option<File>,
}

impl OwnTemporary {
    /// Creates a file beside `target`, in an existing folder.
    ///
    /// # Errors
    /// When the path does not end in a name, or the file cannot be created.
    pub fn file(target: &Path) -> Result<(Self, File), FileError> {
        // Always a new file: a link of that name is never followed.
        let create = |path: &Path| File::create_new(path).and_then(owned);
        let (path, file) = names::create_beside(target, |path| recorded(path, create))?;
        Ok((Self { path, renamed: false, _lock: None }, file))
    }

    /// Creates a folder beside `target`, and its parent if necessary.
    ///
    /// # Errors
    /// When the path does not end in a name, or the folder cannot be created.
    pub fn folder(target: &Path) -> Result<Self, FileError> {
        create_parent(target)?;
        let create = |path: &Path| fs::create_dir(path).and_then(|()| locked_folder(path));
        let (path, lock) = names::create_beside(target, |path| recorded(path, create))?;
        Ok(Self { path, renamed: false, _lock: lock })
    }

    /// Takes over a file of this name that the caller has created: it is removed on drop.
    #[must_use]
    pub fn adopt(path: PathBuf) -> Self {
        live().insert(path.clone());
        Self { path, renamed: false, _lock: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `rename`, which gives it its final name, so that [`abandon_temporaries`] runs either before or after it.
    pub(super) fn rename(
        &mut self,
        rename: impl FnOnce(&Path) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let mut live = live();
        rename(&self.path)?;
        live.remove(&self.path);
        self.renamed = true;
        Ok(())
    }
}

impl Drop for OwnTemporary {
    fn drop(&mut self) {
        if !self.renamed {
            let mut live = live();
            // Best effort: the error that led here is the one to report.
            let _ = remove(&self.path);
            live.remove(&self.path);
        }
    }
}

/// Removes what dead processes left in `folder` of files and folders whose final names satisfy `is_ours`; returns the paths removed. An absent
/// folder is treated as empty, and temporaries that cannot be locked are left: their owner may be alive.
///
/// # Errors
/// When the folder cannot be read, or a file in it cannot be removed.
pub fn remove_stale(folder: &Path, is_ours: &dyn Fn(&str) -> bool) -> Result<Vec<PathBuf>, FileError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(FileError::of("read", folder))?,
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::of("read", folder))?;
        let name = entry.file_name();
        let temporary = name.to_str().and_then(Temporary::of);
        // What was moved aside is complete, and perhaps the only copy.
        let is_candidate = temporary.is_some_and(|t| !t.is_aside && is_ours(t.target));
        let path = entry.path();
        if is_candidate && let Some(_lock) = lock_of_dead(&path) {
            match remove(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(FileError::of("remove", &path))?,
            }
            removed.push(path);
        }
    }
    Ok(removed)
}

/// The lock on a temporary whose owner is dead.
fn lock_of_dead(path: &Path) -> Option<File> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    let file = if kind.is_file() {
        File::options().read(true).write(true).open(path).ok()?
    } else if kind.is_dir() {
        File::open(path).ok()?
    } else {
        // Not made by this program; opening a pipe would block.
        return None;
    };
    file.try_lock().ok()?;
    Some(file)
}

/// Creates and records a temporary.
fn recorded<T>(path: &Path, create: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let mut live = live();
    let made = create(path)?;
    live.insert(path.to_owned());
    Ok(made)
}

/// Locks a new file. [`remove_stale`] in another process may have found it before it was locked: then it counts as taken.
fn owned(file: File) -> io::Result<File> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::AlreadyExists.into()),
        // A file system without locks: `remove_stale` cannot lock it either.
        Err(TryLockError::Error(_)) => Ok(file),
        Ok(()) if is_unlinked(&file)? => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(()) => Ok(file),
    }
}

#[cfg(unix)]
fn is_unlinked(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(file.metadata()?.nlink() == 0)
}

#[cfg(not(unix))]
fn is_unlinked(_: &File) -> io::Result<bool> {
    Ok(false)
}

#[cfg(unix)]
fn locked_folder(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(folder) => owned(folder).map(Some),
        // Found and removed before it was locked.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) => Err(error),
    }
}

/// Other systems cannot open folders as files.
#[cfg(not(unix))]
fn locked_folder(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::temporary_beside;

    #[cfg(unix)]
    #[test]
    fn what_dead_processes_left_is_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let (alive, _writer) = OwnTemporary::file(&at("a.tokens")).unwrap();
        let folder = OwnTemporary::folder(&at("b.tokens")).unwrap();
        let (dead, dead_folder) = (temporary_beside(&at("a.tokens")), temporary_beside(&at("b.tokens")));
        fs::write(&dead, "half").unwrap();
        fs::create_dir(&dead_folder).unwrap();
        fs::write(dead_folder.join("x"), "half").unwrap();
        let old = at(".a.tokens.17-0.tmp");
        fs::write(&old, "half").unwrap();
        let (other, aside) = (temporary_beside(&at("c.txt")), at(".a.tokens.0123456789abcdef.old.tmp"));
        for path in [&other, &aside, &at("a.tokens"), &at(".a.tokens.swp")] {
            fs::write(path, "mine").unwrap();
        }
        let mut removed = remove_stale(root.path(), &|name| name.ends_with(".tokens")).unwrap();
        removed.sort();
        let mut expected = vec![dead, dead_folder, old];
        expected.sort();
        assert_eq!(removed, expected);
        assert!(alive.path().is_file() && folder.path().is_dir() && other.is_file() && aside.is_file());
        drop((alive, folder));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 4);
        assert_eq!(remove_stale(&at("nowhere"), &|_| true).unwrap(), [] as [PathBuf; 0]);
    }

    #[test]
    fn an_adopted_file_goes_with_its_owner() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(".a.lock");
        fs::write(&path, "").unwrap();
        drop(OwnTemporary::adopt(path.clone()));
        assert!(!path.exists());
    }
}
