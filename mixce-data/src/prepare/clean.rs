//! From a published document to one line of running text.
use super::collection::Collection;
use crate::moses::{detokenize, wikitext_markers, writing_prompt_marks};

/// Whether texts are detokenised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detokenize {
    /// If the first documents look tokenised; see [`looks_tokenized`].
    #[default]
    Auto,
    /// In any case.
    Always,
    /// Not at all.
    Never,
}

/// What is done to each document of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleaning {
    /// Whose marks are resolved.
    pub collection: Collection,
    /// Whether the text is detokenised (decided by now).
    pub detokenize: bool,
}

impl Cleaning {
    /// The document on one line: the collection's marks resolved, detokenised if that is wanted, line endings and the white space around them made one space.
    #[must_use]
    pub fn apply(&self, text: &str) -> String {
        let line = one_line(text);
        if !self.detokenize {
            return match self.collection {
                // Not tokenised, but the marks may be there all the same.
                Collection::WritingPrompts => one_line(&line.replace("<newline>", " ")),
                _ => line,
            };
        }
        detokenize(&match self.collection {
            Collection::Wikitext => wikitext_markers(&line),
            Collection::WritingPrompts => writing_prompt_marks(&line),
            Collection::Webtext | Collection::Text => line,
        })
    }
}

/// Line endings with the white space around them become one space; white space at both ends goes.
fn one_line(text: &str) -> String {
    let text = text.trim();
    if !text.contains(is_line_end) {
        return text.to_owned();
    }
    let lines = text.split(is_line_end).map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// What any reader of lines may take for a line's end.
fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Whether texts are tokenised: more than half of those with a full stop or comma have one between spaces, as in `the end .`
///
/// ```
/// use mixce_data::prepare::looks_tokenized;
///
/// assert!(looks_tokenized(&["It was late , and dark .", " = Heading = "]));
/// assert!(!looks_tokenized(&["It was late, and dark.", "No ."]));
/// assert!(!looks_tokenized::<&str>(&[]));
/// ```
#[must_use]
pub fn looks_tokenized<T: AsRef<str>>(texts: &[T]) -> bool {
    let (mut marked, mut tokenized) = (0, 0);
    for text in texts.iter().map(AsRef::as_ref).filter(|text| text.contains(['.', ','])) {
        marked += 1;
        let apart = text.split_whitespace().any(|word| word == "." || word == ",");
        tokenized += usize::from(apart);
    }
    2 * tokenized > marked
}
