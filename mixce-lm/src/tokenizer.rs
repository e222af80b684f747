//! Tokenizers, loaded from a model's files.
//!
//! The rules are those of transformers 5.23, file by file: `docs/src/reference/tokenizers-and-checkpoints.md`.

use std::path::Path;

use indexmap::IndexMap;
use mixce_base::digest::{Digest, Sha256, hex};
use mixce_base::panics::caught;
use serde_json::Value;
use tokenizers::Tokenizer as Engine;

use crate::checkpoint::gguf::{Gguf, find};
use crate::error::{Error, Result};
use crate::special_ids::named_ids;

mod added;
mod bpe;
mod charsmap;
mod class;
mod encode;
mod gguf;
mod growth;
mod json;
mod opening;
mod pieces;
mod pipeline;
mod save;
mod settings;
mod source;
mod word_piece;

pub use class::TokenizerClass;

use growth::Growth;
use settings::{NamedToken, Settings};
use source::{Object, SourceFiles, model_object};

/// GPT-2's separator between texts; both BOS and EOS.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer that behaves like transformers' fast tokenizers, without templates, truncation or padding.
///
/// Nothing is added before or after a text; appending EOS is up to the caller.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    engine: Engine,
    growth: Growth,
    source: SourceFiles,
    class: TokenizerClass,
    /// The special tokens by transformers' names for them.
    named: IndexMap<String, NamedToken>,
    notes: Vec<String>,
    size: usize,
    /// Whether a long text may be encoded in pieces.
    is_divisible: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Whether a file asks for BOS before every text, or against it.
    add_bos: Option<bool>,
}

