//! Text for a terminal, which obeys some of the characters it is sent.
//!
//! A file's names and texts may hold escape sequences, which set the title, move the cursor or hide a line, and marks that reverse the
//! order in which letters are shown.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text with `\u{1b}` in place of ESC, and likewise for every control character but line feed and tab, and every mark that changes the
/// direction of text.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| is_obeyed(c) && !matches!(c, '\n' | '\t'),
        |out, c| write!(out, "\\u{{{:x}}}", u32::from(c)),
    )
}

/// [`printable`] text on one line: line feed and tab are written as `\n` and `\t`.
#[must_use]
pub fn printable_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed, |out, c| match c {
        '\n' => out.write_str("\\n"),
        '\t' => out.write_str("\\t"),
        '\r' => out.write_str("\\r"),
        _ => write!(out, "\\u{{{:x}}}", u32::from(c)),
    })
}

/// Valid JSON with its strings made printable by JSON's own escapes, so that it means the same.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // Those below U+0020 are escaped inside strings by every writer, and are white space outside.
    escaped(
        json,
        |c| is_obeyed(c) && c >= ' ',
        |out, c| c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}")),
    )
}

/// Whether a terminal obeys a character rather than showing it: Unicode's control characters (ESC, BEL, CSI), and the marks and isolates of
/// the bidirectional algorithm.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escaped(
    text: &str,
    is_escaped: impl Fn(char) -> bool,
    write: impl Fn(&mut String, char) -> std::fmt::Result,
) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) {
            // Writing to a string cannot fail.
            let _ = write(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown() {
        let text = "a\u{1b}]0;PWN\u{7}\u{1b}[31mRED\u{9b}2J\u{202e}dlrow\u{2066}\r\u{8}\u{7f}";
        let want = r"a\u{1b}]0;PWN\u{7}\u{1b}[31mRED\u{9b}2J\u{202e}dlrow\u{2066}\u{d}\u{8}\u{7f}";
        assert_eq!(printable(text), want);
        assert_eq!(printable("a\tb\nc"), "a\tb\nc");
        assert_eq!(printable_line("a\tb\nc\r\u{1b}"), r"a\tb\nc\r\u{1b}");
        // Letters of any script, and what joins an emoji.
        let plain = "é \u{6f22} \u{5d0} \u{1f469}\u{200d}\u{1f680} \u{301}";
        assert!(matches!(printable_line(plain), Cow::Borrowed(same) if same == plain));
    }

    proptest! {
        #[test]
        fn nothing_obeyed_is_left_and_json_means_the_same(text in any::<String>(), more in "[\u{0}-\u{9f}\u{2028}-\u{202e}\u{2066}]{0,8}") {
            let text = text + &more;
            prop_assert!(!printable_line(&text).contains(is_obeyed));
            prop_assert!(!printable(&text).contains(|c| is_obeyed(c) && c != '\n' && c != '\t'));
            let json = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace(|c: char| c < ' ', ""));
            prop_assert!(!printable_json(&json).contains(is_obeyed));
        }
    }
}
