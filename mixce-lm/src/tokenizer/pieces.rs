//! Encodes a long text in pieces, where that gives the same tokens as the whole.
//!
//! The library takes about 120 bytes of memory for each byte of a text. GPT-2's pre-tokenizer and its successors never join what stands
//! before a space with the space and a letter behind it, and merges stay inside what they separate.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer as Engine};

use super::gguf::WORD_PATTERNS;

/// Length of a piece, if there is a place to cut.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// Longest text, or piece of one, that is encoded as a whole: with 2 GB of memory.
pub(super) const MAX_WHOLE_BYTES: usize = 16 << 20;

/// Held while a long piece is encoded, so that threads do not multiply its memory.
static LONG_PIECE: Mutex<()> = Mutex::new(());

/// A lock for a piece that is long.
pub(super) fn turn(piece: &str) -> Option<MutexGuard<'static, ()>> {
    let is_long = piece.len() > 2 * PIECE_BYTES;
    is_long.then(|| LONG_PIECE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Whether the encoding of a text is that of its [`pieces`], one after another.
pub(super) fn are_exact(engine: &Engine) -> bool {
    use NormalizerWrapper::{NFC, NFD, NFKC, NFKD};
    // An added token may reach over a cut with its own text or with the spaces that it takes in.
    let added = engine.get_added_tokens_decoder();
    let reaches_over = added.values().any(|token| token.rstrip || token.content.contains(' '));
    let keeps_spaces = matches!(engine.get_normalizer(), None | Some(NFC(_) | NFD(_) | NFKC(_) | NFKD(_)));
    let steps: &[PreTokenizerWrapper] = match engine.get_pre_tokenizer() {
        None => return false,
        Some(PreTokenizerWrapper::Sequence(steps)) => steps.as_ref(),
        Some(step) => std::slice::from_ref(step),
    };
    // A step that maps spaces to letters hides them from those behind it.
    let first = steps.iter().find(|step| !matches!(step, PreTokenizerWrapper::Digits(_)));
    !reaches_over && keeps_spaces && steps.iter().all(is_local) && first.is_some_and(separates_words)
}

/// Whether a pre-tokenizer begins a new piece at a space that a letter follows.
fn separates_words(step: &PreTokenizerWrapper) -> bool {
    match step {
        PreTokenizerWrapper::ByteLevel(rules) => rules.use_regex,
        PreTokenizerWrapper::Split(split) => {
            let SplitPattern::Regex(regex) = &split.pattern else { return false };
            WORD_PATTERNS.contains(&regex.as_str())
                && split.behavior == SplitDelimiterBehavior::Isolated
                && !split.invert
        }
        _ => false,
    }
}

/// Whether a pre-tokenizer does the same to a text that ends or begins at such a place.
fn is_local(step: &PreTokenizerWrapper) -> bool {
    separates_words(step)
        || matches!(step, PreTokenizerWrapper::ByteLevel(_) | PreTokenizerWrapper::Digits(_))
}

/// The pieces of a text: of at most `bytes` where it has spaces between words.
pub(super) fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(cut(rest, bytes));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn cut(text: &str, bytes: usize) -> usize {
    if text.len() <= bytes {
        return text.len();
    }
    let is_cut = |at: &usize| {
        text.as_bytes().get(at + 1).is_some_and(u8::is_ascii_alphabetic)
            && text[..*at].chars().next_back().is_some_and(|before| !before.is_whitespace())
    };
    let (head, tail) = text.as_bytes().split_at(bytes);
    let before = memchr::memrchr_iter(b' ', head).find(is_cut);
    before.or_else(|| memchr::memchr_iter(b' ', tail).map(|at| bytes + at).find(is_cut)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::Tokenizer;

    #[test]
    fn pieces_begin_at_a_space_before_a_letter() {
        let long = "one two  three\u{2003} four 5 six".repeat(3);
        let found: Vec<&str> = pieces(&long, 9).collect();
        assert_eq!(found.concat(), long);
        for pair in found.windows(2) {
            assert!(pair[1].starts_with(' ') && pair[1].as_bytes()[1].is_ascii_alphabetic(), "{found:?}");
            assert!(!pair[0].ends_with(char::is_whitespace), "{found:?}");
        }
        assert_eq!(pieces(&"x".repeat(50), 9).count(), 1);
        assert_eq!(pieces("a bc", 1).collect::<Vec<_>>(), ["a", " bc"]);
        assert_eq!(pieces("", 9).count(), 0);
    }

    fn tokenizers() -> Vec<Tokenizer> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        ["tokenizer", "gguf/smollm.gguf", "gguf/llama3.gguf", "gguf/qwen2.gguf"]
            .map(|name| Tokenizer::from_dir(&fixtures.join(name)).unwrap())
            .into()
    }

    #[test]
    fn a_text_without_spaces_may_be_too_long() {
        let tokenizer = tokenizers().remove(0);
        let text = "x".repeat(MAX_WHOLE_BYTES + 1);
        let error = tokenizer.encode(&text).unwrap_err().to_string();
        assert!(
            error.contains("16777217 bytes of text without spaces between words; at most 16 MiB"),
            "{error}"
        );
        assert!(tokenizer.encode_in_template(&text, 9).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_have_the_tokens_of_the_whole(
            parts in prop::collection::vec(prop::sample::select(vec![
                " ", "  ", "\n", " \n", "\t", "\u{a0}", "\u{301}", "a", "The", "x's", " don't", "mill", "12", " 3", "456", "!", "...", " -", "é",
                "\u{6f22}", "\u{1f642}", "<|endoftext|>", "'", " 'S", "\r\n", "Q",
            ]), 0..80),
            bytes in 1usize..12,
        ) {
            let text = parts.concat();
            for tokenizer in tokenizers() {
                prop_assert!(are_exact(tokenizer.engine()));
                let whole = tokenizer.engine().encode_fast(text.as_str(), false).unwrap();
                let encode = |piece| tokenizer.engine().encode_fast(piece, false).unwrap().get_ids().to_vec();
                let ids: Vec<u32> = pieces(&text, bytes).flat_map(encode).collect();
                prop_assert_eq!(whole.get_ids(), ids, "{:?}", text);
            }
        }
    }
}
