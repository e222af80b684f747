//! The errors of this crate.
use std::path::PathBuf;

use mixce_base::Hint;
use mixce_base::files::FileError;

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Every way in which preparing data, training or evaluating can fail.
#[expect(missing_docs, reason = "the messages say what such fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read, written, renamed or mapped.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `create`, ...
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    /// A [`Selector`](crate::selector::Selector) failed.
    #[error("cannot score the model for `config.select`: {0}")]
    Selector(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// A data file holds nothing to train or evaluate on.
    #[error("`{name}` has no usable document: {empty} empty, {short} without a target token")]
    NoDocuments {
        /// The data file, or the first and how many more.
        name: String,
        /// Empty documents skipped.
        empty: u64,
        /// Documents of fewer than two tokens skipped.
        short: u64,
    },

    /// The tokenizer refused a text.
    #[error("the tokenizer failed on {document}: {message}")]
    Tokenize {
        /// The document: its file and its line or row.
        document: String,
        message: String,
    },

    /// The tokenizer has no fingerprint.
    #[error("the tokenizer has no fingerprint: {message}")]
    Tokenizer { message: String },

    /// A token id does not fit the model's vocabulary.
    #[error(
        "token id `{id}` in document {document} is outside the model's vocabulary of {vocab_size} tokens"
    )]
    TokenOutOfRange {
        id: u32,
        /// Document, counted from 0 among those kept.
        document: usize,
        /// The model's vocabulary size.
        vocab_size: usize,
    },

    /// A token cache file is damaged.
    #[error("token cache `{}` is damaged: {problem}", path.display())]
    BadCache {
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },

    /// An invalid configuration value or combination.
    #[error("{message}")]
    Config {
        /// Names the flags, what was expected and what was given.
        message: String,
        hint: Option<String>,
    },

    /// A configuration file cannot be understood.
    #[error("`{}`: {message}", path.display())]
    ConfigFile {
        path: PathBuf,
        /// What is wrong, with the line where it is known.
        message: String,
        hint: Option<String>,
    },

    /// The output folder already holds something.
    #[error("output folder `{}` is not empty (it holds `{found}`)", path.display())]
    OutputNotEmpty {
        path: PathBuf,
        found: String,
        /// Whether it is the folder of a run, which can be continued.
        is_run: bool,
    },

    /// A folder to continue a run in holds something else.
    #[error("`{}` is not a run folder: it holds `{found}` and no `run.toml`", path.display())]
    NotARun { path: PathBuf, found: String },

    /// A checkpoint of one run, and the folder of another to continue in.
    #[error(
        "checkpoint `{}` does not belong to the run in `{}`, whose checkpoints and metrics it would replace",
        checkpoint.display(),
        run.display()
    )]
    OtherRun { checkpoint: PathBuf, run: PathBuf },

    /// The run folder was deleted or replaced during the run.
    #[error("run folder `{}` was deleted or replaced while the run was writing to it", path.display())]
    RunFolderGone { path: PathBuf },

    /// Another process trains into the same run folder.
    #[error("run folder `{}` is in use by another process", path.display())]
    RunInUse { path: PathBuf },

    /// A run does not fit.
    #[error(
        "the run needs about {} of {what}, but only {} are available",
        crate::room::in_words(*needed),
        crate::room::in_words(*available)
    )]
    NoRoom {
        /// Memory, or space on which disk.
        what: String,
        /// Bytes.
        needed: u64,
        /// Bytes.
        available: u64,
        /// Memory rather than disk.
        is_memory: bool,
    },

    /// No checkpoint to resume from.
    #[error("`{}` holds no complete checkpoint", path.display())]
    NoCheckpoint { path: PathBuf },

    /// No checkpoint of a run folder can be used.
    #[error("no checkpoint in `{}` can be resumed: {problems}", path.display())]
    NoUsableCheckpoint {
        path: PathBuf,
        /// Each checkpoint and what is wrong with it.
        problems: String,
    },

    /// A finished model without a checkpoint to continue from.
    #[error("`{}` contains a finished model, but no checkpoint to resume from", path.display())]
    OnlyFinal { path: PathBuf },

    /// A checkpoint cannot be used.
    #[error("checkpoint `{}`: {problem}", path.display())]
    BadCheckpoint {
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },

    /// The run differs from the one that wrote the checkpoint in something that changes the numbers.
    #[error("cannot resume from `{}`: {differences}", path.display())]
    ResumeMismatch { path: PathBuf, differences: String },

    /// A loss was NaN or infinite.
    #[error("the loss of step {step}, microbatch {microbatch} is `{loss}`; the parameters were not updated")]
    NonFiniteLoss {
        /// Optimizer step, counted from 1.
        step: u64,
        /// Microbatch of the step, counted from 0.
        microbatch: usize,
        loss: f64,
        /// A file with the documents of the step, in a run folder.
        documents: Option<PathBuf>,
    },

    /// A gradient was NaN or infinite.
    #[error(
        "the gradient of parameter `{name}` at step {step} is not finite (squared norm `{squared_norm}`); the parameters were not updated"
    )]
    NonFiniteGradient {
        /// The first such parameter, by its published name.
        name: String,
        /// Optimizer step, counted from 1.
        step: u64,
        squared_norm: f64,
        /// A file with the documents of the step, in a run folder.
        documents: Option<PathBuf>,
    },

    /// A parameter became NaN or infinite.
    #[error(
        "parameter `{name}` is `{value}` at {index:?} after step {step}: the model has diverged, and neither a checkpoint nor a model is written"
    )]
    NonFiniteParameter {
        /// The first such parameter, by its published name.
        name: String,
        /// Of the first such element.
        index: Vec<usize>,
        value: f32,
        /// Optimizer steps done.
        step: u64,
    },

    /// A model that is being evaluated gives a token no finite likelihood.
    #[error(
        "the model{} is broken: the log-likelihood of a token of document {document} is `{log_q}`",
        .step.map_or_else(String::new, |step| format!(" of step {step}"))
    )]
    NonFiniteLikelihood {
        /// Document (or block), counted from 0.
        document: usize,
        /// The value, in nats.
        log_q: f32,
        /// Optimizer steps done, when it happened in training.
        step: Option<u64>,
    },

    /// Optimizer state and parameters do not belong together.
    #[error("optimizer state of `{name}`: expected shape {expected:?}, got {got:?}")]
    OptimizerState {
        name: String,
        expected: Vec<usize>,
        /// The state's shape, empty when there is none.
        got: Vec<usize>,
    },

    /// The evaluation of a model was requested without anything to evaluate on.
    #[error("there is no target token to evaluate on")]
    NothingToEvaluate,

    /// The other ranks of a run did not answer.
    #[error(
        "no answer from the other ranks of the run within {seconds} s: one of them has died, hangs or is much slower"
    )]
    RanksSilent {
        /// How long they were waited for.
        seconds: f64,
    },

    /// The connection to another rank of a run is gone.
    #[error(
        "the connection to rank {rank} of the run is lost: its process has ended, or its machine or the network fails"
    )]
    RankLost { rank: usize },

    /// Not all ranks of a run have come to the first one.
    #[error(
        "rank 0 has waited {seconds} s at `{address}` for the other {} processes of the run; missing: {}",
        size - 1,
        missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    RanksMissing {
        /// Host and port.
        address: String,
        size: usize,
        /// Their numbers.
        missing: Vec<usize>,
        seconds: f64,
    },

    /// The first rank of a run was not reached.
    #[error("cannot reach rank 0 of the run at `{address}` within {seconds} s: {source}")]
    NoFirstRank {
        /// Host and port.
        address: String,
        seconds: f64,
        #[source]
        source: std::io::Error,
    },

    /// Another rank of a run has failed.
    #[error("rank {rank} of the run has failed")]
    RankFailed { rank: usize },

    /// The ranks of a run do not agree.
    #[error("rank {rank} of the run has another {what} than rank 0")]
    RanksDiffer { what: &'static str, rank: usize },

    /// Work was stopped on request.
    #[error("interrupted")]
    Interrupted,

    /// The data files.
    #[error(transparent)]
    Data(#[from] mixce_data::Error),

    /// The model, its tokenizer or its files.
    #[error(transparent)]
    Model(#[from] mixce_lm::Error),

    /// The objective or the loss.
    #[error(transparent)]
    Objective(#[from] mixce_core::Error),

    /// A tensor operation failed.
    #[error("{context}: {source}")]
    Tensor {
        context: &'static str,
        #[source]
        source: candle_core::Error,
    },
}

impl From<FileError> for Error {
    fn from(FileError { action, path, source }: FileError) -> Self {
        Self::Io { action, path, source }
    }
}

/// What to do about a loss, gradient or parameter that is not finite.
const DIVERGED: &str = "try a lower `config.lr`, some `config.warmup_steps`, or `config.clip_grad_norm = 1`";

/// What to do about a disk that cannot be written to.
fn io_hint(error: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StaleNetworkFileHandle, StorageFull};
    let remedy = match error.kind() {
        StorageFull | QuotaExceeded => "make room on the disk",
        ReadOnlyFilesystem => "make the disk writable",
        StaleNetworkFileHandle => "make the network folder reachable",
        _ => return None,
    };
    Some(format!("{remedy}; a run then continues from its last checkpoint with `config.resume = auto`"))
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config { hint, .. } | Self::ConfigFile { hint, .. } => hint.clone(),
            Self::OutputNotEmpty { is_run: true, .. } => {
                Some("choose another `config.out`, or continue the run with `config.resume = auto`".into())
            }
            Self::OutputNotEmpty { .. } | Self::NotARun { .. } => Some("choose another `config.out`".into()),
            Self::OtherRun { .. } => Some(
                "choose another `config.out` for a branch of the checkpoint's run, or continue the run there with `config.resume = auto`"
                    .into(),
            ),
            Self::RunFolderGone { .. } => {
                Some("its checkpoints are gone unless the folder was only moved: move it back and use `config.resume = auto`".into())
            }
            Self::NoCheckpoint { .. } => Some(
                "a checkpoint is complete only once its `COMPLETE` file exists; start without `config.resume`"
                    .into(),
            ),
            Self::NoUsableCheckpoint { .. } => Some(
                "restore one from a copy; to start from the beginning, choose another `config.out` or move the folder away"
                    .into(),
            ),
            Self::NoRoom { is_memory: true, .. } => Some(
                "lower `config.batch_size` (and raise `config.grad_accum`), or use `config.activation_checkpointing`"
                    .into(),
            ),
            Self::NoRoom { .. } => {
                Some("free some, lower `config.keep_last`, or choose another `config.out`".into())
            }
            Self::OnlyFinal { .. } => Some(
                "choose another `config.out`, or move the model away to start from the beginning".into(),
            ),
            Self::ResumeMismatch { .. } => {
                Some("use the run's own settings, or start a new run from its exported model".into())
            }
            Self::TokenOutOfRange { .. } => Some("is this the tokenizer that belongs to the model?".into()),
            Self::NonFiniteLoss { documents: Some(path), .. }
            | Self::NonFiniteGradient { documents: Some(path), .. } => {
                Some(format!("{DIVERGED}; the documents of the step are in `{}`", path.display()))
            }
            Self::NonFiniteLoss { .. }
            | Self::NonFiniteGradient { .. }
            | Self::NonFiniteParameter { .. }
            | Self::NonFiniteLikelihood { step: Some(_), .. } => Some(DIVERGED.into()),
            Self::Io { source, .. } => io_hint(source),
            Self::Data(error) => error.hint(),
            Self::Model(mixce_lm::Error::Io { cause, .. }) => io_hint(cause),
            Self::Model(error) => error.hint(),
            Self::Objective(error) => error.hint(),
            Self::RanksSilent { .. } => Some(
                "look at the machine or the log of the rank that is missing, then continue with `config.resume = auto`; if it was only slow, raise `config.comm_timeout`"
                    .into(),
            ),
            Self::RankLost { .. } => Some(
                "look at the machine or the log of that rank, then continue with `config.resume = auto`".into(),
            ),
            Self::RanksMissing { .. } => Some(
                "look at the logs of the missing ranks: each needs the same `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`, and a `RANK` of its own; if they were only slow, raise `config.comm_timeout`"
                    .into(),
            ),
            Self::NoFirstRank { .. } => Some(
                "`MASTER_ADDR` and `MASTER_PORT` must be the address of rank 0, which must have started and be reachable from here"
                    .into(),
            ),
            Self::RanksDiffer { what: "weights", .. } => Some(
                "ranks need the same program on processors of one type; continue from the last checkpoint with `config.resume = auto`"
                    .into(),
            ),
            Self::RanksDiffer { .. } => {
                Some("give all ranks the same program, flags and files, best in a folder that all machines share".into())
            }
            Self::RunInUse { .. } => Some("wait until it has finished, or choose another `config.out`".into()),
            Self::BadCache { .. } => Some("delete the file; it will be rebuilt".into()),
            _ => None,
        }
    }
}

impl Error {
    /// Whether all ranks of a run have this error, or rank 0 has its cause: then rank 0 alone reports it.
    #[must_use]
    pub fn is_reported_by_first_rank(&self) -> bool {
        matches!(
            self,
            Self::NonFiniteLoss { .. }
                | Self::NonFiniteGradient { .. }
                | Self::NonFiniteParameter { .. }
                | Self::RanksDiffer { .. }
                | Self::RankFailed { .. }
        )
    }

    /// An [`Error::Io`], ready for `map_err`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// An [`Error::Tensor`], ready for `map_err`.
    pub(crate) fn tensor(context: &'static str) -> impl FnOnce(candle_core::Error) -> Self {
        move |source| Self::Tensor { context, source }
    }

    /// An [`Error::Config`] without a hint.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::Config { message: message.into(), hint: None }
    }
}
