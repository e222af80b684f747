//! A Hugging Face hub client: downloads models and data sets into the cache shared with the Python tools, and uploads folders.
//!
//! ```no_run
//! use mixce_hub::{Hub, HubEnvironment, ModelSource, NoProgress};
//!
//! if let ModelSource::Hub(id) = ModelSource::parse("openai-community/gpt2")? {
//!     let snapshot = Hub::new(HubEnvironment::from_process()?)?.fetch_model(&id, &mut NoProgress)?;
//!     println!("{} is commit {}", snapshot.path.display(), snapshot.commit);
//! }
//! # Ok::<(), mixce_hub::Error>(())
//! ```
//!
//! # What hf-hub does, and what is done here
//! hf-hub 0.5 resolves a revision to a commit and its files (`info`), builds addresses and cache names (`Repo`) and defines the
//! location of blobs and snapshots (`Cache`). The rest is done here, for these reasons:
//! - *Transfers.* hf-hub verifies no checksum, and appends any response to a partial file, even the whole file from a server that
//!   ignores `Range`. Here SHA-256 or git's SHA-1 from the etag, lengths and `Content-Range` are checked.
//! - *Timeouts.* Its requests have none, and its errors keep only the status of a refusal. Here there are timeouts, retries that
//!   respect `Retry-After`, and the hub's error codes and messages, also for `info`.
//! - *Token.* `Debug` of its client shows it. Here it is sent only to the hub's own scheme, host and port.
//! - *Offline.* It does not support `HF_HUB_OFFLINE`, and checks a snapshot only for a single file. Here no client is even created
//!   offline, and the snapshot must be complete.
//! - *Environment.* By default it reads `HF_*` and the home folder itself. Here everything but the proxy comes from a
//!   [`HubEnvironment`], so that the program decides and tests need no process environment.
//! - *References.* It writes `refs/REVISION` in place. Here the write is atomic.
//! - *Uploads.* It has none. Here they use plain HTTP and the git LFS protocol, and storage addresses get no token.
//!
//! The hub's other transport, xet, is not used: the hub serves every xet file over plain HTTP too, where it can be resumed
//! and verified. Requests use ureq, hf-hub's own client: blocking, with rustls and ring, the system's trusted certificates, and the
//! proxy of `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY` (the first that is set, for every address except those in `NO_PROXY` and a hub on
//! localhost).

mod address;
mod cache;
mod checksum;
mod dataset;
mod environment;
mod error;
mod files;
mod folder;
mod http;
mod progress;
mod push;
mod refusal;
mod remote;
mod retry;
mod send;
mod source;
mod transfer;
mod upload;

use std::path::{Path, PathBuf};

pub use environment::{DEFAULT_ENDPOINT, HubEnvironment, Retries, Token};
pub use error::{Error, Result};
pub use progress::{FetchProgress, FileProgress, FileState, NoProgress};
pub use push::{PushRequest, Pushed};
pub use source::{DEFAULT_REVISION, ModelId, ModelSource, RepositoryId, RepositoryKind};

use cache::RepositoryCache;
use files::{Part, Plan};
use remote::Remote;

/// Maximum number of file names in an error message.
const MAX_LISTED: usize = 12;

/// A downloaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that holds the files: in the cache, links to the bytes; do not write to it.
    pub path: PathBuf,
    /// The commit of the revision.
    pub commit: String,
    /// The files of the checkpoint, relative to `path`; the cache may hold more that other tools have fetched.
    pub files: Vec<String>,
}

/// A client of one hub and one cache.
#[derive(Debug)]
pub struct Hub {
    environment: HubEnvironment,
    /// `None` when offline.
    remote: Option<Remote>,
}

impl Hub {
    /// A client with these settings. Nothing is sent yet; offline, no HTTP client is created.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidEndpoint`], or [`Error::Client`] if TLS cannot be set up.
    pub fn new(environment: HubEnvironment) -> Result<Self> {
        let remote = if environment.offline { None } else { Some(Remote::new(environment.clone())?) };
        Ok(Self { environment, remote })
    }

