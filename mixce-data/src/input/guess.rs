//! Guesses the encoding of text that is not UTF-8, for a hint only.
use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};

use crate::error::Guess;

/// Bytes that are judged, on either side of the bad one.
const JUDGED_BYTES: usize = 4096;
/// Bytes that are shown, on either side of the bad one.
const SHOWN_BYTES: usize = 12;

/// A guess at the encoding of a text whose byte `at` is not UTF-8; none if it looks like UTF-8 with some damage, or like no text.
pub(super) fn encoding(text: &[u8], at: usize) -> Option<Guess> {
    let judged = &text[at.saturating_sub(JUDGED_BYTES)..text.len().min(at + JUDGED_BYTES)];
    let as_utf8 = String::from_utf8_lossy(judged);
    let damaged = as_utf8.matches('\u{fffd}').count();
    let whole = as_utf8.chars().filter(|c| !c.is_ascii()).count() - damaged;
    let is_control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace() && *byte != 0xb;
    if whole > damaged || judged.iter().any(is_control) {
        return None;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(judged, true);
    let encoding = detector.guess(None, Utf8Detection::Deny);
    // From the beginning of a word on, so that no character of several bytes is cut.
    let begin = text[..at].iter().rposition(|byte| byte.is_ascii_whitespace()).map_or(0, |space| space + 1);
    let shown = &text[begin.max(at.saturating_sub(SHOWN_BYTES))..text.len().min(at + SHOWN_BYTES)];
    let (reading, had_errors) = encoding.decode_without_bom_handling(shown);
    let printable = |c: char| !c.is_control() || c == '\t';
    let reading: String = reading.chars().take_while(|c| printable(*c) && *c != '\u{fffd}').collect();
    let plausible = !reading.is_ascii() && (!had_errors || reading.chars().count() > 1);
    plausible.then_some(Guess { encoding: encoding.name(), reading: reading.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(bytes: &[u8]) -> Option<(&'static str, String)> {
        let at = std::str::from_utf8(bytes).unwrap_err().valid_up_to();
        encoding(bytes, at).map(|guess| (guess.encoding, guess.reading))
    }

    #[test]
    fn usual_encodings_are_guessed_and_shown() {
        assert_eq!(guess(b"the old m\xfchle"), Some(("windows-1252", "m\u{fc}hle".into())));
        let russian = encoding_rs::WINDOWS_1251.encode("Привет, как дела сегодня").0;
        assert_eq!(guess(&russian), Some(("windows-1251", "Привет, как ".trim().into())));
        let japanese = encoding_rs::SHIFT_JIS.encode("これは日本語の文章です").0;
        assert_eq!(guess(&japanese).map(|(name, _)| name), Some("Shift_JIS"));
        // No text, and UTF-8 in which one character has lost a byte.
        assert_eq!(guess(b"ab\x81\x00\xff\x02"), None);
        assert_eq!(guess(b"caf\xc3\xa9 na\xc3\xafve m\xc3hle"), None);
    }
}
