//! Errors.

use std::path::PathBuf;

use mixce_base::Hint;

/// What can be wrong with a grid.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A settings file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The text of a settings file is wrong.
    #[error("`{}`: line {line}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The settings contradict each other, or a value is out of range.
    #[error("{message}")]
    Settings {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Not `I/N`.
    #[error("shard: expected `I/N` with 1 <= I <= N, such as `1/4`, got `{got}`")]
    Shard {
        /// What was given.
        got: String,
    },
}

impl Error {
    pub(crate) fn settings(message: impl Into<String>) -> Self {
        Self::Settings { message: message.into(), hint: None }
    }

    pub(crate) fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Settings { message: message.into(), hint: Some(hint.into()) }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File { hint, .. } | Self::Settings { hint, .. } => hint.clone(),
            Self::Read { .. } | Self::Shard { .. } => None,
        }
    }
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