    /// The settings.
    pub fn environment(&self) -> &HubEnvironment {
        &self.environment
    }

    /// Downloads a checkpoint into the cache, unless it is already there.
    ///
    /// The files are `config.json`, the generation configuration and the tokenizer's files if they exist, and the weights:
    /// `model.safetensors`, else `model.safetensors.index.json` with its shards, else `pytorch_model.bin`, else the only GGUF file,
    /// which needs no `config.json`. Files already in the
    /// cache are not transferred again. Offline only the cache is used; it is also used, with a warning, if the network or the
    /// hub fails and it has the whole checkpoint.
    ///
    /// # Errors
    /// Any [`Error`]. Partial downloads are kept, unless they are damaged.
    pub fn fetch_model(&self, id: &RepositoryId, progress: &mut dyn FetchProgress) -> Result<Snapshot> {
        self.fetch(id, Part::Model, progress)
    }

    /// As [`Hub::fetch_model`], but only the tokenizer's files; the repository may have no model.
    ///
    /// # Errors
    /// As [`Hub::fetch_model`].
    pub fn fetch_tokenizer(&self, id: &RepositoryId, progress: &mut dyn FetchProgress) -> Result<Snapshot> {
        self.fetch(id, Part::Tokenizer, progress)
    }

    fn fetch(&self, id: &RepositoryId, part: Part, progress: &mut dyn FetchProgress) -> Result<Snapshot> {
        let Some(remote) = &self.remote else { return self.cached(id, part) };
        match self.download(remote, id, part, progress) {
            Err(error) if error.is_transient() => match self.cached(id, part) {
                Ok(snapshot) => {
                    tracing::warn!(%error, model = %id, commit = snapshot.commit, "the hub cannot be reached; using the cache");
                    Ok(snapshot)
                }
                Err(_) => Err(error),
            },
            result => result,
        }
    }

    /// The checkpoint in the cache, without network access.
    ///
    /// # Errors
    /// [`Error::NotCached`] with the first missing file, or [`Error::ShardIndex`].
    pub fn cached_model(&self, id: &RepositoryId) -> Result<Snapshot> {
        self.cached(id, Part::Model)
    }

    fn cached(&self, id: &RepositoryId, part: Part) -> Result<Snapshot> {
        let cache = RepositoryCache::new(&self.environment.cache_dir, id);
        let not_cached = |missing| not_cached(id, missing);
        let commit = cached_commit(&cache, id)?;
        let path = cache.snapshot(&commit);
        if !path.is_dir() {
            return Err(not_cached(path));
        }
        let plan =
            Plan::of(part, |file| path.join(file).is_file(), &gguf_models(&path)?).map_err(|missing| {
                not_cached(path.join(if part == Part::Tokenizer {
                    "tokenizer.json"
                } else if missing.contains(files::CONFIG) {
                    files::CONFIG
                } else {
                    files::WEIGHTS
                }))
            })?;
        let mut files: Vec<String> = plan.first().map(str::to_owned).collect();
        files.extend(plan.weights(&path, id.repository())?);
        match files.iter().find(|file| !path.join(file).is_file()) {
            Some(missing) => Err(not_cached(path.join(missing))),
            None => Ok(Snapshot { path, commit, files }),
        }
    }

    /// Downloads the checkpoint and copies its files to `folder`, which must be empty or not exist.
    ///
    /// The files are copies, not links, so changing them does not affect the cache. After a failure `folder` is unchanged.
    ///
    /// # Errors
    ///
    /// [`Error::FolderNotEmpty`] before anything is fetched, and as [`Hub::fetch_model`].
    pub fn download_to(
        &self,
        id: &RepositoryId,
        folder: &Path,
        progress: &mut dyn FetchProgress,
    ) -> Result<Snapshot> {
        folder::check_empty(folder)?;
        let snapshot = self.fetch_model(id, progress)?;
        folder::copy(&snapshot, folder)?;
        Ok(Snapshot { path: folder.to_owned(), ..snapshot })
    }

