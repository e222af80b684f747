//! Which documents are kept.

/// Keeps documents by their number of words (runs of anything but white space).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Fewest words.
    pub min_words: u64,
    /// Most words.
    pub max_words: u64,
    /// Drop lines that begin with `=`, WikiText's headings.
    pub drop_headings: bool,
}

impl Filter {
    /// The number of words of a document that is kept; `None` for one that is not.
    ///
    /// ```
    /// use mixce_data::prepare::Collection;
    ///
    /// let paper = Collection::Wikitext.filter();
    /// assert_eq!(paper.keep(&"word ".repeat(50)), None);
    /// assert_eq!(paper.keep(&"word ".repeat(51)), Some(51));
    /// assert_eq!(paper.keep(&"word ".repeat(1000)), None);
    /// assert_eq!(paper.keep(&format!("= {} =", "word ".repeat(60))), None);
    /// ```
    #[must_use]
    pub fn keep(&self, text: &str) -> Option<u64> {
        if self.drop_headings && text.starts_with('=') {
            return None;
        }
        let words = text.split_whitespace().count() as u64;
        (self.min_words..=self.max_words).contains(&words).then_some(words)
    }
}