/// An added token, which is matched before the vocabulary's rules apply.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AddedTokenInfo {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Whether [`Tokenizer::decode_plain`] omits it.
    pub special: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or else GPT-2's `vocab.json` and `merges.txt` (byte-level BPE), or else BERT's `vocab.txt` (WordPiece),
    /// from a model's folder, with the special and added tokens of `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json`. Deviations from these files are logged and kept in [`Tokenizer::notes`]. BOS and EOS are those named by these
    /// files, else those of `generation_config.json` or `config.json` (the first of several), else `<|endoftext|>`, if the vocabulary has
    /// them.
    ///
    /// If `dir` is a GGUF file, or a folder with one and without such files, the tokenizer is the one in its metadata.
    ///
    /// # Errors
    /// If there are no such files, or one is damaged: not JSON, merges of nonexistent tokens, two tokens with the same id, entries that
    /// are not tokens.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let model = model_object(dir, "config.json")?;
        let files = SourceFiles::read(dir)?;
        let (files, note) = match files.has_vocabulary() {
            true => (files, None),
            false => from_gguf(dir)?.unwrap_or((files, None)),
        };
        let mut tokenizer = Self::from_source(dir, files, &model)?;
        tokenizer.notes.extend(note);
        let first = |key: &str| -> Result<Option<u32>> {
            Ok(named_ids(dir, key)?.into_iter().find(|&id| (id as usize) < tokenizer.size))
        };
        let (bos, eos) = (first("bos_token_id")?, first("eos_token_id")?);
        tokenizer.bos = tokenizer.named_by_file("bos_token").or(bos).or(tokenizer.bos);
        tokenizer.eos = tokenizer.named_by_file("eos_token").or(eos).or(tokenizer.eos);
        if let Some(token) = tokenizer.opening().and_then(|id| tokenizer.token(id)) {
            tokenizer.notes.push(format!(
                "texts begin with BOS, `{token}`, as its files ask: in training and evaluation (unless `add_bos` is false) and in prompts"
            ));
        }
        for note in &tokenizer.notes {
            tracing::warn!("tokenizer in `{}`: {note}", dir.display());
        }
        Ok(tokenizer)
    }

    /// The tokenizer of these files; `model` is the content of the `config.json` beside them.
    fn from_source(dir: &Path, source: SourceFiles, model: &Object) -> Result<Self> {
        // The checks before it cover the panics that are known.
        let built = caught(|| Self::build(dir, source, model));
        built.unwrap_or_else(|panicked| Err(Error::malformed(&dir.join("tokenizer.json"), panicked)))
    }

    fn build(dir: &Path, source: SourceFiles, model: &Object) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let mut json: Option<Value> = source
            .get("tokenizer.json")
            .map(|bytes| serde_json::from_slice(bytes).map_err(|cause| Error::malformed(&path, cause)))
            .transpose()?;
        let config = source.object(dir, "tokenizer_config.json")?;
        let (class, note) = TokenizerClass::of(&source, &config, model, json.as_ref());
        let mut settings = Settings::read(dir, &source, json.as_ref(), class)?;
        settings.notes.extend(note);
        let growth = match &mut json {
            Some(json) if class.reads_pipeline() => pipeline::prepare(&path, json, &mut settings)?,
            _ => Growth::default(),
        };
        let at = if json.is_some() { path.as_path() } else { dir };
        pipeline::check_added(&growth, json.as_ref(), &settings)
            .map_err(|problem| Error::malformed(at, problem))?;
        let mut engine = pipeline::engine(dir, &source, json.as_ref(), &mut settings)?;
        added::apply(&mut engine, &mut settings)?;
        added::note_lost(&engine, json.as_ref(), &mut settings);
        engine.set_encode_special_tokens(settings.split_special_tokens);
        let tokenizer = Self::new(engine, growth, source, settings)?;
        tokenizer.try_out().map_err(|panicked| Error::malformed(&path, panicked))?;
        Ok(tokenizer)
    }

    /// A byte-level BPE as GPT-2's from its tokens in order of their ids and its merges, best first. `<|endoftext|>` is a
    /// special token and is added at the end if it is not among them.
    ///
    /// # Errors
    /// When a token occurs twice or a merge names or makes a token that is not among them.
    pub fn from_vocab(tokens: &[String], merges: &[(String, String)]) -> Result<Self> {
        let memory = Path::new("(memory)");
        let mut vocab = bpe::Vocab::new();
        for (id, token) in (0u32..).zip(tokens) {
            if vocab.insert(token.clone(), id).is_some() {
                return Err(Error::malformed(memory, format!("token `{token}` occurs twice")));
            }
        }
        bpe::check_merges(memory, merges, &vocab, "")?;
        let mut engine = bpe::engine(vocab, merges.to_vec(), false)?;
        let mut settings = Settings::of_class(TokenizerClass::Gpt2);
        settings.named.values_mut().for_each(|named| named.by_default = false);
        added::apply(&mut engine, &mut settings)?;
        Self::new(engine, Growth::default(), SourceFiles::default(), settings)
    }

    /// Trains a byte-level BPE on texts: 256 bytes, merges by frequency up to `vocab_size`, `<|endoftext|>` last.
    ///
    /// Deterministic. At least 257 tokens result; fewer than `vocab_size` when the texts have no more pairs.
    ///
    /// # Errors
    /// If the `tokenizers` library fails.
    pub fn train<'t>(texts: impl IntoIterator<Item = &'t str>, vocab_size: usize) -> Result<Self> {
        let (tokens, merges) = bpe::train(texts, vocab_size)?;
        Self::from_vocab(&tokens, &merges)
    }

    fn new(mut engine: Engine, growth: Growth, source: SourceFiles, settings: Settings) -> Result<Self> {
        // As in transformers, truncation and padding saved in tokenizer.json do not apply.
        engine.with_padding(None);
        engine.with_truncation(None).map_err(|cause| failed("set up", cause))?;
        let size = engine.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let is_divisible = pieces::are_exact(&engine);
        let Settings { class, named, notes, add_bos, .. } = settings;
        let mut tokenizer = Self {
            engine,
            growth,
            source,
            class,
            named,
            notes,
            size,
            is_divisible,
            bos: None,
            eos: None,
            add_bos,
        };
        let default = tokenizer.token_id(END_OF_TEXT);
        tokenizer.bos = tokenizer.named_id("bos_token").or(default);
        tokenizer.eos = tokenizer.named_id("eos_token").or(default);
        Ok(tokenizer)
    }

    /// The id of the token that transformers calls `name`.
    fn named_id(&self, name: &str) -> Option<u32> {
        self.token_id(&self.named.get(name)?.token.content)
    }

    /// The same, but only if a file names it and not just the class.
    fn named_by_file(&self, name: &str) -> Option<u32> {
        self.named_id(name).filter(|_| self.named.get(name).is_some_and(|named| !named.by_default))
    }

    #[cfg(test)]
    fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The transformers class whose rules apply.
    #[must_use]
    pub fn class(&self) -> TokenizerClass {
        self.class
    }

    /// Deviations from the files, and tokens that no file names.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The added tokens, which are matched before the vocabulary's rules apply, by id.
    #[must_use]
    pub fn added_tokens(&self) -> Vec<AddedTokenInfo> {
        let tokens = self.engine.get_added_tokens_decoder().into_iter();
        let mut tokens: Vec<AddedTokenInfo> = tokens
            .map(|(id, token)| AddedTokenInfo { id, content: token.content, special: token.special })
            .collect();
        tokens.sort_by_key(|token| token.id);
        tokens
    }

    /// Whether the spelling of a special token inside a text (`<|endoftext|>` in a web page) is encoded as plain text.
    /// By default it becomes the special token, as in transformers, unless `split_special_tokens` of `tokenizer_config.json` is true.
    #[must_use]
    pub fn with_special_tokens_as_text(mut self, plain: bool) -> Self {
        if plain {
            self.engine.set_encode_special_tokens(true);
        }
        self
    }

    /// One more than the largest token id, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The id of a token by its spelling in the vocabulary.
    #[must_use]
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.engine.token_to_id(token)
    }

    /// The spelling of a token in the vocabulary (for byte-level BPE not its text: a space is `Ġ`).
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.engine.id_to_token(id)
    }

    /// The token that begins a text.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The token that transformers puts before every text (BOS, in Llama 3 and others), if it does so: what the model has seen at the
    /// beginning of texts. [`Tokenizer::encode`] leaves it to the caller.
    #[must_use]
    pub fn opening(&self) -> Option<u32> {
        opening::opening(&self.engine, self.add_bos, self.bos)
    }

    /// The token that ends a text.
    #[must_use]
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// SHA-256, in hex, of everything that determines the encoding: vocabulary, merges, rules, special tokens, BOS and EOS.
    ///
    /// Equal fingerprints mean equal encodings. Two representations of one tokenizer (`tokenizer.json` against `vocab.json` and
    /// `merges.txt`) may differ.
    ///
    /// # Errors
    /// If the `tokenizers` library cannot serialize itself.
    pub fn fingerprint(&self) -> Result<String> {
        let rules = self.engine.to_string(false).map_err(|cause| failed("describe", cause))?;
        let mut hash = Sha256::new();
        hash.update(rules.as_bytes());
        let plain = self.engine.get_encode_special_tokens();
        hash.update(format!("\0{plain}\0{:?}\0{:?}", self.bos, self.eos).as_bytes());
        Ok(hex(&hash.finalize()))
    }

    /// Warns about tokens without an embedding, such as a padding token that was added without resizing the model. A text that contains one
    /// is refused.
    pub fn check_vocabulary(&self, vocabulary: usize) {
        let beyond: Vec<u32> = (vocabulary..self.size)
            .filter_map(|id| u32::try_from(id).ok())
            .filter(|&id| self.token(id).is_some())
            .collect();
        if let Some(&first) = beyond.first() {
            let first = self.token(first).unwrap_or_default();
            tracing::warn!(
                "{} of the tokenizer's tokens have no embedding in the model, which has {} (config key `vocab_size`); the first is `{first}`. \
                 A text that contains one is refused",
                beyond.len(),
                vocabulary
            );
        }
    }
}

/// The files that the tokenizer of a GGUF file would have, and a note.
fn from_gguf(path: &Path) -> Result<Option<(SourceFiles, Option<String>)>> {
    match find(path)? {
        Some(file) => gguf::source(&Gguf::open(&file)?),
        None => Ok(None),
    }
}

fn failed(action: &'static str, cause: tokenizers::Error) -> Error {
    Error::Tokenizer { action, problem: cause.to_string() }
}
