//! Atomic file writes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{FileError, OwnTemporary, create_parent, sync_parent};

/// A file that gets its name only once it is complete and on disk; if dropped earlier, nothing is left.
///
/// Several processes may write the same file at once: each has its own temporary file, and the last one to finish wins.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    // Dropped before the temporary: some systems do not remove open files.
    writer: BufWriter<File>,
    temporary: OwnTemporary,
}

impl AtomicFile {
    /// Opens a temporary file beside `path`, creating its folder if necessary.
    ///
    /// # Errors
    /// When the path does not end in a name, or the file cannot be created.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        create_parent(path)?;
        let (temporary, file) = OwnTemporary::file(path)?;
        Ok(Self { target: path.into(), writer: BufWriter::with_capacity(1 << 18, file), temporary })
    }

    /// Appends bytes, as [`Write::write_all`], with the path in the error.
    ///
    /// # Errors
    /// When the bytes cannot be written.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.writer.write_all(bytes).map_err(FileError::of("write", &self.target))
    }

    /// Syncs the file and renames it into place, replacing an existing one.
    ///
    /// # Errors
    /// When it cannot be written or renamed; the previous file is then unchanged.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.writer.flush().map_err(FileError::of("write", &self.target))?;
        self.writer.get_ref().sync_all().map_err(FileError::of("sync", &self.target))?;
        let target = &self.target;
        let rename =
            |from: &Path| fs::rename(from, target).map_err(FileError::of("rename a file to", target));
        self.temporary.rename(rename)?;
        sync_parent(target)
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

/// Writes a file atomically, creating its folder if necessary.
///
/// # Errors
/// As [`AtomicFile`]; the previous file is then unchanged.
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

    /// The same permissions as any new file, whatever the umask of the test.
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
