//! Atomic folder writes.

use std::fs;
use std::path::{Path, PathBuf};

use super::{FileError, OwnTemporary, names, sync_folder, sync_parent};

/// A folder that gets its name only once it is complete; if dropped earlier, nothing is left.
///
/// The caller syncs the files in it, as [`AtomicFile`](super::AtomicFile) does.
#[derive(Debug)]
pub struct AtomicFolder {
    target: PathBuf,
    temporary: OwnTemporary,
}

impl AtomicFolder {
    /// Creates a temporary folder beside `path`, and its parent folder if necessary.
    ///
    /// # Errors
    /// When the path does not end in a name, or the folder cannot be created.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        // `.` has no name, but its absolute path has one.
        let target = std::path::absolute(path).map_err(FileError::of("create", path))?;
        let temporary = OwnTemporary::folder(&target)?;
        Ok(Self { target, temporary })
    }

    /// The temporary folder, to write the files to.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Syncs the folder's entries and renames it into place, replacing at most an empty folder.
    ///
    /// # Errors
    /// When anything else has the name, or the folder cannot be renamed; what is there is unchanged.
    pub fn finish(mut self) -> Result<(), FileError> {
        sync_folder(self.temporary.path())?;
        let target = &self.target;
        self.temporary.rename(|new| {
            if target.exists() {
                // Fails unless the folder is empty, so nothing is lost.
                fs::remove_dir(target).map_err(FileError::of("replace", target))?;
            }
            rename(new, target)
        })?;
        sync_parent(target)
    }

    /// Syncs the folder's entries and renames it into place. An existing folder or file is moved aside first, restored if the rename fails,
    /// and removed at the end.
    ///
    /// A kill between the two renames leaves the old folder as `.NAME.RANDOM.old.tmp`, which [`Temporary`](super::Temporary) recognises.
    ///
    /// # Errors
    /// When a rename or the removal fails. If the old folder cannot be restored, that error gives its path.
    pub fn replace(mut self) -> Result<(), FileError> {
        sync_folder(self.temporary.path())?;
        let target = &self.target;
        self.temporary.rename(|new| swap(new, target))?;
        sync_parent(target)
    }
}

fn rename(new: &Path, target: &Path) -> Result<(), FileError> {
    fs::rename(new, target).map_err(FileError::of("rename a folder to", target))
}

/// Moves `new` to `target`, which may exist.
fn swap(new: &Path, target: &Path) -> Result<(), FileError> {
    if !target.exists() {
        return rename(new, target);
    }
    let aside = names::aside_of(target);
    fs::rename(target, &aside).map_err(FileError::of("rename", target))?;
    if let Err(error) = rename(new, target) {
        fs::rename(&aside, target).map_err(FileError::of("move the old folder back from", &aside))?;
        return Err(error);
    }
    let removed = if aside.is_dir() { fs::remove_dir_all(&aside) } else { fs::remove_file(&aside) };
    removed.map_err(FileError::of("remove", &aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(path: &Path, file: &str) -> AtomicFolder {
        let folder = AtomicFolder::create(path).unwrap();
        fs::write(folder.path().join(file), file).unwrap();
        folder
    }

    fn entries(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_folder_is_there_when_it_is_finished() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/best");
        drop(folder_with(&path, "x"));
        assert_eq!(entries(&root.path().join("a")), [""; 0]);
        let folder = folder_with(&path, "x");
        assert!(!path.exists());
        folder.finish().unwrap();
        assert_eq!(entries(&path), ["x"]);
        assert_eq!(entries(&root.path().join("a")), ["best"]);
        assert!(AtomicFolder::create(Path::new("/")).unwrap_err().to_string().contains("no name"));
    }

    #[test]
    fn finish_takes_the_place_of_an_empty_folder_only() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("best");
        fs::create_dir(&path).unwrap();
        folder_with(&path, "x").finish().unwrap();
        let error = folder_with(&path, "y").finish().unwrap_err();
        assert_eq!((error.action, &error.path), ("replace", &path));
        assert_eq!((entries(&path), entries(root.path())), (vec!["x".into()], vec!["best".into()]));
    }

    #[test]
    fn replace_takes_the_place_of_anything_and_puts_it_back_when_it_fails() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("best");
        folder_with(&path, "old").replace().unwrap();
        // The new folder is gone: the second rename fails.
        assert_eq!(swap(&root.path().join("gone"), &path).unwrap_err().action, "rename a folder to");
        assert_eq!((entries(&path), entries(root.path())), (vec!["old".into()], vec!["best".into()]));
        folder_with(&path, "new").replace().unwrap();
        assert_eq!((entries(&path), entries(root.path())), (vec!["new".into()], vec!["best".into()]));
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        folder_with(&path, "new").replace().unwrap();
        assert_eq!((entries(&path), entries(root.path())), (vec!["new".into()], vec!["best".into()]));
    }
}
