//! Settings for reading files.
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::dialect::is_delimiter;
use super::format::Format;
use crate::error::{Error, Result};

/// Settings of reading, the same for all files of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadSettings {
    /// The column (key) of the text; several are joined by a space. Empty: found out (see [`ReadSettings`]'s users' documentation).
    pub text_column: OneOrMany,
    /// Separator between documents of a text file; `None`: one document per line. `\n`, `\r`, `\t`, `\f` (form feed) and `\\` are
    /// understood; line ends in it match all kinds of line endings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document_separator: Option<String>,
    /// In JSON lines without a named column, an object with `prompt` and `continuation` (or `text`) is one text, the second right after the
    /// first: a sample, as `mixce generate` writes it.
    #[serde(skip)]
    pub whole_samples: bool,
    /// Bad rows that may be skipped; one more is an error.
    pub skip_bad_rows: u64,
    /// The format; `None`: by the file's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_format: Option<Format>,
    /// Field separator of CSV and TSV, one ASCII character or `\t`; `None`: detected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// The first record of CSV and TSV is a row; the columns are called `1`, `2`, ...
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_header: bool,
}

impl ReadSettings {
    /// The separator's bytes, its escapes resolved.
    ///
    /// # Errors
    /// [`Error::Settings`] for an empty one or an unknown escape.
    pub fn separator(&self) -> Result<Option<Vec<u8>>> {
        let Some(text) = &self.document_separator else { return Ok(None) };
        let mut bytes = String::new();
        let mut characters = text.chars();
        while let Some(c) = characters.next() {
            if c != '\\' {
                bytes.push(c);
                continue;
            }
            bytes.push(match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('f') => '\u{c}',
                Some('\\') => '\\',
                other => {
                    let escape = other.map(String::from).unwrap_or_default();
                    return Err(Error::Settings(format!(
                        "`settings.document_separator = {text}`: unknown escape `\\{escape}`, expected `\\n`, `\\r`, `\\t`, `\\f` or `\\\\`"
                    )));
                }
            });
        }
        if bytes.is_empty() {
            return Err(Error::Settings(
                "`settings.document_separator`: expected some text, got none".into(),
            ));
        }
        Ok(Some(bytes.into_bytes()))
    }

    /// The delimiter's byte.
    ///
    /// # Errors
    /// [`Error::Settings`] for what cannot stand between fields.
    pub fn delimiter_byte(&self) -> Result<Option<u8>> {
        match self.delimiter.as_deref().map(|text| (text, text.as_bytes())) {
            None => Ok(None),
            Some((r"\t", _)) => Ok(Some(b'\t')),
            Some((_, [byte])) if is_delimiter(*byte) => Ok(Some(*byte)),
            Some((text, _)) => Err(Error::Settings(format!(
                "`settings.delimiter = {text}`: expected one ASCII character such as `;` or `|`, or `\\t`, no letter, digit, quote or backslash"
            ))),
        }
    }

    /// A unique byte encoding of everything that determines a file's documents.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        format!("{self:?}").into_bytes()
    }
}

/// A list of words; in a configuration file a single word needs no brackets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OneOrMany(pub Vec<String>);

impl OneOrMany {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for OneOrMany {
    fn from(word: &str) -> Self {
        Self(vec![word.to_owned()])
    }
}

impl From<Vec<String>> for OneOrMany {
    fn from(words: Vec<String>) -> Self {
        Self(words)
    }
}

impl Serialize for OneOrMany {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => serializer.serialize_str(one),
            many => many.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a string or a list of strings")]
        enum Value {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match Value::deserialize(deserializer)? {
            Value::One(one) => vec![one],
            Value::Many(many) => many,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_know_escapes() {
        let separator = |text: &str| {
            ReadSettings { document_separator: Some(text.into()), ..ReadSettings::default() }.separator()
        };
        assert_eq!(separator(r"\n---\n").unwrap().unwrap(), b"\n---\n");
        assert_eq!(separator(r"a\\b\t\f").unwrap().unwrap(), b"a\\b\t\x0c");
        for bad in ["", r"\x", "\\"] {
            assert!(separator(bad).unwrap_err().to_string().contains("settings.document_separator"));
        }
    }

    #[test]
    fn delimiters_are_one_character() {
        let delimiter = |text: &str| {
            ReadSettings { delimiter: Some(text.into()), ..ReadSettings::default() }.delimiter_byte()
        };
        for (text, byte) in [(";", b';'), ("\t", b'\t'), (r"\t", b'\t'), (" ", b' ')] {
            assert_eq!(delimiter(text).unwrap(), Some(byte));
        }
        for bad in ["", ";;", "a", "7", "\"", "\n", "\\", "ü"] {
            assert!(delimiter(bad).unwrap_err().to_string().contains("settings.delimiter"), "{bad}");
        }
    }

    #[test]
    fn one_word_needs_no_brackets() {
        let read = |json: &str| serde_json::from_str::<OneOrMany>(json);
        assert_eq!(read("\"a\"").unwrap(), OneOrMany::from("a"));
        assert_eq!(read("[\"a\",\"b\"]").unwrap().0, ["a", "b"]);
        assert!(read("3").unwrap_err().to_string().contains("a string or a list of strings"));
        assert_eq!(serde_json::to_string(&OneOrMany::from("a")).unwrap(), "\"a\"");
    }
}
