//! Models and data sets from the Hugging Face hub, through a cache that is shared with the Python tools; and folders to it.
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
//!
//! hf-hub 0.5 asks which commit a revision means and which files it has (`info`), spells repositories in addresses and in
//! the cache (`Repo`) and knows where blobs and snapshots lie (`Cache`). The rest is done here, because of what hf-hub does:
//!
//! - *Transfers.* It compares no checksum, and appends to a partial file whatever comes, also the whole file from a server
//!   that ignores `Range`. Here: SHA-256 or git's SHA-1 from the etag, lengths, `Content-Range`.
//! - *Time.* Its requests have no time limit, and of a refusal only the status is left. Here: limits on silence, retries that
//!   heed `Retry-After`, the hub's error codes and words; `info` is sent with these settings too.
//! - *Token.* `Debug` of its client shows it. Here it is added to each request to the hub's own scheme, host and port, and
//!   to no other.
//! - *Offline.* It does not know `HF_HUB_OFFLINE`, and asks of a snapshot no more than the one file. Here: without network
//!   nothing is even set up to connect, and the snapshot must be complete.
//! - *Environment.* Where nothing is passed to it, it reads `HF_*` and the home folder by itself. Here everything but the proxy comes
//!   from a [`HubEnvironment`], so that a program decides and a test needs no process environment.
//! - *References.* It writes `refs/REVISION` in place. Here it is written under another name and renamed.
//! - *Uploads.* It has none. Here they go over plain HTTP, by the git LFS protocol, to addresses that get no token.
//!
//! The hub's other transport, xet, is not used: the hub serves every xet file over plain HTTP too, where it can be resumed
//! and verified. Requests go through ureq, the client that hf-hub brings: blocking, with rustls and ring, trusting the certificates
//! that the system trusts, through the proxy of `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY` (the first that is set, for every
//! address but those in `NO_PROXY` and a hub on this machine).

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

/// Names of files that an error message lists at most.
const MAX_LISTED: usize = 12;

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that holds the files: in the cache, links to the bytes; do not write to it.
    pub path: PathBuf,
    /// The commit that the revision meant.
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
    /// A client with these settings. Nothing is sent yet; offline, nothing is set up that could send.
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

    /// Brings a checkpoint into the cache, or finds it there.
    ///
    /// Fetched are `config.json`, the generation configuration and the tokenizer's files where they exist, and the weights:
    /// `model.safetensors`, else `model.safetensors.index.json` with its shards, else `pytorch_model.bin`, else the only GGUF file, which
    /// needs no `config.json`. Files that are
    /// there already are not transferred again. Offline the cache alone is used; and with a warning in the log it is used
    /// too when the network or the hub fails and the cache holds the whole checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error`], whose variants name each way this can fail. What has arrived is kept, unless it is damaged.
    pub fn fetch_model(&self, id: &RepositoryId, progress: &mut dyn FetchProgress) -> Result<Snapshot> {
        self.fetch(id, Part::Model, progress)
    }

    /// As [`Hub::fetch_model`], the tokenizer's files alone; the repository may have no model.
    ///
    /// # Errors
    ///
    /// As there.
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

    /// The checkpoint as the cache holds it, without any network.
    ///
    /// # Errors
    ///
    /// [`Error::NotCached`] with the first thing that is missing, or [`Error::ShardIndex`].
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

    /// Fetches the checkpoint and copies its files to `folder`, which must be empty or not exist.
    ///
    /// The files are copies, not links: changing them does not harm the cache. After a failure `folder` is as it was.
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
        // Before gigabytes are fetched: is the index right?
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

/// The fetching of one model's files.
struct Fetch<'a> {
    remote: &'a Remote,
    cache: &'a RepositoryCache,
    id: &'a RepositoryId,
    commit: &'a str,
}

impl Fetch<'_> {
    /// Sees to it that the snapshot has this file.
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
