//! Errors.

use std::path::PathBuf;

use mixce_base::Hint;

/// What can go wrong here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not a results file.
    #[error("`{}` is not a results file: {source}", path.display())]
    NotResults {
        /// The file.
        path: PathBuf,
        /// The cause, with its line and column.
        source: serde_json::Error,
    },
    /// A results file of another schema.
    #[error("`{}` has schema {found}, expected {expected}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The schema that this version reads.
        expected: u32,
        /// The file's.
        found: u32,
    },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Schema { .. } => Some("read it with the version of mixce that wrote it".to_owned()),
            Self::NotResults { .. } => Some("give the folder that `mixce sweep --out` wrote".to_owned()),
            Self::Read { .. } => None,
        }
    }
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
