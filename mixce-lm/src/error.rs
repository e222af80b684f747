//! The error type of this crate and of the architectures.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What goes wrong between a folder of files and a model.
///
/// Each message is complete in itself (causes are part of it); what to do about it is in [`Error::hint`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of the file system failed.
    #[error("cannot {action} `{}`: {cause}", path.display())]
    Io {
        /// What was attempted: `read`, `create`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The answer of the operating system.
        cause: std::io::Error,
    },
    /// A file that is not what its name promises.
    #[error("cannot read `{}`: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        problem: String,
    },
    /// Another error, met while reading a file.
    #[error("in `{}`: {cause}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        cause: Box<Error>,
    },
    /// A key of `config.json` has a value that cannot be.
    #[error("config key `{key}` must be {expected}, got `{got}`")]
    ConfigValue {
        /// The key as written.
        key: String,
        /// What the key may hold.
        expected: String,
        /// What it holds.
        got: String,
    },
    /// A key of `config.json` asks for a computation that this crate does not have.
    #[error("config key `{key}` = `{value}` is not supported: {reason}")]
    ConfigUnsupported {
        /// The key as written.
        key: String,
        /// Its value.
        value: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A `config.json` of an architecture that the program does not have.
    #[error("config key `model_type` = `{model_type}` is not supported: known architectures are {known}")]
    UnknownArchitecture {
        /// Its value, or `(missing)`.
        model_type: String,
        /// The values that are read.
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
        /// The folder.
        path: PathBuf,
        /// The file names that were looked for.
        expected: String,
    },
    /// The tensors of a checkpoint are not those of the configuration.
    #[error("the tensors in `{}` do not fit the configuration: {}", path.display(), .mismatch.describe())]
    TensorMismatch {
        /// The weight file (or the index of the sharded files, or the word for parameters in memory).
        path: PathBuf,
        /// Every missing, unexpected and misshapen tensor.
        mismatch: Box<TensorMismatch>,
    },
    /// A file of which two dictionaries of tensors fit the configuration.
    #[error("`{}` holds {} models that fit the configuration: {}", path.display(), candidates.len(), quoted(candidates))]
    TwoModels {
        /// The weight file.
        path: PathBuf,
        /// The paths of their dictionaries; empty for the outermost one.
        candidates: Vec<String>,
    },
    /// A checkpoint whose head should be its embedding, and is not.
    #[error(
        "`{head}` differs from `{embedding}` in `{}`, but config key `tie_word_embeddings` is true",
        path.display()
    )]
    HeadNotTied {
        /// The weight file.
        path: PathBuf,
        /// The name of the embedding in the file.
        embedding: String,
        /// The name of the head in the file.
        head: String,
    },
    /// A tensor of a weight file holds values that are no numbers.
    #[error(
        "tensor `{name}` in `{}` ({dtype}): {count} of {total} values are NaN or infinite, the first is {value} at {index:?}",
        path.display()
    )]
    NotFinite {
        /// The weight file.
        path: PathBuf,
        /// The name in the file.
        name: String,
        /// The element type in the file.
        dtype: &'static str,
        /// How many there are.
        count: usize,
        /// Elements of the tensor.
        total: usize,
        /// Where the first one is.
        index: Vec<usize>,
        /// The first one, in f32.
        value: f32,
    },
    /// A tensor holds values that the element type of a file has no room for.
    #[error(
        "tensor `{name}` cannot be stored as {dtype}: {count} of its {total} values would be NaN or infinite"
    )]
    NotStorable {
        /// Its published name.
        name: String,
        /// The element type of the file.
        dtype: &'static str,
        /// How many there are.
        count: usize,
        /// Elements of the tensor.
        total: usize,
    },
    /// A tensor that was asked for by name does not exist.
    #[error("no parameter named `{name}`")]
    UnknownParameter {
        /// The name.
        name: String,
    },
    /// An output folder that already holds something.
    #[error("output folder `{}` exists and is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A folder without a tokenizer.
    #[error("no tokenizer in `{}`: expected `tokenizer.json`, `vocab.json` and `merges.txt`, or `vocab.txt`", path.display())]
    NoTokenizer {
        /// The folder.
        path: PathBuf,
    },
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
        /// The answer of the library.
        problem: String,
    },
    /// A token id for which the model has no embedding.
    #[error(
        "token id {id} at position {position} of text {text} is outside the vocabulary of {vocabulary} tokens"
    )]
    TokenOutOfRange {
        /// The id.
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
        "text {text} has {tokens} tokens, but the model has {positions} positions (config key `n_positions`)"
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
    /// Something for which the device has no kernels.
    #[error("{what} needs kernels that this version does not have for the model's device and dtype")]
    NotFused {
        /// Activation checkpointing, bf16 or sampling in bf16.
        what: &'static str,
    },
    /// A block that was asked to save activations returned none.
    #[error("block {layer} saved no activations for its backward pass")]
    NothingSaved {
        /// The layer, from 0.
        layer: usize,
    },
    /// A parameter took no part in a backward pass.
    #[error("parameter `{name}` has no gradient after a backward pass")]
    MissingGradient {
        /// Its published name.
        name: String,
    },
    /// A text without any token.
    #[error("text {text} is empty: it has no last token")]
    EmptyText {
        /// Its index in the list, from 0.
        text: usize,
    },
    /// The model gives no usable distribution for the next token.
    #[error(
        "the logits of sample {sample} hold NaN or infinity after {tokens} new tokens: the model's weights are broken"
    )]
    BrokenLogits {
        /// The number of the sample.
        sample: u64,
        /// Tokens sampled before.
        tokens: usize,
    },
    /// A sampling parameter outside its range.
    #[error("`{parameter}` must be {expected}, got {got}")]
    Sampling {
        /// The parameter.
        parameter: &'static str,
        /// Its admissible values.
        expected: &'static str,
        /// The value given.
        got: String,
    },
    /// A tensor operation failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What the user can do about it, where that is not plain from the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InFile { cause, .. } => cause.hint(),
            Self::ConfigUnsupported { key, .. } if key == "activation_function" => {
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
                Some("save the one that is wanted into a file of its own, with `torch.save`".to_owned())
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
                "the training that wrote them diverged, or the file is damaged: take an earlier checkpoint, or fetch the file again"
                    .to_owned(),
            ),
            Self::NotStorable { dtype: "f16", .. } => {
                Some("f16 has room for numbers up to 65504: store bf16 or f32".to_owned())
            }
            Self::NotEmpty { .. } => Some("choose a new folder or remove this one".to_owned()),
            Self::NoTokenizer { .. } => Some(
                "copy the tokenizer files of the base model into the folder, or name another tokenizer"
                    .to_owned(),
            ),
            Self::VocabularyTooLarge { .. } => {
                Some("use the tokenizer that the model was trained with".to_owned())
            }
            Self::TextTooLong { .. } => Some("shorten the text, for training with --max-length".to_owned()),
            Self::EmptyPrompt { .. } => {
                Some("begin with the tokenizer's beginning-of-text token (`--unconditional`)".to_owned())
            }
            _ => None,
        }
    }

    /// An operation of the file system on `path` that failed.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }
    }

    /// A file that is not what its name promises.
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
            | Self::InFile { .. }
            | Self::MetadataUnsupported { .. } => self,
            cause => Self::InFile { path: path.to_owned(), cause: Box::new(cause) },
        }
    }
}

/// Every way in which the tensors of a checkpoint differ from those its configuration asks for.
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

/// So many names of one kind are spelled out in a message; the rest is counted.
const LISTED: usize = 24;

impl TensorMismatch {
    /// Whether there is nothing to complain about.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.misshapen.is_empty()
            && self.ambiguous.is_empty()
    }

    /// All of it in one line: every name with its shapes.
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
