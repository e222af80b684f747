//! Tokenised English back to running text, with the rules of `detokenizer.perl -l en` of the Moses toolkit.
//!
//! WikiText and WritingPrompts are published tokenised (`the " end " .`). A language model that is to be compared with people's text should read
//! `the "end".` The rules, for one line:
//!
//! 1. A blank line, and one that is `<...>` from end to end, passes through.
//! 2. ` @-@ ` becomes `-`; `&bar;`, `&#124;`, `&lt;`, `&gt;`, `&bra;`, `&ket;`, `&quot;`, `&apos;`, `&#91;`, `&#93;`, `&amp;` are resolved, in this order.
//! 3. The line is cut at single ASCII spaces; a run of spaces gives empty tokens.
//! 4. Each token is appended to the text so far, with or without a space, by the first rule that matches it (see [`detokenize`]).
//! 5. Runs of spaces become one, a space at either end goes.
//!
//! Hyphens made of `--`, right curly quotes and the typographic apostrophe are tokens like any other; `n't` stays apart (`do n't`), since only
//! a mode of the original that nobody used joins it.
//! Written from a description of the rules; contains no part of the original, which is LGPL.
mod classes;
mod datasets;

pub use datasets::{wikitext_markers, writing_prompt_marks};

use classes::{begins_alphabetic, ends_alphanumeric, is_cjk, is_closing, is_opening, is_quote};

/// Detokenises one line (without its line end).
///
/// A token is appended to the text so far by the first of these rules that matches:
///
/// | | token | space before | space after |
/// | --- | --- | --- | --- |
/// | 1 | begins with a CJK character | unless the token before ends in one | yes |
/// | 2 | only currency signs and `( [ { ¿ ¡` | yes | no |
/// | 3 | only `, . ? ! : ; \ % } ] )` | no | yes |
/// | 4 | `'` and a letter, and the token before ends in a letter or digit | no | yes |
/// | 5 | only quotes ``' " ` „ “``, opening | yes | no |
/// |   | the same, closing | no | yes |
/// | 6 | anything else | yes | yes |
///
/// A quote opens when the quotes of its kind so far are even in number, and closes otherwise. A `'` that would open after an `s` is the genitive of a
/// plural (`the dogs ' bowls`): it is put like a closing one and does not count.
///
/// ```
/// use mixce_data::moses::detokenize;
///
/// assert_eq!(detokenize("He said , \" It 's the dogs ' ( 2 @-@ year @-@ old ) . \""), "He said, \"It's the dogs' (2-year-old).\"");
/// assert_eq!(detokenize("I do n't know"), "I do n't know");
/// ```
#[must_use]
pub fn detokenize(line: &str) -> String {
    if is_blank(line) || is_tag(line) {
        return line.to_owned();
    }
    let line = unescape(&format!(" {line} ").replace(" @-@ ", "-"));
    let mut text = String::with_capacity(line.len());
    let mut before: Option<&str> = None;
    // Whether the next token, if it wants a space before it, gets one.
    let mut space = " ";
    let mut counts = QuoteCounts::default();
    // Perl's `split` drops empty fields at the end.
    for token in line.trim_end_matches(' ').split(' ') {
        space = if token.chars().next().is_some_and(is_cjk) {
            if !before.and_then(|t| t.chars().next_back()).is_some_and(is_cjk) {
                text.push_str(space);
            }
            text.push_str(token);
            " "
        } else if is_opening(token) {
            text.push_str(space);
            text.push_str(token);
            ""
        } else if is_closing(token) || (is_clitic(token) && before.is_some_and(ends_alphanumeric)) {
            text.push_str(token);
            " "
        } else if is_quote(token) {
            counts.put(token, before, space, &mut text)
        } else {
            text.push_str(space);
            text.push_str(token);
            " "
        };
        before = Some(token);
    }
    tidy(&text)
}

/// `'` and a letter: `'s`, `'ve`, `'tis`.
fn is_clitic(token: &str) -> bool {
    token.strip_prefix('\'').is_some_and(begins_alphabetic)
}

/// How many quotes of each spelling there were. Low and left curly quotes count as `"`.
#[derive(Default)]
struct QuoteCounts(Vec<(String, u64)>);

impl QuoteCounts {
    /// Puts a quote after the text; gives the space that may follow it.
    fn put(&mut self, token: &str, before: Option<&str>, space: &str, text: &mut String) -> &'static str {
        let spelling = if token.chars().all(|c| matches!(c, '\u{201e}' | '\u{201c}')) { "\"" } else { token };
        let at = self.0.iter().position(|(known, _)| known == spelling).unwrap_or_else(|| {
            self.0.push((spelling.to_owned(), 0));
            self.0.len() - 1
        });
        let count = &mut self.0[at].1;
        let opens = count.is_multiple_of(2);
        if opens && token == "'" && before.is_some_and(|t| t.ends_with('s')) {
            text.push_str(token);
            return " ";
        }
        *count += 1;
        if opens {
            text.push_str(space);
            text.push_str(token);
            ""
        } else {
            text.push_str(token);
            " "
        }
    }
}

fn is_blank(line: &str) -> bool {
    line.chars().all(char::is_whitespace)
}

/// A line of markup: `<` and `>` at the ends and something between.
fn is_tag(line: &str) -> bool {
    line.len() > 2 && line.starts_with('<') && line.ends_with('>') && !line.contains('\n')
}

fn unescape(line: &str) -> String {
    const ENTITIES: [(&str, &str); 11] = [
        ("&bar;", "|"),
        ("&#124;", "|"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&bra;", "["),
        ("&ket;", "]"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&#91;", "["),
        ("&#93;", "]"),
        ("&amp;", "&"),
    ];
    if !line.contains('&') {
        return line.to_owned();
    }
    ENTITIES.iter().fold(line.to_owned(), |line, (entity, character)| line.replace(entity, character))
}

/// Runs of ASCII spaces become one; one at either end goes.
fn tidy(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len());
    for c in text.chars() {
        if c != ' ' || !tidy.ends_with(' ') {
            tidy.push(c);
        }
    }
    let tidy = tidy.strip_prefix(' ').unwrap_or(&tidy);
    tidy.strip_suffix(' ').unwrap_or(tidy).to_owned()
}

#[cfg(test)]
mod tests;
