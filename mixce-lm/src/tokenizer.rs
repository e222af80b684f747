//! From text to token ids and back, by the files that a model comes with.

use std::path::Path;

use sha2::{Digest, Sha256};
use tokenizers::{Tokenizer as Engine, TruncationDirection};

use crate::error::{Error, Result};

mod bpe;
mod source;
mod word_piece;

use source::SourceFiles;

/// The token that GPT-2 puts between texts; both BOS and EOS.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer as transformers' fast tokenizers behave, without templates, truncation or padding.
///
/// Texts are encoded as they are: nothing is put before or after them, EOS included (that is the caller's decision).
#[derive(Debug, Clone)]
pub struct Tokenizer {
    engine: Engine,
    source: SourceFiles,
    size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or else GPT-2's `vocab.json` and `merges.txt` (byte-level BPE), or else BERT's `vocab.txt` (WordPiece),
    /// from a model's folder.
    ///
    /// BOS and EOS are those that `tokenizer_config.json` or `special_tokens_map.json` name, else those of `config.json`,
    /// else `<|endoftext|>`, where the vocabulary has them.
    ///
    /// # Errors
    /// When there are no such files, or one is damaged: not JSON, merges of tokens that do not exist, two tokens of one
    /// id, special tokens outside the vocabulary.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let source = SourceFiles::read(dir)?;
        let settings = source.settings(dir)?;
        let mut engine =
            match (source.get("tokenizer.json"), source.get("vocab.json"), source.get("merges.txt")) {
                (Some(json), ..) => bpe::engine_from_json(&dir.join("tokenizer.json"), json)?,
                (None, Some(vocab), Some(merges)) => {
                    let vocab = bpe::parse_vocab(&dir.join("vocab.json"), vocab)?;
                    let merges = bpe::parse_merges(&dir.join("merges.txt"), merges, &vocab)?;
                    bpe::engine(vocab, merges, &settings.added).map_err(|error| error.in_file(dir))?
                }
                _ => match source.get("vocab.txt") {
                    Some(vocab) => word_piece::engine(&dir.join("vocab.txt"), vocab, settings.do_lower_case)?,
                    None => return Err(Error::NoTokenizer { path: dir.to_owned() }),
                },
            };
        bpe::set_prefix_space(&mut engine, settings.add_prefix_space);
        let mut tokenizer = Self::new(engine, source)?;
        let named = |token: &Option<String>, id: Option<u32>| -> Result<Option<u32>> {
            match token {
                Some(token) => match tokenizer.engine.token_to_id(token) {
                    Some(id) => Ok(Some(id)),
                    None => Err(Error::malformed(
                        &dir.join("tokenizer_config.json"),
                        format!("special token `{token}` is not in the vocabulary"),
                    )),
                },
                None => Ok(id.filter(|&id| (id as usize) < tokenizer.size)),
            }
        };
        let default = tokenizer.engine.token_to_id(END_OF_TEXT);
        let bos = named(&settings.bos_token, settings.bos_id)?.or(default);
        let eos = named(&settings.eos_token, settings.eos_id)?.or(default);
        (tokenizer.bos, tokenizer.eos) = (bos, eos);
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
        bpe::check_merges(memory, merges, &vocab)?;
        let engine = bpe::engine(vocab, merges.to_vec(), &[])?;
        let mut tokenizer = Self::new(engine, SourceFiles::default())?;
        tokenizer.bos = tokenizer.engine.token_to_id(END_OF_TEXT);
        tokenizer.eos = tokenizer.bos;
        Ok(tokenizer)
    }

    /// Learns a byte-level BPE from texts: 256 bytes, merges by frequency up to `vocab_size`, `<|endoftext|>` last.
    ///
    /// Deterministic. At least 257 tokens result; fewer than `vocab_size` when the texts have no more pairs.
    ///
    /// # Errors
    /// When the library fails.
    pub fn train<'t>(texts: impl IntoIterator<Item = &'t str>, vocab_size: usize) -> Result<Self> {
        let (tokens, merges) = bpe::train(texts, vocab_size)?;
        Self::from_vocab(&tokens, &merges)
    }

    fn new(mut engine: Engine, source: SourceFiles) -> Result<Self> {
        // As transformers does: what a tokenizer.json was saved with must not cut or pad texts.
        engine.with_padding(None);
        engine.with_truncation(None).map_err(|cause| failed("set up", cause))?;
        let size = engine.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        Ok(Self { engine, source, size, bos: None, eos: None })
    }

    /// Whether the spelling of a special token inside a text (`<|endoftext|>` in a web page) is encoded as plain text.
    /// By default it becomes the special token, as in transformers.
    #[must_use]
    pub fn with_special_tokens_as_text(mut self, plain: bool) -> Self {
        self.engine.set_encode_special_tokens(plain);
        self
    }

    /// The token ids of a text. The empty text has none.
    ///
    /// # Errors
    /// When the library fails, for example on a character that the vocabulary cannot spell.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.engine.encode_fast(text, false).map_err(|cause| failed("encode", cause))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`Tokenizer::encode`], inside the tokenizer's template, which for BERT is `[CLS] text [SEP]`. Text is cut off at its end so that
    /// there are at most `max_tokens` ids, unless the template alone has more.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_in_template(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>> {
        let mut encoding = self.engine.encode_fast(text, false).map_err(|cause| failed("encode", cause))?;
        let template = self.engine.encode_fast("", true).map_err(|cause| failed("encode", cause))?.len();
        encoding.truncate(max_tokens.saturating_sub(template), 0, TruncationDirection::Right);
        let whole = self.engine.post_process(encoding, None, true);
        Ok(whole.map_err(|cause| failed("encode", cause))?.get_ids().to_vec())
    }

    /// [`Tokenizer::encode`] of many texts, in parallel, in their order.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        use rayon::prelude::*;
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// The text of token ids, special tokens spelled out. Ids outside the vocabulary (a model may have more rows than its
    /// tokenizer has tokens) are left out; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// When the library fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.engine.decode(ids, false).map_err(|cause| failed("decode", cause))
    }

    /// [`Tokenizer::decode`] without the special tokens.
    ///
    /// # Errors
    /// When the library fails.
    pub fn decode_plain(&self, ids: &[u32]) -> Result<String> {
        self.engine.decode(ids, true).map_err(|cause| failed("decode", cause))
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

    /// The token that ends a text.
    #[must_use]
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// SHA-256, in hex, of all that decides which ids a text becomes: vocabulary, merges, rules, special tokens, BOS and EOS.
    ///
    /// Equal fingerprints mean equal encodings. Two spellings of one tokenizer (`tokenizer.json` against `vocab.json` and
    /// `merges.txt`) may differ.
    ///
    /// # Errors
    /// When the library cannot write itself down.
    pub fn fingerprint(&self) -> Result<String> {
        let rules = self.engine.to_string(false).map_err(|cause| failed("describe", cause))?;
        let mut hash = Sha256::new();
        hash.update(rules.as_bytes());
        let plain = self.engine.get_encode_special_tokens();
        hash.update(format!("\0{plain}\0{:?}\0{:?}", self.bos, self.eos).as_bytes());
        Ok(mixce_base::hex(&hash.finalize()))
    }

    /// Checks that the model has an embedding for every token.
    ///
    /// # Errors
    /// When the largest token id is not below `vocabulary`, the model's number of tokens. (A model may have more rows than tokens.)
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<()> {
        if self.size > vocabulary {
            return Err(Error::VocabularyTooLarge { tokenizer: self.size, model: vocabulary });
        }
        Ok(())
    }

    /// Writes the tokenizer's files into an existing folder. Files it was read from are copied byte for byte; of
    /// `tokenizer.json`, `vocab.json`, `merges.txt` (for BPE), `tokenizer_config.json` and `special_tokens_map.json` those
    /// that did not exist are made.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        for (name, bytes) in self.files()? {
            crate::files::write_atomic(&dir.join(name), &bytes)?;
        }
        Ok(())
    }

    /// Names and contents of what [`Tokenizer::save`] writes.
    fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files: Vec<(String, Vec<u8>)> =
            self.source.iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        let mut add = |name: &str, bytes: Vec<u8>| {
            if !files.iter().any(|(existing, _)| existing == name) {
                files.push((name.to_owned(), bytes));
            }
        };
        if self.source.get("tokenizer.json").is_none() {
            let json = self.engine.to_string(true).map_err(|cause| failed("describe", cause))?;
            add("tokenizer.json", json.into_bytes());
        }
        if let Some((vocab, merges)) = bpe::gpt2_files(&self.engine)? {
            add("vocab.json", vocab);
            add("merges.txt", merges);
        }
        let (bos, eos) = (self.bos.and_then(|id| self.token(id)), self.eos.and_then(|id| self.token(id)));
        let is_gpt2 = bpe::is_byte_level(&self.engine);
        add("tokenizer_config.json", source::tokenizer_config(bos.as_deref(), eos.as_deref(), is_gpt2));
        add("special_tokens_map.json", source::special_tokens_map(bos.as_deref(), eos.as_deref()));
        Ok(files)
    }
}

fn failed(action: &'static str, cause: tokenizers::Error) -> Error {
    Error::Tokenizer { action, problem: cause.to_string() }
}
