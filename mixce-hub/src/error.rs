//! The errors of this crate.

use std::{io, path::PathBuf, time::Duration};

use mixce_base::Hint;
use mixce_base::files::FileError;

use crate::source::RepositoryKind;

/// The result of a hub operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the hub client. The message says what, where, expected and got; [`Error::hint`] says what to do.
///
/// No variant ever carries the access token.
#[expect(missing_docs, reason = "the messages say what such fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model argument is neither an existing folder nor a well-formed hub id.
    #[error("`{given}` is not a model: {reason}")]
    InvalidSource { given: String, reason: String },
    /// The name of a data set is not a hub id.
    #[error("`{given}` is not a data set on the hub: {reason}")]
    InvalidDataset { given: String, reason: String },
    /// A repository has none of the required files.
    #[error("the {kind} `{repository}` at revision `{revision}` has no {wanted}; its files: {listing}")]
    NoSuchFiles {
        /// Whether it is a model or a data set.
        kind: RepositoryKind,
        repository: String,
        revision: String,
        wanted: String,
        /// The first of the names that are there.
        listing: String,
    },
    /// An operation that requires network access.
    #[error("uploading needs the network, and `HF_HUB_OFFLINE` is set")]
    NoNetwork,
    /// An operation that requires an access token.
    #[error("uploading to {endpoint} needs an access token")]
    NoToken { endpoint: String },
    /// An empty folder.
    #[error("there is nothing to upload in `{}`", .folder.display())]
    NothingToPush { folder: PathBuf },
    /// No environment variable gives the cache folder.
    #[error(
        "no folder for the hub cache: none of `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME` and `HOME` is set"
    )]
    NoCacheFolder,
    /// `HF_ENDPOINT` is not an http(s) address.
    #[error("the hub endpoint `{endpoint}` is not an http(s) address: {reason}")]
    InvalidEndpoint { endpoint: String, reason: String },
    /// The access token cannot be sent in an HTTP header.
    #[error("the access token from {origin} holds a character that cannot be sent in a header")]
    InvalidToken { origin: String },
    /// The HTTP client could not be set up.
    #[error("the HTTP client could not be set up: {reason}")]
    Client { reason: String },
    /// The hub requires a valid login (HTTP 401).
    #[error("{endpoint} asks for a login to {action} `{repository}`{}{}", if *.token_sent { ", and refuses the access token that was sent" } else { "" }, words(.message))]
    Unauthorized {
        endpoint: String,
        /// What was requested: `read`, `write to`.
        action: &'static str,
        repository: String,
        /// Whether a token was sent.
        token_sent: bool,
        message: Option<String>,
    },
    /// The login is valid but may not read this model (HTTP 403), or the model is gated.
    #[error("{endpoint} does not let {} {action} `{repository}`{}{}", if *.token_sent { "this account" } else { "an anonymous user" }, if *.gated { ", which is gated" } else { "" }, words(.message))]
    Forbidden {
        endpoint: String,
        /// What was requested: `read`, `write to`.
        action: &'static str,
        repository: String,
        /// Whether a token was sent.
        token_sent: bool,
        /// Whether the hub said that the model is gated.
        gated: bool,
        message: Option<String>,
    },
    /// There is no such model, as far as this login can see.
    #[error("{endpoint} has no {kind} `{repository}`, or it is private")]
    RepositoryNotFound {
        endpoint: String,
        /// Whether it is a model or a data set.
        kind: RepositoryKind,
        repository: String,
    },
    /// The model has no such branch, tag or commit.
    #[error("{endpoint} has no revision `{revision}` of a {kind} `{repository}`")]
    RevisionNotFound {
        endpoint: String,
        /// Whether it is a model or a data set.
        kind: RepositoryKind,
        repository: String,
        /// The branch, tag or commit that was requested.
        revision: String,
    },
    /// A file that should be there is not.
    #[error("the {kind} `{repository}` has no file `{file}` at revision `{revision}` on {endpoint}")]
    FileNotFound {
        endpoint: String,
        /// Whether it is a model or a data set.
        kind: RepositoryKind,
        repository: String,
        revision: String,
        file: String,
    },
    /// The hub limits the rate of requests (HTTP 429) and went on doing so.
    #[error("{endpoint} limits the rate of requests{}", .retry_after.map(|after| format!(" and asks to wait {} s", after.as_secs())).unwrap_or_default())]
    RateLimited {
        endpoint: String,
        /// The wait that the server asked for.
        retry_after: Option<Duration>,
    },
    /// Any other HTTP status that is not success.
    #[error("{url} responded with HTTP status {status}{}", words(.message))]
    Status { url: String, status: u16, message: Option<String> },
    /// No answer, or the connection was lost or stalled, also after the retries.
    #[error("no complete response from {url}: {reason}")]
    Connection { url: String, reason: String },
    /// The answer was a success but not what the hub's protocol says.
    #[error("{url} sent an invalid response: {reason}")]
    Malformed { url: String, reason: String },
    /// A name from the server would lead outside the model's folder.
    #[error(
        "refused the {what} `{name}` of the model `{repository}`: it is not a plain name inside the model's folder"
    )]
    UnsafeName {
        /// What the name stands for: a file, a shard, an etag, a commit.
        what: &'static str,
        name: String,
        repository: String,
    },
    /// The model has no weights in a known format, or no configuration.
    #[error(
        "`{repository}` at revision `{revision}` is not a checkpoint: it has no {missing}; its files: {listing}"
    )]
    Incomplete {
        repository: String,
        revision: String,
        missing: String,
        /// The first of the names that are there.
        listing: String,
    },
    /// The shard index cannot be read.
    #[error("the shard index `{}` cannot be used: {reason}", .path.display())]
    ShardIndex {
        /// The index file.
        path: PathBuf,
        reason: String,
    },
    /// The bytes that arrived are not those the hub promised.
    #[error(
        "`{file}` of `{repository}` arrived damaged: its {algorithm} should be {expected}, got {got}; it was not kept"
    )]
    Checksum {
        repository: String,
        file: String,
        /// `SHA-256`, or `git SHA-1` for small files.
        algorithm: &'static str,
        expected: String,
        /// The checksum of the bytes that arrived.
        got: String,
    },
    /// More bytes arrived than the hub announced.
    #[error(
        "`{file}` of `{repository}` is longer than announced: expected {expected_bytes} bytes, got {got_bytes} or more; it was not kept"
    )]
    TooLong {
        repository: String,
        file: String,
        expected_bytes: u64,
        /// What had arrived when the transfer was stopped.
        got_bytes: u64,
    },
    /// Offline, and the cache does not hold what is needed.
    #[error("offline (`HF_HUB_OFFLINE`), and the cache does not hold `{repository}` at revision `{revision}`: missing {}", .missing.display())]
    NotCached {
        repository: String,
        revision: String,
        /// The file or folder that is not there.
        missing: PathBuf,
    },
    /// Another process holds the lock of this file and makes no progress.
    #[error("another process holds the lock `{}` and has made no progress for {} s", .path.display(), .waited.as_secs())]
    Locked { path: PathBuf, waited: Duration },
    /// The folder to write to holds something already.
    #[error("the output folder `{}` is not empty", .path.display())]
    FolderNotEmpty { path: PathBuf },
    /// The caller stopped the transfer; what has arrived is kept and resumed the next time.
    #[error("the download of `{file}` was stopped")]
    Stopped { file: String },
    /// A file operation failed.
    #[error("could not {action} `{}`: {source}", .path.display())]
    Io {
        /// What was tried: `create`, `read`, ...
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn words(message: &Option<String>) -> String {
    message.as_ref().map(|message| format!(": {message}")).unwrap_or_default()
}

impl From<FileError> for Error {
    fn from(FileError { action, path, source }: FileError) -> Self {
        Self::Io { action, path, source }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::InvalidSource { .. } => {
                "give an existing folder, or a hub id such as `openai-community/gpt2` or `openai-community/gpt2@main`".into()
            }
            Self::InvalidDataset { .. } => "give an id such as `Salesforce/wikitext`".into(),
            Self::NoNetwork => "unset `HF_HUB_OFFLINE`".into(),
            Self::NoToken { .. } => "create a token with write permission in the hub's settings and set `HF_TOKEN`, or log in with the Python tools".into(),
            Self::NothingToPush { .. } => "give the folder of an exported model, such as `runs/first/best`".into(),
            Self::Forbidden { action: "write to", .. } => "the token needs write permission, and the account must own the repository or belong to its organisation".into(),
            Self::NoCacheFolder => "set `HF_HOME` to a folder with room for the models".into(),
            Self::InvalidEndpoint { .. } => "set `HF_ENDPOINT` to an address such as `https://huggingface.co`, or unset it".into(),
            Self::InvalidToken { .. } => "a token is one word such as `hf_...`; log in again or set `HF_TOKEN`".into(),
            Self::Unauthorized { token_sent: true, .. } => {
                "the token may be mistyped or revoked: create a new one in the hub's settings and set `HF_TOKEN`".into()
            }
            Self::Unauthorized { token_sent: false, .. } => {
                "check the spelling of the id; if the model is private or gated, set `HF_TOKEN` to a token that may read it".into()
            }
            Self::Forbidden { gated: true, endpoint, repository, token_sent, .. } => format!(
                "accept the model's terms at {endpoint}/{repository}{}",
                if *token_sent { " with this account" } else { ", then set `HF_TOKEN` to your token" }
            ),
            Self::Forbidden { token_sent: true, .. } => "ask the owner for access, or use a token with read permission in `HF_TOKEN`".into(),
            Self::Forbidden { token_sent: false, .. } => "set `HF_TOKEN` to a token that may read the model".into(),
            Self::RepositoryNotFound { repository, .. } if !repository.contains('/') => format!(
                "check the spelling; ids usually have an owner, as in `openai-community/gpt2`; a local folder named `{repository}` does not exist either"
            ),
            Self::RepositoryNotFound { .. } => {
                "check the spelling; for a private model set `HF_TOKEN`; a local folder must exist, and is best written `./folder`".into()
            }
            Self::RevisionNotFound { .. } => {
                "check the spelling of the branch, tag or full commit hash after `@`, and of the id; leave `@...` out for `main`".into()
            }
            Self::RateLimited { .. } => "wait, or set `HF_TOKEN`: the limits are higher with a login".into(),
            Self::Connection { .. } | Self::Status { status: 500.., .. } => {
                "run it again: partial downloads are resumed; `HF_HUB_OFFLINE=1` uses only the cache, `HF_ENDPOINT` another hub".into()
            }
            Self::Incomplete { .. } => {
                "the weights must be `model.safetensors`, `model.safetensors.index.json` with its shards, `pytorch_model.bin` or one GGUF file; of several, fetch one yourself and name the file".into()
            }
            Self::Checksum { .. } | Self::TooLong { .. } => {
                "run it again; if it happens twice, a proxy or mirror (`HF_ENDPOINT`) is changing the file".into()
            }
            Self::NotCached { repository, revision, .. } => format!(
                "unset `HF_HUB_OFFLINE` and run `mixce download {repository}@{revision}` once with network access, or point `HF_HOME` to the right cache"
            ),
            Self::Locked { .. } => "end the other process, or delete the lock file if there is none".into(),
            Self::FolderNotEmpty { .. } => "choose a new folder; nothing was overwritten".into(),
            Self::Stopped { .. } => "run it again to resume where it stopped".into(),
            Self::UnsafeName { .. } => "do not use this model: such names are a sign of an attack".into(),
            Self::ShardIndex { .. } | Self::Malformed { .. } | Self::FileNotFound { .. } => {
                "check `HF_ENDPOINT`, and whether the model is complete on the hub".into()
            }
            Self::NoSuchFiles { .. } | Self::Status { .. } | Self::Client { .. } | Self::Io { .. } => return None,
        })
    }
}

impl Error {
    /// Whether the same request may succeed if retried.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::RateLimited { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 500 | 502..=504),
            _ => false,
        }
    }

    /// The wait that the server asked for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
