//! Encodes documents: the first `max_length - 1` tokens plus EOS.
use mixce_lm::Tokenizer;

use crate::error::{Error, Result};

/// The tokenizer interface of this crate.
pub trait Encode: Sync {
    /// Token ids of each text, without special tokens added.
    ///
    /// # Errors
    /// The tokenizer's message.
    fn encode_batch(&self, texts: &[&str]) -> std::result::Result<Vec<Vec<u32>>, String>;

    /// The beginning of each text: all of its ids if it has at most `tokens`, else more than `tokens` of them.
    ///
    /// # Errors
    /// The tokenizer's message.
    fn encode_beginnings(&self, texts: &[&str], tokens: usize) -> std::result::Result<Vec<Vec<u32>>, String> {
        let _ = tokens;
        self.encode_batch(texts)
    }

    /// The token that ends a document.
    fn eos_id(&self) -> Option<u32>;

    /// The token that may begin a document, if the tokenizer has one.
    fn bos_id(&self) -> Option<u32>;

    /// A string that changes whenever an encoding would change.
    ///
    /// # Errors
    /// The tokenizer's message.
    fn fingerprint(&self) -> std::result::Result<String, String>;
}

impl Encode for Tokenizer {
    fn encode_batch(&self, texts: &[&str]) -> std::result::Result<Vec<Vec<u32>>, String> {
        Self::encode_batch(self, texts).map_err(|e| e.to_string())
    }

    fn encode_beginnings(&self, texts: &[&str], tokens: usize) -> std::result::Result<Vec<Vec<u32>>, String> {
        Self::encode_beginnings(self, texts, tokens).map_err(|e| e.to_string())
    }

    fn eos_id(&self) -> Option<u32> {
        Self::eos_id(self)
    }

    fn bos_id(&self) -> Option<u32> {
        Self::bos_id(self)
    }

    fn fingerprint(&self) -> std::result::Result<String, String> {
        Self::fingerprint(self).map_err(|e| e.to_string())
    }
}

/// Encoding options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeSettings {
    /// Maximum tokens per document, EOS (and BOS) included; `None` for no limit.
    pub max_length: Option<usize>,
    /// Prepend the tokenizer's BOS.
    pub add_bos: bool,
}

impl EncodeSettings {
    /// Settings as training and evaluation default to: BOS where the tokenizer's own files ask for it.
    #[must_use]
    pub fn of(tokenizer: &Tokenizer, max_length: Option<usize>) -> Self {
        Self { max_length, add_bos: tokenizer.opening().is_some() }
    }
}

/// Encodes texts as `[BOS] + first tokens + EOS`, at most `max_length` in total.
///
/// The flag of each document says whether it was truncated.
///
/// # Errors
/// The tokenizer's message, or that it has no EOS, or no BOS with `add_bos`.
pub fn encode_documents(
    tokenizer: &dyn Encode,
    texts: &[&str],
    settings: EncodeSettings,
) -> std::result::Result<Vec<(Vec<u32>, bool)>, String> {
    let eos = tokenizer.eos_id().ok_or("the tokenizer has no EOS token to end a document with")?;
    let bos = match (settings.add_bos, tokenizer.bos_id()) {
        (false, _) => None,
        (true, Some(id)) => Some(id),
        (true, None) => return Err("`add_bos` is set but the tokenizer has no BOS token".into()),
    };
    let room = settings.max_length.map(|n| n.saturating_sub(1 + usize::from(bos.is_some())));
    let encoded = match room {
        Some(room) => tokenizer.encode_beginnings(texts, room)?,
        None => tokenizer.encode_batch(texts)?,
    };
    if encoded.len() != texts.len() {
        return Err(format!("expected {} encodings, got {}", texts.len(), encoded.len()));
    }
    let assemble = |ids: Vec<u32>| {
        let kept = room.map_or(ids.len(), |room| room.min(ids.len()));
        let document = bos.into_iter().chain(ids[..kept].iter().copied()).chain([eos]).collect();
        (document, kept < ids.len())
    };
    Ok(encoded.into_iter().map(assemble).collect())
}

impl EncodeSettings {
    /// Checks that a document has room for a token and EOS.
    ///
    /// # Errors
    /// [`Error::Config`] when `max_length` leaves no room.
    pub fn validate(&self) -> Result<()> {
        let least = 2 + usize::from(self.add_bos);
        match self.max_length {
            Some(n) if n < least => Err(Error::config(format!(
                "`config.max_length = {n}` is too short: expected at least {least}"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One token a character: its code point modulo 90; EOS 90, BOS 91.
    #[derive(Debug)]
    pub(crate) struct Characters;

    impl Encode for Characters {
        fn encode_batch(&self, texts: &[&str]) -> std::result::Result<Vec<Vec<u32>>, String> {
            if texts.iter().any(|t| t.contains('!')) {
                return Err("no `!` please".into());
            }
            Ok(texts.iter().map(|t| t.chars().map(|c| c as u32 % 90).collect()).collect())
        }
        fn eos_id(&self) -> Option<u32> {
            Some(90)
        }
        fn bos_id(&self) -> Option<u32> {
            Some(91)
        }
        fn fingerprint(&self) -> std::result::Result<String, String> {
            Ok("characters".into())
        }
    }

    #[test]
    fn eos_always_closes_and_counts_in_the_length() {
        let settings = EncodeSettings { max_length: Some(4), add_bos: false };
        let encoded = encode_documents(&Characters, &["AB", "ABC", "ABCD"], settings).unwrap();
        assert_eq!(encoded[0], (vec![65, 66, 90], false));
        assert_eq!(encoded[1], (vec![65, 66, 67, 90], false));
        assert_eq!(encoded[2], (vec![65, 66, 67, 90], true));
    }

    #[test]
    fn bos_counts_in_the_length_too() {
        let settings = EncodeSettings { max_length: Some(4), add_bos: true };
        let encoded = encode_documents(&Characters, &["ABC"], settings).unwrap();
        assert_eq!(encoded[0], (vec![91, 65, 66, 90], true));
        assert!(EncodeSettings { max_length: Some(2), add_bos: true }.validate().is_err());
        assert!(EncodeSettings { max_length: Some(2), add_bos: false }.validate().is_ok());
    }

    #[test]
    fn without_a_limit_documents_stay_whole() {
        let settings = EncodeSettings { max_length: None, add_bos: false };
        let long = "x".repeat(1000);
        assert_eq!(encode_documents(&Characters, &[&long], settings).unwrap()[0].0.len(), 1001);
    }
}
