//! Filters documents.
use serde::Serialize;

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

/// Documents that a filter did not keep, by the first reason that holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Without a word.
    pub blank: u64,
    /// WikiText's headings.
    pub headings: u64,
    /// With fewer than `min_words` words.
    pub short: u64,
    /// With more than `max_words` words.
    pub long: u64,
}

impl Dropped {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.blank + self.headings + self.short + self.long
    }

    /// The counts in words, without those that are 0.
    #[must_use]
    pub fn describe(&self, filter: &Filter) -> String {
        let parts = [
            (self.blank, "blank".to_owned()),
            (self.headings, "headings".to_owned()),
            (self.short, format!("of fewer than {} words", filter.min_words)),
            (self.long, format!("of more than {} words", filter.max_words)),
        ];
        let parts =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        parts.collect::<Vec<_>>().join(", ")
    }
}

impl Filter {
    /// The number of words of a document that is kept; `None` for one that is not, which is counted.
    ///
    /// ```
    /// use mixce_data::prepare::{Collection, Dropped};
    ///
    /// let (paper, mut dropped) = (Collection::Wikitext.filter(), Dropped::default());
    /// assert_eq!(paper.keep(&"word ".repeat(50), &mut dropped), None);
    /// assert_eq!(paper.keep(&"word ".repeat(51), &mut dropped), Some(51));
    /// assert_eq!(paper.keep(&"word ".repeat(1000), &mut dropped), None);
    /// assert_eq!(paper.keep(&format!("= {} =", "word ".repeat(60)), &mut dropped), None);
    /// assert_eq!(dropped, Dropped { blank: 0, headings: 1, short: 1, long: 1 });
    /// ```
    #[must_use]
    pub fn keep(&self, text: &str, dropped: &mut Dropped) -> Option<u64> {
        let words = text.split_whitespace().count() as u64;
        let reason = if words == 0 && self.min_words > 0 {
            &mut dropped.blank
        } else if self.drop_headings && text.starts_with('=') {
            &mut dropped.headings
        } else if words < self.min_words {
            &mut dropped.short
        } else if words > self.max_words {
            &mut dropped.long
        } else {
            return Some(words);
        };
        *reason += 1;
        None
    }
}
