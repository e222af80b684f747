//! The cache folder of one model or data set, with the layout of the Python tools.
//!
//! ```text
//! models--owner--name/           datasets--owner--name/ for a data set
//!   blobs/ETAG                   the bytes; ETAG.incomplete while they arrive
//!   refs/REVISION                the commit that a branch or tag meant the last time
//!   snapshots/COMMIT/FILE        a relative link to the blob
//! .locks/models--owner--name/ETAG.lock   held (flock) by the process that downloads the blob
//! ```

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use hf_hub::{Cache, CacheRepo};
use mixce_base::files::{temporary_beside, write_atomic};

use crate::{
    error::{Error, Result},
    files::check_word,
    source::RepositoryId,
};

/// How long another process may hold a lock without progress.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// The folder of one model in the cache.
#[derive(Debug)]
pub(crate) struct RepositoryCache {
    layout: CacheRepo,
    root: PathBuf,
    locks: PathBuf,
    repository: String,
}

impl RepositoryCache {
    pub(crate) fn new(cache_dir: &Path, id: &RepositoryId) -> Self {
        let repo = id.repo();
        let folder = repo.folder_name();
        Self {
            layout: Cache::new(cache_dir.to_owned()).repo(repo),
            root: cache_dir.join(&folder),
            locks: cache_dir.join(".locks").join(&folder),
            repository: id.repository().to_owned(),
        }
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.layout.blob_path(etag)
    }

    pub(crate) fn incomplete(&self, etag: &str) -> PathBuf {
        self.layout.blob_path(&format!("{etag}.incomplete"))
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    pub(crate) fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    /// The commit that `revision` means in the cache: itself if it is a full commit hash, else what `refs` says.
    pub(crate) fn commit(&self, revision: &str) -> Result<Option<String>> {
        if is_commit(revision) {
            return Ok(Some(revision.to_ascii_lowercase()));
        }
        let path = self.reference(revision);
        let commit = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            // `refs/pr` is a folder where `refs/pr/1` is cached: no such reference either.
            Err(error) if error.kind() == io::ErrorKind::NotFound || path.is_dir() => return Ok(None),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        check_word("commit", &commit, &self.repository)?;
        Ok(Some(commit))
    }

    /// Records the commit of a branch or tag; nothing to do for a full commit hash.
    pub(crate) fn write_reference(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit(revision)?.as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference(revision);
        Ok(write_atomic(&path, commit.as_bytes())?)
    }

    /// Makes `snapshots/COMMIT/FILE` a relative link to the blob, or a copy if links are not supported.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(file);
        create_parent(&pointer)?;
        let mut target: PathBuf = file.split('/').map(|_| "..").collect();
        target.extend(["..", "blobs", etag]);
        if fs::read_link(&pointer).is_ok_and(|there| there == target) {
            return Ok(());
        }
        // Renamed into place: another process may be reading through an older link.
        let temporary = temporary_beside(&pointer);
        if symlink(&target, &temporary).is_err() {
            fs::copy(self.blob(etag), &temporary).map_err(Error::io("copy a blob to", &temporary))?;
        }
        fs::rename(&temporary, &pointer).map_err(Error::io("write", &pointer))
    }

    /// Waits for the lock on a blob. `None` on file systems without locks.
    ///
    /// There is no time limit while the other process makes progress; a lock whose file does not grow for a minute is an error.
    pub(crate) fn lock(&self, etag: &str) -> Result<Option<File>> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        create_parent(&self.blob(etag))?;
        let file = File::options().create(true).append(true).open(&path).map_err(Error::io("open", &path))?;
        let length = || fs::metadata(self.incomplete(etag)).map(|data| data.len()).ok();
        let (mut last_length, mut last_progress) = (length(), Instant::now());
        let mut announced = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    tracing::debug!(path = %path.display(), %error, "no lock on this file system");
                    return Ok(None);
                }
            }
            if !announced {
                tracing::info!(path = %path.display(), "waiting for another process that downloads this file");
                announced = true;
            }
            if length() != last_length {
                (last_length, last_progress) = (length(), Instant::now());
            }
            if last_progress.elapsed() > LOCK_PATIENCE {
                return Err(Error::Locked { path, waited: LOCK_PATIENCE });
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Whether a revision is a full commit hash.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(crate) fn create_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(Error::io("create the folder", parent)),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(target: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(windows)]
fn symlink(target: &Path, pointer: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, pointer)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_blob_from_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepositoryCache::new(folder.path(), &"owner/name".parse().unwrap());
        create_parent(&cache.blob("e")).unwrap();
        fs::write(cache.blob("e"), "bytes").unwrap();
        for file in ["config.json", "a/b/c.json", "config.json"] {
            cache.link("c0", file, "e").unwrap();
            let pointer = folder.path().join("models--owner--name/snapshots/c0").join(file);
            assert_eq!(fs::read_to_string(&pointer).unwrap(), "bytes");
            #[cfg(unix)]
            assert!(fs::read_link(&pointer).unwrap().is_relative());
        }
    }

    #[test]
    fn references_are_kept_and_commits_need_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepositoryCache::new(folder.path(), &"name".parse().unwrap());
        assert_eq!(cache.commit("main").unwrap(), None);
        for commit in ["c0ffee", "beef", "beef"] {
            cache.write_reference("refs/pr/1", commit).unwrap();
            assert_eq!(cache.commit("refs/pr/1").unwrap().as_deref(), Some(commit));
        }
        assert_eq!(cache.commit("refs/pr").unwrap(), None);
        let hash = "0123456789abcdef0123456789abcdef01234567";
        cache.write_reference(hash, hash).unwrap();
        assert!(!cache.reference(hash).exists());
        assert_eq!(cache.commit(hash).unwrap().as_deref(), Some(hash));
        fs::write(cache.reference("main"), "../../etc").unwrap();
        assert!(matches!(cache.commit("main"), Err(Error::UnsafeName { .. })));
    }

    #[test]
    fn a_lock_excludes_a_second_holder() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepositoryCache::new(folder.path(), &"name".parse().unwrap());
        let held = cache.lock("e").unwrap();
        let second = thread::scope(|scope| {
            let waiter = scope.spawn(|| cache.lock("e"));
            thread::sleep(Duration::from_millis(150));
            assert!(!waiter.is_finished());
            drop(held);
            waiter.join().unwrap()
        });
        assert!(second.is_ok());
    }
}
