//! Describes how a file was interpreted.
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::format::Format;

/// How the rows of one file were found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// The format.
    pub format: Format,
    /// The layout of JSON values in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<JsonLayout>,
    /// How a delimited file separates its fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    /// The columns (keys) that make up the text, in the order in which they are joined. Empty where the format has none, or none was needed.
    pub columns: Vec<String>,
    /// Why those: `asked for`, `by its name`, `the only one that holds text`, `the only one`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<&'static str>,
}

impl Description {
    pub(super) fn of(format: Format) -> Self {
        Self { format, layout: None, dialect: None, columns: Vec::new(), chosen: None }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format.name())?;
        match self.layout {
            Some(JsonLayout::Lines) => f.write_str(", one object per line")?,
            Some(JsonLayout::Objects) => f.write_str(", objects spanning or sharing lines")?,
            Some(JsonLayout::Array) => f.write_str(", objects in an array")?,
            None => {}
        }
        if let Some(dialect) = &self.dialect {
            write!(f, ", {dialect}")?;
        }
        if let Some(reason) = self.chosen {
            write!(f, "; text: `{}` ({reason})", self.columns.join("`, `"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delimiter = if self.delimiter == '\t' { r"\t".to_owned() } else { self.delimiter.to_string() };
        write!(f, "fields separated by `{delimiter}` ({})", self.delimiter_source)?;
        f.write_str(if self.header { ", names in the first record" } else { ", no names" })?;
        if self.carriage_returns {
            f.write_str(r", lines end in `\r`")?;
        }
        match self.backslash_records {
            0 => Ok(()),
            n => write!(f, r#", `\"` for a quote in {n} records"#),
        }
    }
}

/// The layout of JSON values in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JsonLayout {
    /// One object per line.
    Lines,
    /// Objects that span several lines or share a line.
    Objects,
    /// Objects in an array.
    Array,
}

/// How a delimited file separates its fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dialect {
    /// The field separator.
    pub delimiter: char,
    /// How the delimiter was found: `asked for`, `named by the first line`, `by the records`, `by the format`.
    #[serde(rename = "found")]
    pub delimiter_source: &'static str,
    /// Whether the first record names the columns.
    pub header: bool,
    /// Whether `\r` alone ends a line.
    pub carriage_returns: bool,
    /// Records that could only be read with `\"` for a quote inside quotes.
    pub backslash_records: u64,
}

/// What was read from one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// The file, as it was named.
    pub path: PathBuf,
    /// What was understood of its format.
    #[serde(flatten)]
    pub description: Description,
    /// Rows, bad ones included.
    pub rows: u64,
    /// Bad rows, left out.
    pub bad: u64,
    /// Rows whose text is white space or nothing.
    pub empty: u64,
    /// Lines between rows with nothing on them.
    pub blank_lines: u64,
}
