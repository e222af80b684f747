//! Parses a model argument: a local folder, or a model on the hub.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use hf_hub::{Repo, RepoType};

use crate::error::{Error, Result};

/// The default revision.
pub const DEFAULT_REVISION: &str = "main";

/// The longest repository id that the hub allows, in bytes.
const MAX_ID_BYTES: usize = 96;

/// The kind of a hub repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepositoryKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl fmt::Display for RepositoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::Dataset => "data set",
        })
    }
}

/// A model or data set on the hub: its id and the branch, tag or commit to use.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepositoryId {
    kind: RepositoryKind,
    repository: String,
    revision: String,
}

/// The id of a model.
pub type ModelId = RepositoryId;

impl RepositoryId {
    /// A model id from its two parts: `owner/name` (or `name`, for the few models without owner) and a revision.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSource`] if either breaks the hub's rules for names: parts of letters, digits, `-`, `_` and `.`,
    /// at most one `/` and 96 bytes, no `--` or `..`, no `-` or `.` at either end; for the revision git's rules.
    pub fn new(repository: &str, revision: &str) -> Result<Self> {
        let invalid = |given: &str, reason: &str| {
            Err(Error::InvalidSource { given: given.to_owned(), reason: reason.to_owned() })
        };
        if let Some(reason) = repository_fault(repository) {
            return invalid(repository, reason);
        }
        if let Some(reason) = revision_fault(revision) {
            return invalid(&format!("{repository}@{revision}"), reason);
        }
        let kind = RepositoryKind::Model;
        Ok(Self { kind, repository: repository.to_owned(), revision: revision.to_owned() })
    }

    /// The id of a data set: `owner/name`, `name`, or either with `@revision`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidDataset`], by the rules of [`RepositoryId::new`].
    pub fn dataset(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(id) => Ok(Self { kind: RepositoryKind::Dataset, ..id }),
            Err(Error::InvalidSource { given, reason }) => Err(Error::InvalidDataset { given, reason }),
            Err(error) => Err(error),
        }
    }

    /// The same at another revision.
    ///
    /// # Errors
    ///
    /// As [`RepositoryId::new`].
    pub fn at(&self, revision: &str) -> Result<Self> {
        Ok(Self { kind: self.kind, ..Self::new(&self.repository, revision)? })
    }

    /// What it is.
    pub fn kind(&self) -> RepositoryKind {
        self.kind
    }

    /// The id without the revision: `owner/name` or `name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The branch, tag or commit; [`DEFAULT_REVISION`] if none was given.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The same as hf-hub's type, which provides addresses and names in the cache.
    pub(crate) fn repo(&self) -> Repo {
        let kind = match self.kind {
            RepositoryKind::Model => RepoType::Model,
            RepositoryKind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.repository.clone(), kind, self.revision.clone())
    }

    /// The owner, empty if there is none, and the name.
    pub(crate) fn owner_and_name(&self) -> (&str, &str) {
        self.repository.split_once('/').unwrap_or(("", &self.repository))
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision == DEFAULT_REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl FromStr for RepositoryId {
    type Err = Error;

    /// Reads `owner/name`, `name`, or either with `@revision`.
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('@') {
            Some((repository, revision)) => Self::new(repository, revision),
            None => Self::new(text, DEFAULT_REVISION),
        }
    }
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder or GGUF file on this machine.
    Local(PathBuf),
    /// A model on the hub.
    Hub(RepositoryId),
}

impl ModelSource {
    /// Reads a model argument: an existing folder or file `*.gguf` is local, all else must be a hub id, with or without `@revision`.
    ///
    /// A folder wins over a hub id of the same name, as in the Python tools.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSource`] for another file, a path that does not exist, and an id that breaks the hub's rules.
    ///
    /// ```
    /// use mixce_hub::ModelSource;
    ///
    /// let ModelSource::Hub(id) = ModelSource::parse("openai-community/gpt2@main")? else { unreachable!() };
    /// assert_eq!((id.repository(), id.revision()), ("openai-community/gpt2", "main"));
    /// assert!(ModelSource::parse("./no-such-folder").is_err());
    /// # Ok::<(), mixce_hub::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let path = Path::new(text);
        let invalid =
            |reason: &str| Error::InvalidSource { given: text.to_owned(), reason: reason.to_owned() };
        let is_gguf = || path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if !text.is_empty() && (path.is_dir() || (path.is_file() && is_gguf())) {
            return Ok(Self::Local(path.to_owned()));
        }
        if !text.is_empty() && path.exists() {
            return Err(invalid(
                "it is a file; expected the folder that holds `config.json` and the weights, or a GGUF file (`.gguf`)",
            ));
        }
        if looks_like_path(text) {
            return Err(invalid(
                "there is no such folder or GGUF file, and it cannot be a hub id (`owner/name`)",
            ));
        }
        text.parse().map(Self::Hub).map_err(|error| match error {
            Error::InvalidSource { reason, .. } => {
                invalid(&format!("there is no such folder, and as a hub id: {reason}"))
            }
            other => other,
        })
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Hub(id) => write!(f, "{id}"),
        }
    }
}

