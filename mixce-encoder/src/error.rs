//! The errors of this crate.

use std::path::{Path, PathBuf};

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A failure to load an encoder or to embed a text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weight file or the tokenizer.
    #[error(transparent)]
    Checkpoint(#[from] mixce_lm::Error),
    /// A file that cannot be read.
    #[error("cannot read `{}`: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        cause: std::io::Error,
    },
    /// A checkpoint file that is invalid or requires something unsupported.
    #[error("`{}`: {problem}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Weights that do not match the configuration.
    #[error("the weights in `{}` do not match its configuration: {problem}", path.display())]
    Weights {
        /// The folder.
        path: PathBuf,
        /// What is wrong with them.
        problem: String,
    },
    /// A tensor operation failed.
    #[error("cannot embed: {0}")]
    Compute(#[from] candle_core::Error),
}

impl Error {
    /// A hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Checkpoint(error) => error.hint(),
            Self::Unsupported { .. } | Self::Weights { .. } => Some(
                "supported encoders are BERT models in the format of SimCSE or sentence-transformers, with CLS or mean pooling".to_owned(),
            ),
            _ => None,
        }
    }

    pub(crate) fn unsupported(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), problem: problem.into() }
    }
}
