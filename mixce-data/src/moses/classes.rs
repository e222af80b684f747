//! Kinds of characters and tokens that the rules tell apart.

/// Whether the character belongs to a script that is written without spaces, by the original's own list of blocks.
pub(super) fn is_cjk(c: char) -> bool {
    matches!(c,
        '\u{1100}'..='\u{11ff}' | '\u{2e80}'..='\u{a4cf}' | '\u{a840}'..='\u{a87f}' | '\u{ac00}'..='\u{d7af}'
        | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe4f}' | '\u{ff65}'..='\u{ffdc}' | '\u{20000}'..='\u{2ffff}')
}

/// Currency signs, opening brackets, inverted marks, and nothing else.
pub(super) fn is_opening(token: &str) -> bool {
    only(token, |c| matches!(c, '(' | '[' | '{' | '¿' | '¡') || is_currency(c))
}

/// Punctuation that leans on the word before, and nothing else.
pub(super) fn is_closing(token: &str) -> bool {
    only(token, |c| matches!(c, ',' | '.' | '?' | '!' | ':' | ';' | '\\' | '%' | '}' | ']' | ')'))
}

/// Quotes, and nothing else. The right curly quote and the typographic apostrophe are not among them.
pub(super) fn is_quote(token: &str) -> bool {
    only(token, |c| matches!(c, '\'' | '"' | '\u{201e}' | '\u{201c}' | '`'))
}

/// Whether the first character is a letter.
pub(super) fn begins_alphabetic(text: &str) -> bool {
    text.chars().next().is_some_and(char::is_alphabetic)
}

/// Whether the last character is a letter or a decimal digit (not `²` or `½`).
pub(super) fn ends_alphanumeric(token: &str) -> bool {
    token.chars().next_back().is_some_and(|c| c.is_alphabetic() || (c.is_numeric() && !is_other_number(c)))
}

fn only(token: &str, belongs: impl Fn(char) -> bool) -> bool {
    !token.is_empty() && token.chars().all(belongs)
}

/// Unicode's category Sc (currency symbols), version 14 and the one sign added since.
fn is_currency(c: char) -> bool {
    matches!(c,
        '$' | '\u{a2}'..='\u{a5}' | '\u{58f}' | '\u{60b}' | '\u{7fe}'..='\u{7ff}' | '\u{9f2}'..='\u{9f3}' | '\u{9fb}'
        | '\u{af1}' | '\u{bf9}' | '\u{e3f}' | '\u{17db}' | '\u{20a0}'..='\u{20c1}' | '\u{a838}' | '\u{fdfc}'
        | '\u{fe69}' | '\u{ff04}' | '\u{ffe0}'..='\u{ffe1}' | '\u{ffe5}'..='\u{ffe6}' | '\u{11fdd}'..='\u{11fe0}'
        | '\u{1e2ff}' | '\u{1ecb0}')
}

/// Unicode's category No below U+3300: fractions, superscripts, circled numbers. Those above are numbers of scripts that no English text holds.
fn is_other_number(c: char) -> bool {
    matches!(c,
        '\u{b2}'..='\u{b3}' | '\u{b9}' | '\u{bc}'..='\u{be}' | '\u{9f4}'..='\u{9f9}' | '\u{b72}'..='\u{b77}'
        | '\u{bf0}'..='\u{bf2}' | '\u{c78}'..='\u{c7e}' | '\u{d58}'..='\u{d5e}' | '\u{d70}'..='\u{d78}'
        | '\u{f2a}'..='\u{f33}' | '\u{1369}'..='\u{137c}' | '\u{17f0}'..='\u{17f9}' | '\u{19da}' | '\u{2070}'
        | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}' | '\u{2150}'..='\u{215f}' | '\u{2189}'
        | '\u{2460}'..='\u{249b}' | '\u{24ea}'..='\u{24ff}' | '\u{2776}'..='\u{2793}' | '\u{2cfd}'
        | '\u{3192}'..='\u{3195}' | '\u{3220}'..='\u{3229}' | '\u{3248}'..='\u{324f}' | '\u{3251}'..='\u{325f}'
        | '\u{3280}'..='\u{3289}' | '\u{32b1}'..='\u{32bf}')
}
