//! The error type of this crate.

use std::path::PathBuf;

use mixce_base::Hint;
use mixce_base::files::FileError;

/// The errors of making, serving and reporting a study.
#[expect(missing_docs, reason = "the messages say what such fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the study could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An operation of the file system failed.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// A line of an input file is malformed.
    #[error("`{}`, line {line}: {problem}", path.display())]
    Line {
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        problem: String,
    },
    /// A prompt occurs twice in a file.
    #[error("`{}`, line {line}: the prompt `{prompt}` is already in line {earlier}", path.display())]
    DoublePrompt { path: PathBuf, prompt: String, line: usize, earlier: usize },
    /// A prompt of one file is missing in another.
    #[error("`{}` has no row for the prompt `{prompt}` of `{}` (missing prompts: {missing})", path.display(), of.display())]
    MissingPrompt {
        path: PathBuf,
        prompt: String,
        of: PathBuf,
        /// Number of missing prompts.
        missing: usize,
    },
    /// A setting is outside its range.
    #[error("`settings.{name}`: expected {expected}, got `{got}`")]
    Setting { name: &'static str, expected: String, got: String },
    /// Too few human texts for the attention checks.
    #[error("{wanted} attention checks need as many human texts outside the {items} items, found {found}")]
    TooFewChecks { wanted: usize, items: usize, found: usize },
    /// A folder that is no study, or one that was changed.
    #[error("`{}` is not a usable study: {problem}", path.display())]
    Study { path: PathBuf, problem: String },
    /// The answers could not be read or written.
    #[error("cannot {action} the answers in `{}`: {source}", path.display())]
    Answers { action: &'static str, path: PathBuf, source: rusqlite::Error },
    /// The answers belong to another study.
    #[error("the answers in `{}` are those of another study", path.display())]
    OtherStudy { path: PathBuf },
    /// The system gives no random numbers.
    #[error("cannot draw an unguessable link: {cause}")]
    NoRandomness { cause: String },
    /// The address could not be opened.
    #[error("cannot listen on `{address}`: {source}")]
    Listen { address: String, source: std::io::Error },
    /// The server stopped.
    #[error("the server failed: {source}")]
    Serve { source: std::io::Error },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::DoublePrompt { .. } => "a study takes one continuation for each prompt".into(),
            Self::MissingPrompt { .. } => "rows are joined by `prompt`, which must be the same string in all files".into(),
            Self::TooFewChecks { .. } => {
                "ask for fewer items or checks, or give more human texts; a text of fewer than 8 words and 16 characters cannot be shuffled".into()
            }
            Self::OtherStudy { .. } => "move the file away to start anew".into(),
            Self::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                "another program has the port; `--port 0` takes a free one".into()
            }
            _ => return None,
        })
    }
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }
}
