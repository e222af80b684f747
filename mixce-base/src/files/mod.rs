//! Atomic file and folder writes, and reads of files that may be anything.
//!
//! Until it is complete and on disk, a file or folder has a temporary name beside the final one, `.NAME.RANDOM.tmp`. The name is random
//! rather than a process id, since these repeat across containers, so leftovers of a killed process are never in the way.
//! [`Temporary`] recognises such names, and [`remove_stale`] removes what dead processes left.

mod file;
mod folder;
mod names;
mod read;
mod temporary;

pub use file::{AtomicFile, write_atomic};
pub use folder::AtomicFolder;
pub use names::{Temporary, temporary_beside};
pub use read::{open_regular, read_limited, read_regular};
pub use temporary::{OwnTemporary, abandon_temporaries, remove_stale};

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A file or folder could not be created, written, synced or renamed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`: {source}", path.display())]
pub struct FileError {
    /// What was attempted, as a verb: `create`, `write`, ...
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The operating system's error.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`.
    fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { action, path: path.into(), source }
    }
}

/// Syncs a folder's entries to disk, so that creations, renames and removals in it survive a power failure; does nothing where the system or
/// file system does not support it.
///
/// # Errors
/// When the folder does not exist or the disk fails.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    #[cfg(unix)]
    {
        use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            // A folder may be writable but not readable, and some network file systems do not support the call.
            Err(error) if matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported) => Ok(()),
            outcome => outcome.map_err(FileError::of("sync", folder)),
        }
    }
    // Other systems cannot open folders as files.
    #[cfg(not(unix))]
    {
        let _ = folder;
        Ok(())
    }
}

/// Creates the folder of `path`.
fn create_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(FileError::of("create", parent)),
        None => Ok(()),
    }
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    path.parent().map_or(Ok(()), sync_folder)
}
