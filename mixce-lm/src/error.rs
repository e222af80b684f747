//! The error type of this crate and of the architectures.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mixce_base::Hint;
use mixce_base::files::FileError;

/// Errors of loading, training and sampling models.
///
/// Each message includes its causes; [`Hint::hint`] has the remedy.
#[expect(missing_docs, reason = "the messages say what such fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of the file system failed.
    #[error("cannot {action} `{}`: {cause}", path.display())]
    Io {
        /// What was attempted: `read`, `create`, ...
        action: &'static str,
        path: PathBuf,
        cause: std::io::Error,
    },
    /// A malformed file.
    #[error("cannot read `{}`: {problem}", path.display())]
    Malformed {
        path: PathBuf,
        /// What is wrong with it, and where.
        problem: String,
    },
    /// The contents of a file are not those of its checksum.
    #[error("`{}` is damaged: expected the {what} to be `{expected}`, got `{got}`", path.display())]
    Checksum {
        path: PathBuf,
        /// Which checksum of which part.
        what: String,
        expected: String,
        got: String,
    },
    /// Another error, met while reading a file.
    #[error("in `{}`: {cause}", path.display())]
    InFile { path: PathBuf, cause: Box<Error> },
    /// A key of `config.json` has an invalid value.
    #[error("config key `{key}` must be {expected}, got `{got}`")]
    ConfigValue { key: String, expected: String, got: String },
    /// A key of `config.json` requires an unsupported computation.
    #[error("config key `{key}` = `{value}` is not supported: {reason}")]
    ConfigUnsupported { key: String, value: String, reason: &'static str },
    /// A `config.json` of an unknown architecture.
    #[error("config key `model_type` = `{model_type}` is not supported: known architectures are {known}")]
    UnknownArchitecture {
        /// Its value, or `(missing)`.
        model_type: String,
        known: String,
    },
    /// A key of a GGUF file asks for something that the program does not have.
    #[error("metadata key `{key}` = `{value}` in `{}` is not supported: {reason}", path.display())]
    MetadataUnsupported {
        /// The file.
        path: PathBuf,
        /// The key as written.
        key: String,
        /// Its value.
        value: String,
        /// What would be.
        reason: String,
    },
    /// A folder holds none of the weight files that can be read.
    #[error("no weights in `{}`: expected one of {expected}", path.display())]
    NoWeights {
        path: PathBuf,
        /// The file names that were looked for.
        expected: String,
    },
    /// The tensors of a checkpoint are not those of the configuration.
    #[error("the tensors in `{}` do not match the configuration: {}", path.display(), .mismatch.describe())]
    TensorMismatch {
        /// The weight file (or the index of the sharded files, or the word for parameters in memory).
        path: PathBuf,
        mismatch: Box<TensorMismatch>,
    },
    /// A file with two dictionaries of tensors that match the configuration.
    #[error("`{}` contains {} models that match the configuration: {}", path.display(), candidates.len(), quoted(candidates))]
    TwoModels {
        path: PathBuf,
        /// The paths of their dictionaries; empty for the outermost one.
        candidates: Vec<String>,
    },
    /// A checkpoint whose head should be tied to its embedding, but differs.
    #[error(
        "`{head}` differs from `{embedding}` in `{}`, but config key `tie_word_embeddings` is true",
        path.display()
    )]
    HeadNotTied {
        path: PathBuf,
        /// The name of the embedding in the file.
        embedding: String,
        /// The name of the head in the file.
        head: String,
    },
    /// A tensor of a weight file contains non-finite values.
    #[error(
        "tensor `{name}` in `{}` ({dtype}): {count} of {total} values are NaN or infinite, the first is {value} at {index:?}",
        path.display()
    )]
    NotFinite {
        path: PathBuf,
        name: String,
        dtype: &'static str,
        count: usize,
        /// Elements of the tensor.
        total: usize,
        index: Vec<usize>,
        value: f32,
    },
    /// A tensor contains values outside the range of a file's element type.
    #[error(
        "tensor `{name}` cannot be stored as {dtype}: {count} of its {total} values would be NaN or infinite"
    )]
    NotStorable {
        name: String,
        dtype: &'static str,
        count: usize,
        /// Elements of the tensor.
        total: usize,
    },
    /// A tensor that was requested by name does not exist.
    #[error("no parameter named `{name}`")]
    UnknownParameter { name: String },
    /// A non-empty output folder.
    #[error("output folder `{}` exists and is not empty", path.display())]
    NotEmpty { path: PathBuf },
    /// A folder without a tokenizer.
    #[error("no tokenizer in `{}`: expected `tokenizer.json`, `vocab.json` and `merges.txt`, or `vocab.txt`", path.display())]
    NoTokenizer { path: PathBuf },
    /// The tokenizer produces token ids for which the model has no embedding.
    #[error("the tokenizer has {tokenizer} tokens but the model only {model} (config key `vocab_size`)")]
    VocabularyTooLarge {
        /// One more than the largest token id of the tokenizer.
        tokenizer: usize,
        /// `vocab_size` of the model.
        model: usize,
    },
    /// The `tokenizers` library refused a text or a list of token ids.
    #[error("tokenizer: cannot {action}: {problem}")]
    Tokenizer {
        /// `encode` or `decode`.
        action: &'static str,
        problem: String,
    },
    /// A token id for which the model has no embedding.
    #[error(
        "token id {id} at position {position} of text {text} is outside the vocabulary of {vocabulary} tokens"
    )]
    TokenOutOfRange {
        id: u32,
        /// Where it stands, from 0.
        position: usize,
        /// The text (document, prompt) of the batch, from 0.
        text: usize,
        /// `vocab_size` of the model.
        vocabulary: usize,
    },
    /// A text that does not fit the model's positions.
    #[error(
        "text {text} has {tokens} tokens, but the model has {positions} positions (config key `n_positions` or `max_position_embeddings`)"
    )]
    TextTooLong {
        /// The text (document, prompt) of the batch, from 0.
        text: usize,
        /// Its length in tokens.
        tokens: usize,
        /// `n_positions` of the model.
        positions: usize,
    },
    /// A prompt without any token.
    #[error("prompt {prompt} is empty: sampling needs at least one token to continue")]
    EmptyPrompt {
        /// Its index, from 0.
        prompt: u64,
    },
    /// An operation without kernels for the device.
    #[error("{what} needs kernels that this version does not have for the model's device and dtype")]
    NotFused {
        /// Activation checkpointing, bf16 or sampling in bf16.
        what: &'static str,
    },
    /// A block did not return activations to save.
    #[error("block {layer} saved no activations for its backward pass")]
    NothingSaved {
        /// The layer, from 0.
        layer: usize,
    },
    /// A parameter has no gradient after a backward pass.
    #[error("parameter `{name}` has no gradient after a backward pass")]
    MissingGradient { name: String },
    /// A text without any token.
    #[error("text {text} is empty: it has no last token")]
    EmptyText {
        /// Its index in the list, from 0.
        text: usize,
    },
    /// The model gives no usable distribution for the next token.
    #[error(
        "the logits of sample {sample} contain NaN or infinity after {tokens} new tokens: the model's weights are broken"
    )]
    BrokenLogits {
        sample: u64,
        /// Tokens sampled before.
        tokens: usize,
    },
    /// A sampling parameter outside its range.
    #[error("`{parameter}` must be {expected}, got {got}")]
    Sampling { parameter: &'static str, expected: &'static str, got: String },
    /// A tensor operation failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::InFile { cause, .. } => cause.hint(),
            Self::Checksum { what, .. } if what.starts_with("SHA-256") => Some(
                "copy or export the file again; if another program changed its tensors on purpose, remove `mixce_sha256` from its metadata"
                    .to_owned(),
            ),
            Self::Checksum { .. } => Some("download or copy the file again".to_owned()),
            Self::ConfigUnsupported { key, .. }
                if ["activation_function", "hidden_act"].contains(&key.as_str()) =>
            {
                Some("use one of gelu_new, gelu, relu, silu".to_owned())
            }
            Self::MetadataUnsupported { key, .. } if key.starts_with("tokenizer.") => Some(
                "name the tokenizer of the model that the file was made from, or put its tokenizer.json and the file into a folder".to_owned(),
            ),
            Self::NoWeights { expected, .. } if expected.contains(".gguf`") => {
                Some("name one of the GGUF files".to_owned())
            }
            Self::TensorMismatch { mismatch, .. } if !mismatch.misshapen.is_empty() => {
                Some("config.json and the weights come from different models".to_owned())
            }
            Self::TensorMismatch { mismatch, .. }
                if mismatch.missing.iter().any(|(name, _)| name == "lm_head.weight") =>
            {
                Some(
                    "if the head is the embedding itself, set tie_word_embeddings to true in config.json"
                        .to_owned(),
                )
            }
            Self::TwoModels { .. } => {
                Some("save the one you want to a separate file with `torch.save`".to_owned())
            }
            Self::HeadNotTied { .. } => Some(
                "if the head was trained on its own, set tie_word_embeddings to false in config.json"
                    .to_owned(),
            ),
            Self::NotFinite { dtype: "f16", value, .. } if value.is_infinite() => Some(
                "numbers above 65504 become infinite in f16: convert the original weights to bf16 or f32".to_owned(),
            ),
            Self::NotFinite { dtype: "f64", value, .. } if value.is_infinite() => Some(
                "weights are loaded as f32, in which numbers above 3.4e38 become infinite".to_owned(),
            ),
            Self::NotFinite { .. } => Some(
                "the training that wrote them diverged, or the file is damaged: use an earlier checkpoint, or download the file again"
                    .to_owned(),
            ),
            Self::NotStorable { dtype: "f16", .. } => {
                Some("f16 is limited to 65504: store bf16 or f32".to_owned())
            }
            Self::NotEmpty { .. } => Some("choose a new folder or remove this one".to_owned()),
            Self::NoTokenizer { .. } => Some(
                "copy the tokenizer files of the base model into the folder, or choose another tokenizer"
                    .to_owned(),
            ),
            Self::VocabularyTooLarge { .. } => {
                Some("use the tokenizer that the model was trained with".to_owned())
            }
            Self::TextTooLong { .. } => Some("shorten the text, or let documents be cut at `config.max_length`".to_owned()),
            Self::EmptyPrompt { .. } => {
                Some("begin with the tokenizer's beginning-of-text token".to_owned())
            }
            _ => None,
        }
    }
}

