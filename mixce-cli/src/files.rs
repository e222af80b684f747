//! Atomic output files.

use std::fs::{self, File, TryLockError};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::error::Problem;

/// Refuses an output file that exists, unless overwriting is allowed, and anything that is not a regular file.
pub(crate) fn refuse_existing(path: &Path, overwrite: bool) -> Result<()> {
    // The final rename would replace a device, a pipe or a link with a file.
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let problem = Problem::new(format!("output `{}` is not a regular file", path.display()));
        return Err(problem.hint("results go to stdout without this flag").into());
    }
    if overwrite || !path.exists() {
        return Ok(());
    }
    let problem = Problem::new(format!("output file `{}` exists", path.display()));
    Err(problem.hint("choose another name, or replace it with `--overwrite`").into())
}

/// Refuses an output that is one of the inputs, also under another name.
pub(crate) fn refuse_input<'a>(out: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let Ok(real) = fs::canonicalize(out) else { return Ok(()) };
    match inputs.into_iter().find(|input| fs::canonicalize(input).is_ok_and(|input| input == real)) {
        None => Ok(()),
        Some(input) => {
            Err(Problem::new(format!("output `{}` is the input `{}`", out.display(), input.display())).into())
        }
    }
}

/// A file that gets its name only once it is complete and on disk; if dropped earlier, nothing is left.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    path: PathBuf,
    partial: PathBuf,
    file: Option<BufWriter<File>>,
    /// Whether the temporary name is no longer ours.
    renamed: bool,
}

impl AtomicFile {
    /// Opens a temporary file beside `path`, creating its folder if necessary. Several processes may do this at once: the last one to
    /// finish wins.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let partial = partial_path(path, &format!("partial-{}", std::process::id()))?;
        let file =
            File::create(&partial).with_context(|| format!("cannot create `{}`", partial.display()))?;
        Ok(Self { path: path.into(), partial, file: Some(BufWriter::new(file)), renamed: false })
    }

    /// As above for an output named by the user: an existing file is refused unless `overwrite` is set, as is one that another process is
    /// writing.
    pub(crate) fn claim(path: &Path, overwrite: bool) -> Result<Self> {
        refuse_existing(path, overwrite)?;
        let partial = partial_path(path, "partial")?;
        let file = lock(&partial, path)?;
        // The previous holder of the lock may have finished.
        refuse_existing(path, overwrite)?;
        file.set_len(0).with_context(|| format!("cannot write `{}`", partial.display()))?;
        Ok(Self { path: path.into(), partial, file: Some(BufWriter::new(file)), renamed: false })
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_mut().context("the file is finished")?;
        file.write_all(bytes).with_context(|| format!("cannot write `{}`", self.partial.display()))
    }

    /// Syncs the file and renames it into place.
    pub(crate) fn finish(mut self) -> Result<()> {
        let cannot = format!("cannot write `{}`", self.path.display());
        let file = self.file.take().context("the file is finished")?;
        let file = file.into_inner().map_err(|e| e.into_error()).with_context(|| cannot.clone())?;
        file.sync_all().with_context(|| cannot.clone())?;
        fs::rename(&self.partial, &self.path).with_context(|| cannot)?;
        self.renamed = true;
        Ok(())
    }
}

/// `.NAME.ENDING` beside `path`, creating its folder if necessary.
fn partial_path(path: &Path, ending: &str) -> Result<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().with_context(|| format!("`{}` is not a file name", path.display()))?);
    name.push(format!(".{ending}"));
    let partial = path.with_file_name(name);
    if let Some(folder) = partial.parent().filter(|f| !f.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    }
    Ok(partial)
}

/// Opens and locks `partial`. The system releases the lock when the process ends, however it ends.
pub(crate) fn lock(partial: &Path, shown: &Path) -> Result<File> {
    loop {
        let file = File::options().create(true).append(true).read(true).open(partial);
        let file = file.with_context(|| format!("cannot create `{}`", partial.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let problem =
                    Problem::new(format!("`{}` is being written by another process", shown.display()));
                return Err(problem.hint("wait until it has ended, or choose another name").into());
            }
            Err(TryLockError::Error(error)) => {
                tracing::warn!("cannot lock `{}` against other processes: {error}", partial.display());
            }
        }
        // Between opening and locking, the previous holder of the lock may have renamed the file.
        if is_at(&file, partial) {
            return Ok(file);
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |metadata: std::io::Result<fs::Metadata>| metadata.map(|data| (data.dev(), data.ino())).ok();
    id(file.metadata()).is_some_and(|own| Some(own) == id(fs::metadata(path)))
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.renamed {
            // Best effort: a file that cannot be removed is left.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.txt");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write(b"x").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 0);
        let mut file = AtomicFile::create(&path).unwrap();
        file.write(b"x").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
        assert!(refuse_existing(&path, false).is_err() && refuse_existing(&path, true).is_ok());
    }

    #[test]
    fn an_output_is_claimed_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        // Leftovers of a killed process neither block nor enter the result.
        fs::write(folder.path().join(".a.txt.partial"), "half").unwrap();
        let mut first = AtomicFile::claim(&path, false).unwrap();
        let error = AtomicFile::claim(&path, true).unwrap_err();
        assert!(error.to_string().contains("`") && error.to_string().contains("another process"), "{error}");
        first.write(b"x").unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
        assert!(AtomicFile::claim(&path, false).unwrap_err().to_string().contains("exists"));
        drop(AtomicFile::claim(&path, true).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_output_is_no_input() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let other = folder.path().join("./x/../a.txt");
        refuse_input(&path, [path.as_path()]).unwrap();
        fs::create_dir(folder.path().join("x")).unwrap();
        fs::write(&path, "x").unwrap();
        assert!(refuse_input(&other, [path.as_path()]).unwrap_err().to_string().contains("is the input"));
        refuse_input(&folder.path().join("b"), [path.as_path()]).unwrap();
    }
}
