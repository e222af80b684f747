//! BERT's tokenizer from its vocabulary: WordPiece between `[CLS]` and `[SEP]`.
//!
//! Checkpoints that are older than `tokenizer.json`, SimCSE's among them, have nothing else. The rules are those of transformers'
//! `BertTokenizer`: control characters dropped, CJK characters apart, lower case without accents if so configured, words split at
//! punctuation, words of more than 100 characters unknown.

use std::path::Path;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Model as _, Tokenizer as Engine};

use super::failed;
use crate::error::{Error, Result};

const UNKNOWN: &str = "[UNK]";
const BEGINNING: &str = "[CLS]";
const END: &str = "[SEP]";

/// The tokenizer of a `vocab.txt`: one token per line, numbered from 0.
pub(super) fn engine(path: &Path, vocab: &[u8], lower_case: bool) -> Result<Engine> {
    let vocab = WordPiece::read_bytes(vocab).map_err(|cause| Error::malformed(path, cause))?;
    let special = |token: &str| match vocab.get(token) {
        Some(id) => Ok((token.to_owned(), *id)),
        None => Err(Error::malformed(path, format!("no token `{token}`, so not a BERT vocabulary"))),
    };
    let (end, beginning) = (special(END)?, special(BEGINNING)?);
    special(UNKNOWN)?;
    let model = WordPiece::builder()
        .vocab(vocab)
        .unk_token(UNKNOWN.to_owned())
        .build()
        .map_err(|cause| failed("build", cause))?;
    let known: Vec<AddedToken> = ["[PAD]", UNKNOWN, BEGINNING, END, "[MASK]"]
        .into_iter()
        .filter(|token| model.token_to_id(token).is_some())
        .map(|token| AddedToken::from(token, true))
        .collect();
    let mut engine = Engine::new(model);
    engine
        .with_normalizer(Some(BertNormalizer::new(true, true, None, lower_case)))
        .map_err(|cause| failed("build", cause))?
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(BertProcessing::new(end, beginning)));
    engine.add_special_tokens(known).map_err(|cause| failed("build", cause))?;
    Ok(engine)
}
