//! Atomic file writes.
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// A name beside `path` that no other process or thread uses: `.NAME.PID-N.tmp`.
#[must_use]
pub fn temporary_beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().map_or_else(|| "file".into(), |n| n.to_string_lossy().into_owned());
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{unique}.tmp", std::process::id()))
}

/// A line writer whose file gets its name only once it is complete and on disk; if dropped earlier, nothing is left.
#[derive(Debug)]
pub struct LinesFile {
    path: PathBuf,
    partial: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl LinesFile {
    /// Opens a temporary file beside `path`, whose folder must exist.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        let partial = temporary_beside(path);
        let file = OpenOptions::new().write(true).create_new(true).open(&partial);
        let file = file.map_err(Error::io("create", &partial))?;
        Ok(Self { path: path.into(), partial, writer: Some(BufWriter::with_capacity(1 << 18, file)) })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn line(&mut self, text: &str) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer
            .write_all(text.as_bytes())
            .and_then(|()| writer.write_all(b"\n"))
            .map_err(Error::io("write", &self.partial))
    }

    /// Syncs the file and renames it into place, replacing an existing one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        if let Some(mut writer) = self.writer.take() {
            writer.flush().map_err(Error::io("write", &self.partial))?;
            writer.get_ref().sync_all().map_err(Error::io("sync", &self.partial))?;
        }
        fs::rename(&self.partial, &self.path).map_err(Error::io("rename a file to", &self.path))
    }
}

impl Drop for LinesFile {
    fn drop(&mut self) {
        // After `finish` there is nothing left under this name.
        let _ = fs::remove_file(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let mut file = LinesFile::create(&path).unwrap();
        file.line("x").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let mut file = LinesFile::create(&path).unwrap();
        file.line("x").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