    fn download(
        &self,
        remote: &Remote,
        id: &RepositoryId,
        part: Part,
        progress: &mut dyn FetchProgress,
    ) -> Result<Snapshot> {
        let listing = remote.listing(id)?;
        let has = |file: &str| listing.files.iter().any(|name| name == file);
        let incomplete = |missing: String| Error::Incomplete {
            repository: id.repository().to_owned(),
            revision: id.revision().to_owned(),
            missing,
            listing: abbreviate(&listing.files),
        };
        let gguf: Vec<String> =
            listing.files.iter().filter(|name| files::is_gguf_model(name)).cloned().collect();
        let plan = Plan::of(part, has, &gguf).map_err(incomplete)?;
        let cache = RepositoryCache::new(&self.environment.cache_dir, id);
        let path = cache.snapshot(&listing.commit);
        let fetch = Fetch { remote, cache: &cache, id, commit: &listing.commit };
        let mut files: Vec<String> = plan.first().map(str::to_owned).collect();
        for file in &files {
            fetch.file(file, progress)?;
        }
        let weights = plan.weights(&path, id.repository())?;
        // Validate the index before downloading gigabytes.
        if let Some(missing) = weights.iter().find(|file| !has(file)) {
            return Err(incomplete(format!("shard `{missing}`, which its index names")));
        }
        for file in &weights {
            fetch.file(file, progress)?;
        }
        files.extend(weights);
        // Last, so that a revision in the cache means a commit that is complete.
        cache.write_reference(id.revision(), &listing.commit)?;
        Ok(Snapshot { path, commit: listing.commit, files })
    }
}

/// The download of one model's files.
struct Fetch<'a> {
    remote: &'a Remote,
    cache: &'a RepositoryCache,
    id: &'a RepositoryId,
    commit: &'a str,
}

impl Fetch<'_> {
    /// Ensures that the snapshot has this file.
    fn file(&self, name: &str, progress: &mut dyn FetchProgress) -> Result<()> {
        let pointer = self.cache.snapshot(self.commit).join(name);
        if let Ok(data) = pointer.metadata()
            && data.is_file()
        {
            report_cached(name, data.len(), progress);
            return Ok(());
        }
        let file = self.remote.describe(self.id, self.commit, name)?;
        let blob = self.cache.blob(&file.etag);
        if !blob.is_file() {
            let _lock = self.cache.lock(&file.etag)?;
            // Another process may have fetched it while we waited.
            if !blob.is_file() {
                let incomplete = self.cache.incomplete(&file.etag);
                transfer::transfer(self.remote, self.id, &file, (&incomplete, &blob), progress)?;
                return self.cache.link(self.commit, name, &file.etag);
            }
        }
        report_cached(name, blob.metadata().map_or(0, |data| data.len()), progress);
        self.cache.link(self.commit, name, &file.etag)
    }
}

fn report_cached(name: &str, bytes: u64, progress: &mut dyn FetchProgress) {
    progress.update(&FileProgress {
        name,
        bytes_done: bytes,
        bytes_total: Some(bytes),
        state: FileState::Cached,
    });
}

fn abbreviate(names: &[String]) -> String {
    let shown = names.iter().take(MAX_LISTED).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        count if count > MAX_LISTED => format!("{shown} and {} more", count - MAX_LISTED),
        _ => shown,
    }
}

/// The GGUF files of a snapshot.
fn gguf_models(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io("read", path))? {
        let name = entry.map_err(Error::io("read", path))?.file_name().to_string_lossy().into_owned();
        if files::is_gguf_model(&name) && path.join(&name).is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The error that `missing` is not in the cache.
fn not_cached(id: &RepositoryId, missing: PathBuf) -> Error {
    let (repository, revision) = (id.repository().to_owned(), id.revision().to_owned());
    Error::NotCached { repository, revision, missing }
}

/// The commit that the cache holds for the revision.
fn cached_commit(cache: &RepositoryCache, id: &RepositoryId) -> Result<String> {
    cache.commit(id.revision())?.ok_or_else(|| not_cached(id, cache.reference(id.revision())))
}

/// The example of the README, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
