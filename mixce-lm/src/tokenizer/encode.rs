//! Text to token ids and back.

use mixce_base::panics::{Panicked, caught};
use tokenizers::{Encoding, TruncationDirection};

use super::{Tokenizer, failed, pieces};
use crate::error::{Error, Result};

impl Tokenizer {
    /// The token ids of a text. The empty text has none.
    ///
    /// # Errors
    /// When the library fails, for example on a character that the vocabulary cannot spell; when the normalizer would make a text much
    /// longer; when a text has more than 16 MiB and cannot be encoded in pieces, which takes rules like GPT-2's and spaces between words.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_beginning(text, usize::MAX)
    }

    /// The beginning of a text: all of its ids if it has at most `tokens`, else more than `tokens` of them.
    fn encode_beginning(&self, text: &str, tokens: usize) -> Result<Vec<u32>> {
        if !self.is_divisible {
            return Ok(self.encoding(text)?.get_ids().to_vec());
        }
        let mut ids = Vec::new();
        for piece in pieces::pieces(text, pieces::PIECE_BYTES) {
            ids.extend_from_slice(self.encoding(piece)?.get_ids());
            if ids.len() > tokens {
                break;
            }
        }
        Ok(ids)
    }

    /// The library's encoding of a whole text.
    fn encoding(&self, text: &str) -> Result<Encoding> {
        if text.len() > pieces::MAX_WHOLE_BYTES {
            let why = if self.is_divisible {
                "without spaces between words"
            } else {
                "that this tokenizer cannot encode in parts"
            };
            let (bytes, limit) = (text.len(), pieces::MAX_WHOLE_BYTES >> 20);
            let problem = format!("{bytes} bytes of text {why}; at most {limit} MiB are supported");
            return Err(Error::Tokenizer { action: "encode", problem });
        }
        let _turn = pieces::turn(text);
        guarded("encode", || {
            self.growth.check(text)?;
            self.engine.encode_fast(text, false)
        })
    }

    /// Encodes and decodes a few texts, so that rules that make the library panic are met at once. Other failures depend on the text.
    pub(super) fn try_out(&self) -> Result<(), Panicked> {
        for text in
            ["", " ", "a", "A word, two words: 34!\n\n\tcafe\u{301} \u{6f22}\u{5b57} \u{1f642}\u{fdfa}"]
        {
            let outcome = caught(|| {
                self.growth.check(text)?;
                let ids = self.engine.encode_fast(text, false)?;
                self.engine.decode(ids.get_ids(), false)
            })?;
            if let Err(cause) = outcome {
                tracing::debug!("the tokenizer cannot encode `{text}`: {cause}");
            }
        }
        Ok(())
    }

    /// As [`Tokenizer::encode`], inside the tokenizer's template, which for BERT is `[CLS] text [SEP]`. The text is truncated at its end to
    /// at most `max_tokens` ids in total, unless the template alone has more.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_in_template(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>> {
        let mut encoding = self.encoding(text)?;
        let whole = guarded("encode", || {
            let template = self.engine.encode_fast("", true)?.len();
            encoding.truncate(max_tokens.saturating_sub(template), 0, TruncationDirection::Right);
            self.engine.post_process(encoding, None, true)
        })?;
        Ok(whole.get_ids().to_vec())
    }

    /// [`Tokenizer::encode`] of many texts, in parallel, in their order.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        use rayon::prelude::*;
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// [`Tokenizer::encode_batch`] for texts of which the first `tokens` ids are wanted: those with more ids have more than `tokens` of
    /// them, and perhaps not all.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_beginnings<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        tokens: usize,
    ) -> Result<Vec<Vec<u32>>> {
        use rayon::prelude::*;
        texts.par_iter().map(|text| self.encode_beginning(text.as_ref(), tokens)).collect()
    }

    /// The text of token ids, special tokens spelled out. Ids outside the vocabulary (a model may have more rows than its
    /// tokenizer has tokens) are skipped; invalid UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// If the `tokenizers` library fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded("decode", || self.engine.decode(ids, false))
    }

    /// [`Tokenizer::decode`] without the special tokens.
    ///
    /// # Errors
    /// If the `tokenizers` library fails.
    pub fn decode_plain(&self, ids: &[u32]) -> Result<String> {
        guarded("decode", || self.engine.decode(ids, true))
    }
}

/// Runs the library, which panics on some texts under unusual rules.
fn guarded<T>(action: &'static str, f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let outcome = caught(f).map_err(|panicked| failed(action, panicked.into()))?;
    outcome.map_err(|cause| failed(action, cause))
}
