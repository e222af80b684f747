//! The error type of this crate.
use std::path::{Path, PathBuf};

use mixce_base::Hint;
use mixce_base::files::FileError;

/// The errors of this crate.
#[expect(missing_docs, reason = "the messages say what such fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number is outside its range.
    #[error("`{name}`: expected {expected}, got {got}")]
    Range { name: &'static str, expected: String, got: String },
    /// A number that should be a probability and is not.
    #[error("the {name} must be a number from 0 to 1, got `{got}`")]
    NotAProbability { name: &'static str, got: f64 },
    /// A file could not be read or written.
    #[error("`{path}`: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A matrix of transition probabilities is malformed.
    #[error("`{path}`, line {line}: expected {expected}, got {got}")]
    Matrix {
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        expected: String,
        got: String,
    },
    /// A text is too small to estimate transitions from.
    #[error("`{path}`: expected at least {expected} distinct words, got {got}")]
    SmallText { path: PathBuf, expected: usize, got: usize },
    /// Two settings exclude each other.
    #[error("{what}")]
    Unsupported { what: String, hint: String },
    /// The parameters became NaN or infinite.
    #[error("training diverged: a parameter is not finite after epoch {epoch} of cell `{cell}`")]
    Diverged {
        /// The epoch, from 1.
        epoch: usize,
        cell: String,
    },
    /// An objective refused its settings.
    #[error(transparent)]
    Objective(#[from] mixce_core::Error),
    /// The data of a world could not be sampled for any of its cells.
    #[error("the data of world `{world}`: {message}")]
    Data {
        /// The world: vocabulary, zeros and seed.
        world: String,
        message: String,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<FileError> for Error {
    fn from(FileError { path, source, .. }: FileError) -> Self {
        Self::Io { path, source }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unsupported { hint, .. } => Some(hint.clone()),
            Self::Matrix { .. } => Some(
                "a matrix of V x V probabilities, comma separated; the last row and column are EOS, the last row is zero"
                    .to_owned(),
            ),
            Self::SmallText { .. } => Some("pass a longer text or a smaller `config.vocab`".to_owned()),
            Self::Objective(error) => error.hint(),
            Self::Diverged { .. } => Some("lower `config.lr`".to_owned()),
            _ => None,
        }
    }
}

impl Error {
    /// An input or output error with its path.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// A number outside its range.
    pub(crate) fn range(name: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Range { name, expected: expected.into(), got: got.to_string() }
    }
}
