//! Errors.

use std::path::PathBuf;

use mixce_base::Hint;
use mixce_base::files::FileError;

/// What can go wrong here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    /// A file has another form than its name says.
    #[error("`{}`{}: {problem}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1, in files of lines.
        line: Option<usize>,
        /// What is wrong, expected and got.
        problem: String,
    },
    /// A folder that is neither of a run nor of a sweep.
    #[error("`{}` is neither a run folder (no `run.toml`) nor a sweep's folder (no `results.json`)", path.display())]
    UnknownFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Two sources with results that cannot be in one table.
    #[error("{what} differ between `{}` and `{}`", first.display(), second.display())]
    Conflict {
        /// What differs.
        what: String,
        /// The source read first.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The folder of a human evaluation cannot be used.
    #[error(transparent)]
    Judged(#[from] mixce_judge::Error),
    /// The output folder has other contents.
    #[error("output folder `{}` {problem}", path.display())]
    Output {
        /// The folder.
        path: PathBuf,
        /// Why it is not written to.
        problem: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The report could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Schema { .. } => "read it with the version of mixce that wrote it",
            Self::NotResults { .. } => "give the folder that `mixce sweep --out` wrote",
            Self::UnknownFolder { .. } => {
                "give the folder that `mixce train --out` or `mixce sweep --out` wrote"
            }
            Self::Conflict { .. } => "report them one by one",
            Self::Output { hint, .. } => hint,
            Self::Judged(error) => return error.hint(),
            Self::Read { .. } | Self::Malformed { .. } | Self::Write(_) => return None,
        };
        Some(text.to_owned())
    }
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
