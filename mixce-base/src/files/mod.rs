//! Files and folders that appear under their name whole or not at all.
//!
//! Until it is complete and on disk, what is written has another name in the same folder, `.NAME.RANDOM.tmp`. The system's random numbers
//! make that name, not a process id, which is the same in many containers; so what a killed process left never stands in the way.
//! [`Temporary`] recognises such names.

mod file;
mod folder;
mod names;

pub use file::{AtomicFile, write_atomic};
pub use folder::AtomicFolder;
pub use names::{Temporary, temporary_beside};

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A file or folder could not be made, written, synchronised or renamed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`: {source}", path.display())]
pub struct FileError {
    /// What was tried, as a verb: `create`, `write`, ...
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The reason the operating system gave.
    pub source: io::Error,
}

impl FileError {
    /// Ready for `map_err`.
    fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { action, path: path.into(), source }
    }
}

/// Waits until creations, renames and removals in a folder are on disk. A system or file system that cannot promise that is passed over.
///
/// # Errors
/// When the folder is gone or the disk fails.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    #[cfg(unix)]
    {
        use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            // A folder may be writable and not readable; some network file systems refuse the call.
            Err(error) if matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported) => Ok(()),
            outcome => outcome.map_err(FileError::of("sync", folder)),
        }
    }
    // Elsewhere folders cannot be opened as files.
    #[cfg(not(unix))]
    {
        let _ = folder;
        Ok(())
    }
}

/// Makes the folder that `path` will be in.
fn create_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(FileError::of("create", parent)),
        None => Ok(()),
    }
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    path.parent().map_or(Ok(()), sync_folder)
}
