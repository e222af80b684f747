//! Between text and tokens: words separated by spaces, punctuation marks attached to the word before them.

/// The marks that are tokens of their own.
const MARKS: [char; 6] = ['.', ',', '!', '?', ';', ':'];

/// Whether a token is a punctuation mark and not a word.
#[must_use]
pub fn is_mark(token: &str) -> bool {
    let mut chars = token.chars();
    matches!((chars.next(), chars.next()), (Some(only), None) if MARKS.contains(&only))
}

/// Writes tokens as text: one space before each word but the first token, none before a mark.
///
/// ```
/// use mixce_synthetic::grammar::render;
/// assert_eq!(render(&["Anna", ",", "who", "sings", ",", "waits", "."]), "Anna, who sings, waits.");
/// ```
#[must_use]
pub fn render(tokens: &[&str]) -> String {
    let mut text = String::new();
    for (position, token) in tokens.iter().enumerate() {
        if position > 0 && !is_mark(token) {
            text.push(' ');
        }
        text.push_str(token);
    }
    text
}

/// Splits any text into tokens: at white space, and marks at the end of a word become tokens of their own.
///
/// `words(&render(tokens))` gives `tokens` back if each of them is a mark, or a word without white space that is not
/// empty and does not end in a mark; all texts of the grammar, and their noisy versions, are such. White space is not
/// kept: to ask whether a *text* is written exactly as the grammar does, use
/// [`Grammar::log_prob_text`](super::Grammar::log_prob_text).
///
/// ```
/// use mixce_synthetic::grammar::words;
/// assert_eq!(words("Anna, who sings, waits."), ["Anna", ",", "who", "sings", ",", "waits", "."]);
/// ```
#[must_use]
pub fn words(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for chunk in text.split_whitespace() {
        let word = chunk.trim_end_matches(MARKS);
        if !word.is_empty() {
            tokens.push(word);
        }
        // Every mark is one byte long.
        tokens.extend((word.len()..chunk.len()).filter_map(|at| chunk.get(at..=at)));
    }
    tokens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_splits_without_loss_of_anything_but_white_space(text in "\\PC{0,40}") {
            let joined: String = words(&text).concat();
            let kept: String = text.split_whitespace().collect();
            prop_assert_eq!(joined, kept);
        }

        #[test]
        fn tokens_survive_a_round_trip(tokens in prop::collection::vec("[a-zA-Zäß'-]{1,6}|[.,!?;:]", 0..12)) {
            let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
            let text = render(&tokens);
            prop_assert_eq!(words(&text), tokens);
        }
    }
}
