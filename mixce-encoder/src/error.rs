//! The errors of this crate.

use std::path::{Path, PathBuf};

use mixce_base::Hint;

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A failure to load an encoder or to embed a text.
#[expect(missing_docs, reason = "the messages say what such fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weight file or the tokenizer.
    #[error(transparent)]
    Checkpoint(#[from] mixce_lm::Error),
    /// A file that cannot be read.
    #[error("cannot read `{}`: {cause}", path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    /// A checkpoint file that is invalid or requires something unsupported.
    #[error("`{}`: {problem}", path.display())]
    Unsupported { path: PathBuf, problem: String },
    /// Weights that do not match the configuration.
    #[error("the weights in `{}` do not match its configuration: {problem}", path.display())]
    Weights { path: PathBuf, problem: String },
    /// A tensor operation failed.
    #[error("cannot embed: {0}")]
    Compute(#[from] candle_core::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Checkpoint(error) => error.hint(),
            Self::Unsupported { .. } | Self::Weights { .. } => Some(
                "supported encoders are BERT models in the format of SimCSE or sentence-transformers, with CLS or mean pooling".to_owned(),
            ),
            _ => None,
        }
    }
}

impl Error {
    pub(crate) fn unsupported(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), problem: problem.into() }
    }
}
