//! The errors of this crate.
use std::fmt;
use std::path::{Path, PathBuf};

use mixce_base::Hint;
use mixce_base::files::FileError;

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A location in a file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a text.
    Line(u64),
    /// A row of a table without lines.
    Row(u64),
}

impl Place {
    /// The number alone.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Line(n) | Self::Row(n) => n,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(n) => write!(f, "line {n}"),
            Self::Row(n) => write!(f, "row {n}"),
        }
    }
}

/// A fault in compressed data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends too early.
    CutOff,
    /// The decoder's message.
    Damaged(String),
    /// Decompressing it takes more memory than is allowed.
    TooMuchMemory {
        /// What it takes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// It was compressed with a separate dictionary.
    NeedsDictionary,
}

impl Fault {
    fn told(&self, kind: &str) -> String {
        match self {
            Self::CutOff => format!("is cut off: its {kind} data end too early"),
            Self::Damaged(words) => format!("is damaged {kind} data: {words}"),
            Self::NeedsDictionary => format!("is {kind} data that was compressed with a dictionary"),
            Self::TooMuchMemory { bytes, limit } => {
                let (bytes, limit) = (bytes >> 20, limit >> 20);
                format!("needs {bytes} MiB of memory to be decompressed ({kind}), more than {limit} MiB")
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told("compressed"))
    }
}

/// The encoding that a text may have, judged by a few bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    /// The IANA name, as used by `iconv`.
    pub encoding: &'static str,
    /// The text around the bad byte, decoded in that encoding.
    pub reading: String,
}

fn of_file(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" (at byte offset {offset} of the file)")).unwrap_or_default()
}

/// Errors of reading or preparing data.
#[expect(missing_docs, reason = "the messages say what such fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read, written or renamed.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `create`, ...
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    /// A path that is neither a file nor `-`.
    #[error("`{}` is {kind}, not a file", path.display())]
    NotAFile { path: PathBuf, kind: &'static str },

    /// A pattern that no file matches, or that is none.
    #[error("no file matches `{pattern}`{}", .reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    NoMatch {
        pattern: String,
        /// The problem, if the pattern is invalid.
        reason: Option<String>,
    },

    /// Standard input was named twice.
    #[error("`-` (standard input) can be read only once")]
    StdinTwice,

    /// Compressed data or an archive that cannot be read to its end.
    #[error("`{}` {}", path.display(), fault.told(kind))]
    Compressed {
        path: PathBuf,
        /// `gzip`, `zstd`, `bzip2`, `xz`, `tar`.
        kind: &'static str,
        fault: Fault,
    },

    /// A file in a known format that is not supported.
    #[error("`{}` is {what}, which is not read as documents", path.display())]
    Foreign {
        path: PathBuf,
        /// Its kind, with an article.
        what: &'static str,
        hint: String,
    },

    /// A file that is not text.
    #[error("`{}` is not text: byte {byte} is a NUL", path.display())]
    Binary {
        path: PathBuf,
        /// The first NUL byte, counted from 1 (of the decompressed file).
        byte: u64,
    },

    /// A text holds bytes that are not UTF-8.
    #[error("`{}` {place}, byte {byte}: the text is not UTF-8{}", path.display(), of_file(*offset))]
    NotUtf8 {
        path: PathBuf,
        place: Place,
        /// First bad byte of the line or field, counted from 1.
        byte: usize,
        /// The same byte within the whole (decompressed) file, counted from 0, where it is known.
        offset: Option<u64>,
        guess: Option<Guess>,
    },

    /// A row that cannot be used.
    #[error("`{}` {place}: {problem}", path.display())]
    BadRow {
        path: PathBuf,
        place: Place,
        /// What was expected and what was found.
        problem: String,
    },

    /// More bad rows than were allowed.
    #[error("more than {limit} bad rows (`settings.skip_bad_rows = {limit}`); the next one: {next}")]
    TooManyBadRows {
        /// Rows that were skipped.
        limit: u64,
        /// The error that exceeded the limit.
        next: Box<Error>,
    },

    /// A table without the requested column, or without an unambiguous text column.
    #[error("`{}`: {problem}", path.display())]
    Column {
        path: PathBuf,
        /// What was looked for, and the columns there are.
        problem: String,
    },

    /// A single object with the rows in a list.
    #[error("`{}`: it is a single object with the rows under the key `{key}`, expected the rows themselves", path.display())]
    NestedRows { path: PathBuf, key: String },

    /// A bad row after which the following rows cannot be separated.
    #[error("{0}; the following rows cannot be separated")]
    LostRows(Box<Error>),

    /// A delimited file that can be read in several ways.
    #[error("`{}`: {problem}", path.display())]
    Delimiter { path: PathBuf, problem: String },

    /// A delimited file whose first record does not look like column names.
    #[error("`{}`: expected the names of the columns in the first line, got `{field}`", path.display())]
    Header { path: PathBuf, field: String },

    /// A parquet file that cannot be read.
    #[error("`{}`: not a readable parquet file: {problem}", path.display())]
    Parquet { path: PathBuf, problem: String },

    /// A tar archive that cannot be read, or lacks a member.
    #[error("archive `{}`: {problem}", path.display())]
    Archive { path: PathBuf, problem: String },

    /// Files of a data set that were not found.
    #[error("`{}` holds no {missing}", path.display())]
    Incomplete {
        /// The folder or file that was searched.
        path: PathBuf,
        missing: String,
    },

    /// The file names of a source do not determine the splits.
    #[error("`{}`: {problem}", path.display())]
    Splits {
        /// The folder or file that was searched.
        path: PathBuf,
        /// The ambiguity and the files concerned.
        problem: String,
        hint: &'static str,
    },

    /// No document passes the filters.
    #[error("no training document passes the filters: of {read} documents read, {dropped}")]
    NothingLeft {
        /// Documents before the filters.
        read: u64,
        /// How many were dropped for which reason, in words.
        dropped: String,
    },

    /// Development and test sets use up all documents.
    #[error(
        "no document is left to train on: of {read} that were read {passed} pass the filters, and the test set took {test} of them, the development set {valid} (`settings.held_out` is {held_out}, for each)"
    )]
    NothingToTrainOn {
        /// Documents of the training split, before the filters.
        read: u64,
        /// Those that pass the filters.
        passed: u64,
        /// Those that the test set took.
        test: u64,
        /// Those that the development set took.
        valid: u64,
        /// Documents that each of the two may have.
        held_out: u64,
    },

    /// The caller stopped the work.
    #[error("interrupted")]
    Stopped,

    /// An invalid setting.
    #[error("{0}")]
    Settings(String),
}