impl Error {
    /// An operation of the file system on `path` that failed.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }
    }

    /// A malformed file.
    #[must_use]
    pub fn malformed(path: &Path, problem: impl ToString) -> Self {
        Self::Malformed { path: path.to_owned(), problem: problem.to_string() }
    }

    /// The same error with the file in which it was met, unless it names one already.
    #[must_use]
    pub fn in_file(self, path: &Path) -> Self {
        match self {
            // These name their file already.
            Self::Io { .. }
            | Self::Malformed { .. }
            | Self::Checksum { .. }
            | Self::InFile { .. }
            | Self::MetadataUnsupported { .. } => self,
            cause => Self::InFile { path: path.to_owned(), cause: Box::new(cause) },
        }
    }
}

impl From<FileError> for Error {
    fn from(FileError { action, path, source }: FileError) -> Self {
        Self::Io { action, path, cause: source }
    }
}

/// The differences between the tensors of a checkpoint and those of its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorMismatch {
    /// Tensors that the model needs and the checkpoint lacks: name, expected shape.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Tensors in the checkpoint that the model has no place for: name, shape.
    pub unexpected: Vec<(String, Vec<usize>)>,
    /// Tensors of another shape: name, expected shape, shape in the checkpoint.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Parameters under two names: the published name, and both names in the checkpoint.
    pub ambiguous: Vec<(String, String, String)>,
}

