//! What may go wrong.

use std::io;
use std::path::PathBuf;

use mixce_base::Hint;

/// An error of watching. Files that come, go or are half-written are none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder cannot be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder belongs to neither a run nor a sweep.
    #[error("`{path}` is neither the folder of a run nor that of a sweep", path = path.display())]
    UnknownFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The terminal cannot be used.
    #[error("cannot use the terminal: {source}")]
    Terminal {
        /// Why.
        source: io::Error,
    },
    /// The port cannot be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The server cannot be set up.
    #[error("cannot serve: {source}")]
    Serve {
        /// Why.
        source: io::Error,
    },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(
                "a run or sweep that is starting creates its folder first; start watching then".to_owned(),
            ),
            Self::UnknownFolder { .. } => {
                Some("name the folder that `train --out` or `sweep --out` writes".to_owned())
            }
            Self::Terminal { .. } => Some("`--once` prints the state as text".to_owned()),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("choose another port with `--port`, or 0 for a free one".to_owned())
            }
            _ => None,
        }
    }
}
