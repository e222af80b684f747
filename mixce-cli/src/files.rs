//! Output files that the user names.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use anyhow::{Context as _, Result};
use mixce_base::files::{AtomicFile, OwnTemporary, Temporary};

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

/// An output file named by the user. It gets its name only once it is complete and on disk; if dropped earlier, nothing is left.
#[derive(Debug)]
pub(crate) struct OutputFile {
    file: AtomicFile,
    _lock: Lock,
}

impl OutputFile {
    /// Refuses a file that exists, unless `overwrite` is set, and one that another process is writing. Creates its folder if necessary.
    pub(crate) fn claim(path: &Path, overwrite: bool) -> Result<Self> {
        refuse_existing(path, overwrite)?;
        let lock = Lock::take(path)?;
        // The previous holder of the lock may have finished.
        refuse_existing(path, overwrite)?;
        remove_leftovers(path)?;
        Ok(Self { file: AtomicFile::create(path)?, _lock: lock })
    }

    /// Adds bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.file.put(bytes)?)
    }

    /// Syncs the file and renames it into place.
    pub(crate) fn finish(self) -> Result<()> {
        Ok(self.file.finish()?)
    }
}

/// Removes what killed processes left of `path`. Only for the holder of its lock.
fn remove_leftovers(path: &Path) -> Result<()> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The name used by earlier versions.
    let old = format!(".{name}.partial");
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let entry = entry.with_context(|| format!("cannot read `{}`", folder.display()))?;
        let is_leftover = entry.file_name().to_str().is_some_and(|found| {
            found == old || Temporary::of(found).is_some_and(|temporary| temporary.target == name)
        });
        if is_leftover && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let path = entry.path();
            fs::remove_file(&path).with_context(|| format!("cannot remove `{}`", path.display()))?;
        }
    }
    Ok(())
}

/// Exclusive access to `NAME`: the lock file `.NAME.lock` beside it, removed on drop. The system releases the lock when the process
/// ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    // Removed before it is unlocked.
    _path: OwnTemporary,
    _file: File,
}

impl Lock {
    /// Acquires the lock, creating the folder if necessary.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().with_context(|| format!("`{}` is not a file name", path.display()))?);
        name.push(".lock");
        let lock = path.with_file_name(name);
        if let Some(folder) = lock.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        }
        let file = open_locked(&lock, path)?;
        Ok(Self { _path: OwnTemporary::adopt(lock), _file: file })
    }
}

fn open_locked(lock: &Path, shown: &Path) -> Result<File> {
    loop {
        let mut options = File::options();
        follow_no_link(options.create(true).append(true).read(true));
        let file = options.open(lock);
        let file = file.with_context(|| format!("cannot create `{}`", lock.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let problem =
                    Problem::new(format!("`{}` is being written by another process", shown.display()));
                return Err(problem.hint("wait until it has ended, or choose another name").into());
            }
            Err(TryLockError::Error(error)) => {
                tracing::warn!("cannot lock `{}` against other processes: {error}", lock.display());
            }
        }
        // Between opening and locking, the previous holder of the lock may have removed the file.
        if is_at(&file, lock) {
            return Ok(file);
        }
    }
}

/// Makes opening fail where the name is a symbolic link, which another user of a shared folder may have put there.
pub(crate) fn follow_no_link(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, nix::libc::O_NOFOLLOW);
    #[cfg(not(unix))]
    let _ = options;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_claimed_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.txt");
        fs::create_dir(folder.path().join("new")).unwrap();
        // Leftovers of killed processes neither block nor enter the result; other files are not touched.
        for left in [
            ".a.txt.partial",
            ".a.txt.7-0.tmp",
            ".a.txt.0123456789abcdef.tmp",
            ".a.txt.lock",
            ".b.7-0.tmp",
            ".a.txt.swp",
        ] {
            fs::write(path.with_file_name(left), "half").unwrap();
        }
        let mut first = OutputFile::claim(&path, false).unwrap();
        let error = OutputFile::claim(&path, true).unwrap_err();
        assert!(error.to_string().contains("`") && error.to_string().contains("another process"), "{error}");
        first.put(b"x").unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
        assert!(OutputFile::claim(&path, false).unwrap_err().to_string().contains("exists"));
        drop(OutputFile::claim(&path, true).unwrap());
        let entries = fs::read_dir(folder.path().join("new")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [".a.txt.swp", ".b.7-0.tmp", "a.txt"]);
    }

    /// In a folder that others may write to, a link under a known name would lead our writes elsewhere.
    #[cfg(unix)]
    #[test]
    fn a_planted_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        let path = folder.path().join("a.txt");
        for name in [".a.txt.lock", ".a.txt.partial"] {
            std::os::unix::fs::symlink(&victim, folder.path().join(name)).unwrap();
        }
        let error = format!("{:#}", OutputFile::claim(&path, false).unwrap_err());
        assert!(error.contains(".a.txt.lock"), "{error}");
        fs::remove_file(folder.path().join(".a.txt.lock")).unwrap();
        let mut file = OutputFile::claim(&path, false).unwrap();
        file.put(b"x").unwrap();
        file.finish().unwrap();
        assert!(!victim.exists() && fs::symlink_metadata(&path).unwrap().is_file());
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