fn looks_like_path(text: &str) -> bool {
    let repository = text.split_once('@').map_or(text, |(repository, _)| repository);
    repository.starts_with(['.', '/', '~'])
        || repository.contains('\\')
        || repository.ends_with('/')
        || repository.matches('/').count() > 1
}

fn repository_fault(repository: &str) -> Option<&'static str> {
    if repository.is_empty() {
        return Some("the id is empty");
    }
    if repository.len() > MAX_ID_BYTES {
        return Some("an id has at most 96 characters");
    }
    if repository.matches('/').count() > 1 {
        return Some("an id is `owner/name`, with one `/`");
    }
    if repository.contains("--") || repository.contains("..") {
        return Some("an id holds no `--` and no `..`");
    }
    if repository.ends_with(".git") {
        return Some("an id does not end in `.git`");
    }
    repository.split('/').find_map(|part| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if part.is_empty() {
            Some("an id is `owner/name`, and neither is empty")
        } else if !part.chars().all(allowed) {
            Some("an id holds only letters, digits, `-`, `_` and `.`")
        } else if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
            Some("the parts of an id do not begin or end with `-` or `.`")
        } else {
            None
        }
    })
}

/// Git's rules for the name of a branch or tag, as far as a path made of it could do harm.
fn revision_fault(revision: &str) -> Option<&'static str> {
    if revision.is_empty() {
        return Some("the revision after `@` is empty");
    }
    if revision.len() > 255 {
        return Some("a revision has at most 255 characters");
    }
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\@\"<>|".contains(c);
    if revision.contains(forbidden) || revision.contains("..") {
        return Some("the revision after `@` is not a branch, tag or commit name");
    }
    revision
        .split('/')
        .any(|part| part.is_empty() || part.starts_with('.') || part.ends_with('.'))
        .then_some("the revision after `@` is not a branch, tag or commit name")
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;

    #[test]
    fn hub_ids_are_read() {
        for (text, repository, revision) in [
            ("openai-community/gpt2", "openai-community/gpt2", "main"),
            ("gpt2", "gpt2", "main"),
            ("owner/na.me_1@v1.0", "owner/na.me_1", "v1.0"),
            ("owner/name@refs/pr/1", "owner/name", "refs/pr/1"),
        ] {
            let expected = ModelSource::Hub(RepositoryId::new(repository, revision).unwrap());
            assert_eq!(ModelSource::parse(text).unwrap(), expected, "{text}");
        }
        assert_eq!("a/b@main".parse::<RepositoryId>().unwrap().to_string(), "a/b");
        assert_eq!("a/b@x".parse::<RepositoryId>().unwrap().to_string(), "a/b@x");
    }

    #[test]
    fn an_existing_folder_is_local() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().to_str().unwrap();
        assert_eq!(ModelSource::parse(text).unwrap(), ModelSource::Local(folder.path().to_owned()));
    }

    #[test]
    fn a_gguf_file_is_local() {
        let file = tempfile::Builder::new().suffix(".GGUF").tempfile().unwrap();
        let text = file.path().to_str().unwrap();
        assert_eq!(ModelSource::parse(text).unwrap(), ModelSource::Local(file.path().to_owned()));
        let missing = ModelSource::parse("./missing.gguf").unwrap_err().to_string();
        assert!(missing.contains("no such folder or GGUF file"), "{missing}");
    }

    #[test]
    fn a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = ModelSource::parse(file.path().to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains("it is a file"), "{error}");
    }

    #[test]
    fn what_is_neither_folder_nor_id_is_refused_by_name() {
        for text in [
            "",
            "./nowhere",
            "/no/where",
            "../x",
            "~/x",
            "a/b/c",
            "a/",
            "a b",
            "a/b@",
            "@main",
            "a/..",
            "a/b--c",
            "-a/b",
            "a/b.git",
            "a/b@../../etc",
            "a/b@/x",
            "a/b@x//y",
            "a/b@x y",
            "a\\b",
            "ü/b",
            "a/b@.hidden",
            "a@b@c",
        ] {
            let error = ModelSource::parse(text).unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{text}` is not a model: ")), "{text}: {error}");
            assert!(error.hint().unwrap().contains("openai-community/gpt2"), "{text}");
        }
        assert!(ModelSource::parse(&"x".repeat(97)).is_err());
    }
}