impl From<FileError> for Error {
    fn from(FileError { action, path, source }: FileError) -> Self {
        Self::Io { action, path, source }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotAFile { .. } => {
                "to read from another program, name `-` and pipe into standard input".into()
            }
            Self::NoMatch { reason: None, .. } => {
                "quote patterns so that the shell does not expand them; `*`, `?` and `[...]` are supported".into()
            }
            Self::Compressed { fault: Fault::TooMuchMemory { .. }, .. } => {
                "compress it again with a smaller window (`zstd --long=27`)".into()
            }
            Self::Compressed { fault: Fault::NeedsDictionary, path, .. } => {
                format!("decompress it first: `zstd -D DICTIONARY -d {}`", path.display())
            }
            Self::Compressed { fault: Fault::CutOff, .. } => "download or create the file again".into(),
            Self::Compressed { fault: Fault::Damaged(_), .. } => {
                "the data read so far may be wrong: download or create the file again".into()
            }
            Self::Foreign { hint, .. } => hint.clone(),
            Self::Binary { .. } => "name files of text, JSON lines, CSV, TSV or parquet".into(),
            Self::NotUtf8 { place: Place::Row(_), .. } => {
                "the column may not be text: `settings.text_column = NAME` selects another one, `settings.skip_bad_rows = N` skips such rows".into()
            }
            Self::NotUtf8 { guess: Some(Guess { encoding, reading }), .. } => format!(
                "it may be {encoding}, where this reads `{reading}`; if so, `iconv -f {encoding} -t UTF-8` converts it, else `settings.skip_bad_rows = N` skips such rows"
            ),
            Self::NotUtf8 { guess: None, .. } => {
                "if it is text in another encoding, `iconv -f ENCODING -t UTF-8` converts it; `settings.skip_bad_rows = N` skips such rows".into()
            }
            Self::BadRow { .. } => "a few bad rows can be skipped with `settings.skip_bad_rows = N`".into(),
            Self::Column { .. } => "choose the text column with `settings.text_column = NAME`".into(),
            Self::NestedRows { path, key } => {
                format!("extract them, for example with `jq -c '.\"{key}\"[]' {}`", path.display())
            }
            Self::LostRows(_) => "fix the row, or write one row per line".into(),
            Self::Delimiter { .. } => {
                "choose the field separator with `settings.delimiter`, such as `;`".into()
            }
            Self::Header { .. } => {
                "if the first line is a row, use `settings.no_header`; else choose the text column with `settings.text_column = NAME`".into()
            }
            Self::TooManyBadRows { next, .. } => return next.hint(),
            Self::NothingLeft { .. } => {
                "`settings.min_words` and `settings.max_words` set the limits; if the numbers are unexpected, is this the right data set?".into()
            }
            Self::NothingToTrainOn { passed, .. } => {
                let fewer = passed / 20;
                format!("take fewer: `settings.held_out = {fewer}` leaves at least {} to train on", passed - 2 * fewer)
            }
            Self::Splits { hint, .. } => (*hint).into(),
            _ => return None,
        })
    }
}

impl Error {
    /// Whether this is about one row, after which reading may go on.
    #[must_use]
    pub fn is_bad_row(&self) -> bool {
        matches!(self, Self::NotUtf8 { .. } | Self::BadRow { .. })
    }

    /// The same error with its file names replaced.
    pub(crate) fn with_paths(mut self, rename: &dyn Fn(&Path) -> PathBuf) -> Self {
        match &mut self {
            Self::Io { path, .. }
            | Self::NotAFile { path, .. }
            | Self::Compressed { path, .. }
            | Self::NotUtf8 { path, .. }
            | Self::BadRow { path, .. }
            | Self::Column { path, .. }
            | Self::Parquet { path, .. }
            | Self::Incomplete { path, .. } => *path = rename(path),
            Self::TooManyBadRows { limit, next } => {
                let next = std::mem::replace(next.as_mut(), Self::Stopped).with_paths(rename);
                return Self::TooManyBadRows { limit: *limit, next: Box::new(next) };
            }
            _ => {}
        }
        self
    }

    /// An [`Error::Io`], ready for `map_err`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn bad_row(path: &Path, place: Place, problem: impl Into<String>) -> Self {
        Self::BadRow { path: path.into(), place, problem: problem.into() }
    }
}