/// Maximum number of names of one kind in a message; the rest are counted.
const LISTED: usize = 24;

impl TensorMismatch {
    /// Whether there are no differences.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.misshapen.is_empty()
            && self.ambiguous.is_empty()
    }

    /// All differences in one line: every name with its shapes.
    #[must_use]
    pub fn describe(&self) -> String {
        let with_shape = |(name, shape): &(String, Vec<usize>)| format!("`{name}` {shape:?}");
        let with_shapes = |(name, expected, got): &(String, Vec<usize>, Vec<usize>)| {
            format!("`{name}` expected {expected:?} got {got:?}")
        };
        let with_names = |(name, first, second): &(String, String, String)| {
            format!("`{name}` stored as `{first}` and as `{second}`")
        };
        let mut parts = Vec::new();
        list(&mut parts, "ambiguous", &self.ambiguous, with_names);
        list(&mut parts, "misshapen", &self.misshapen, with_shapes);
        list(&mut parts, "missing", &self.missing, with_shape);
        list(&mut parts, "unexpected", &self.unexpected, with_shape);
        parts.join("; ")
    }
}

fn quoted(names: &[String]) -> String {
    let quote =
        |name: &String| if name.is_empty() { "the outermost one".to_owned() } else { format!("`{name}`") };
    names.iter().map(quote).collect::<Vec<_>>().join(", ")
}

fn list<T>(parts: &mut Vec<String>, title: &str, items: &[T], show: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    let shown: Vec<String> = items.iter().take(LISTED).map(show).collect();
    let mut part = format!("{} {title}: {}", items.len(), shown.join(", "));
    if items.len() > LISTED {
        // Writing to a string cannot fail.
        let _ = write!(part, " and {} more", items.len() - LISTED);
    }
    parts.push(part);
}
