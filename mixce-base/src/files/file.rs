//! One file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{FileError, create_parent, names, sync_parent};

/// A file that gets its name only when it is complete and on disk; dropped before, it leaves nothing.
///
/// Any number of processes may write the same file at once: each has a temporary file of its own, and the last to finish wins.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: BufWriter<File>,
    finished: bool,
}

impl AtomicFile {
    /// Makes a temporary file beside `path`, whose folder is made if need be.
    ///
    /// # Errors
    /// When the path ends in no name, or the system refuses.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        create_parent(path)?;
        // Only ever a new file: what a link of that name points to is never opened.
        let (temporary, file) = names::create_beside(path, |path| File::create_new(path))?;
        Ok(Self {
            target: path.into(),
            temporary,
            writer: BufWriter::with_capacity(1 << 18, file),
            finished: false,
        })
    }

    /// Adds bytes; as [`Write::write_all`], with the name of the file in the error.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.writer.write_all(bytes).map_err(FileError::of("write", &self.target))
    }

    /// Waits until the file is on disk and gives it its name, in place of one that is there.
    ///
    /// # Errors
    /// When the system refuses; what had the name before keeps it then.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.writer.flush().map_err(FileError::of("write", &self.target))?;
        self.writer.get_ref().sync_all().map_err(FileError::of("sync", &self.target))?;
        fs::rename(&self.temporary, &self.target).map_err(FileError::of("rename a file to", &self.target))?;
        self.finished = true;
        sync_parent(&self.target)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.writer.seek(position)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.finished {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a file whole or not at all; its folder is made if need be.
///
/// # Errors
/// As [`AtomicFile`]; what was there before stays.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = AtomicFile::create(path)?;
    file.put(bytes)?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_and_the_old_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.txt");
        let mut file = AtomicFile::create(&path).unwrap();
        file.put(b"half").unwrap();
        assert_eq!(entries(path.parent().unwrap()), 1);
        drop(file);
        assert_eq!(entries(path.parent().unwrap()), 0);
        write_atomic(&path, b"old").unwrap();
        AtomicFile::create(&path).unwrap().put(b"half").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(entries(path.parent().unwrap()), 1);
    }

    #[test]
    fn two_writers_have_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let (mut first, mut second) =
            (AtomicFile::create(&path).unwrap(), AtomicFile::create(&path).unwrap());
        first.put(b"first").unwrap();
        second.put(b"second").unwrap();
        second.finish().unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(entries(folder.path()), 1);
    }

    #[test]
    fn a_folder_in_the_way_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::create_dir(&path).unwrap();
        let error = write_atomic(&path, b"x").unwrap_err();
        assert_eq!((error.action, &error.path), ("rename a file to", &path));
        assert_eq!(entries(folder.path()), 1);
    }

    /// As any file that a program creates, whatever the umask of the test is.
    #[cfg(unix)]
    #[test]
    fn permissions_follow_the_umask() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let [ours, plain] = ["ours", "plain"].map(|name| folder.path().join(name));
        write_atomic(&ours, b"x").unwrap();
        fs::write(&plain, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
