//! The data sets and their processing.
use super::clean::Detokenize;
use super::filter::Filter;

/// A data set of the paper, or any other text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// WikiText-103 (or -2): paragraphs of Wikipedia, tokenised, without headings.
    Wikitext,
    /// OpenAI's sample of WebText.
    Webtext,
    /// Prompts and stories, tokenised.
    WritingPrompts,
    /// The user's own.
    Text,
}

impl Collection {
    /// The word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wikitext => "wikitext",
            Self::Webtext => "webtext",
            Self::WritingPrompts => "writingprompts",
            Self::Text => "text",
        }
    }

    /// Where it lies on the hub, and under which configuration; WebText is not there.
    #[must_use]
    pub fn hub(self) -> Option<(&'static str, Option<&'static str>)> {
        match self {
            Self::Wikitext => Some(("Salesforce/wikitext", Some("wikitext-103-raw-v1"))),
            Self::WritingPrompts => Some(("euclaise/writingprompts", None)),
            Self::Webtext | Self::Text => None,
        }
    }

    /// Whether its texts are detokenised, unless something else is requested.
    #[must_use]
    pub fn detokenize(self) -> Detokenize {
        match self {
            Self::Wikitext | Self::WritingPrompts => Detokenize::Auto,
            Self::Webtext | Self::Text => Detokenize::Never,
        }
    }

    /// Its filter, unless something else is requested: more than 50 and fewer than 1000 words for the paper's data sets, at least one for others.
    #[must_use]
    pub fn filter(self) -> Filter {
        let headings = self == Self::Wikitext;
        match self {
            Self::Text => Filter { min_words: 1, max_words: u64::MAX, drop_headings: false },
            _ => Filter { min_words: 51, max_words: 999, drop_headings: headings },
        }
    }

    /// Columns that are joined by a space, for tables that have them.
    #[must_use]
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::WritingPrompts => &["prompt", "story"],
            _ => &[],
        }
    }
}
