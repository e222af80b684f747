//! The error type of this crate.

use std::path::{Path, PathBuf};

use mixce_base::Hint;
use mixce_base::files::FileError;

use crate::metric::Need;

/// The errors of reading features and computing metrics.
#[expect(missing_docs, reason = "the messages say what such fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of the file system failed.
    #[error("cannot {action} `{}`: {cause}", path.display())]
    Io { action: &'static str, path: PathBuf, cause: std::io::Error },
    /// A malformed feature file.
    #[error("cannot read features from `{}`: {problem}", path.display())]
    Malformed {
        path: PathBuf,
        /// What is wrong with it: where, expected, got.
        problem: String,
    },
    /// The number of values does not match the shape.
    #[error("a matrix of {rows} x {columns} features cannot be made of {values} values")]
    Shape {
        /// Rows announced.
        rows: usize,
        /// Columns announced.
        columns: usize,
        values: usize,
    },
    /// A feature that is infinite or NaN.
    #[error("{name}: the feature in row {row}, column {column} is `{value}`, expected a finite number")]
    NotFinite {
        name: &'static str,
        /// Row, from 0.
        row: usize,
        /// Column, from 0.
        column: usize,
        value: f32,
    },
    /// Two sets of features from different models.
    #[error(
        "human features have {human} columns, model features {model}: they must come from one featurizer"
    )]
    Columns {
        /// Columns of the human features.
        human: usize,
        /// Columns of the model's.
        model: usize,
    },
    /// Not enough samples to cluster.
    #[error(
        "MAUVE needs at least 2 samples on each side and one per bucket: got {human} human and {model} model samples for {buckets} buckets"
    )]
    TooFew {
        /// Human samples.
        human: usize,
        /// Model samples.
        model: usize,
        /// Buckets requested.
        buckets: usize,
    },
    /// A setting outside its range.
    #[error("setting `{name}` must be {expected}, got `{got}`")]
    Setting { name: &'static str, expected: &'static str, got: String },
    /// Embeddings that do not match the texts.
    #[error(
        "{texts} texts with prompt and continuation need embeddings with as many rows and equal width, got {} x {} of prompts and {} x {} of continuations",
        prompts[0], prompts[1], continuations[0], continuations[1]
    )]
    Pairs {
        texts: usize,
        /// Rows and columns of the prompts' embeddings.
        prompts: [usize; 2],
        /// Rows and columns of the continuations' embeddings.
        continuations: [usize; 2],
    },
    /// A required input is missing.
    #[error("the input `{}` is missing", .0.describe())]
    MissingInput(Need),
    /// A metric of a set of texts could not be computed.
    #[error("{title} of `{set}`")]
    Metric { title: &'static str, set: String, source: Box<Error> },
    /// The eigenvalues of the covariance could not be found.
    #[error(
        "the principal components of the features cannot be computed: the eigenvalue iteration did not converge"
    )]
    Eigen,
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::TooFew { .. } => {
                Some("score more texts; published values use 5000 or more per side".to_owned())
            }
            Self::Columns { .. } => Some("extract both with the same model and layer".to_owned()),
            Self::Metric { source, .. } => source.hint(),
            _ => None,
        }
    }
}

impl From<FileError> for Error {
    fn from(FileError { action, path, source }: FileError) -> Self {
        Self::Io { action, path, cause: source }
    }
}

impl Error {
    pub(crate) fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), problem: problem.into() }
    }
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
