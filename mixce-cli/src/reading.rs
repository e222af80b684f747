//! The flags for reading data files, shared by all subcommands that take data files.

use std::path::Path;

use anyhow::Result;
use clap::{Args, ValueEnum};
use mixce_data::input::{Format, OneOrMany};
use mixce_data::{Input, ReadSettings};

/// How data files are read.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ReadingArgs {
    /// Column (key) of the text in tables; may be repeated, values are joined with a space [default: by name, else the only one
    /// that holds text]
    #[arg(long, value_name = "NAME", help_heading = "Data files")]
    pub(crate) text_column: Vec<String>,
    /// Separator between documents of a text file, such as `<|endoftext|>` or `\n\n` [default: one document per line]
    #[arg(long, value_name = "TEXT", help_heading = "Data files")]
    pub(crate) document_separator: Option<String>,
    /// Skip up to N unreadable rows, with a warning for each [default: 0]
    #[arg(long, value_name = "N", help_heading = "Data files")]
    pub(crate) skip_bad_rows: Option<u64>,
    /// Format of the data files [default: by file name]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Data files")]
    pub(crate) data_format: Option<FormatArg>,
    /// Field separator of CSV and TSV, such as `;`, `|` or `\t` [default: detected]
    #[arg(long, value_name = "CHAR", help_heading = "Data files")]
    pub(crate) delimiter: Option<String>,
    /// CSV and TSV have no header line; the columns are called 1, 2, ...
    #[arg(long, help_heading = "Data files")]
    pub(crate) no_header: bool,
}

/// Values of `--data-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// One document per line, or documents with a separator between them
    Text,
    /// JSON objects: one per line, spanning several lines, or in an array
    #[value(alias = "json")]
    Jsonl,
    /// Delimited values (detected, else commas), with a header line
    Csv,
    /// Delimited values (detected, else tabs), with a header line
    Tsv,
    /// Apache Parquet
    Parquet,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Text => Self::Text,
            FormatArg::Jsonl => Self::JsonLines,
            FormatArg::Csv => Self::Csv,
            FormatArg::Tsv => Self::Tsv,
            FormatArg::Parquet => Self::Parquet,
        }
    }
}

impl ReadingArgs {
    /// Overrides settings with the flags that were given.
    pub(crate) fn over(&self, mut settings: ReadSettings) -> ReadSettings {
        if !self.text_column.is_empty() {
            settings.text_column = OneOrMany(self.text_column.clone());
        }
        if self.document_separator.is_some() {
            settings.document_separator.clone_from(&self.document_separator);
        }
        settings.skip_bad_rows = self.skip_bad_rows.unwrap_or(settings.skip_bad_rows);
        settings.data_format = self.data_format.map(Format::from).or(settings.data_format);
        if self.delimiter.is_some() {
            settings.delimiter.clone_from(&self.delimiter);
        }
        settings.no_header |= self.no_header;
        settings
    }

    /// The flags as settings.
    pub(crate) fn settings(&self) -> ReadSettings {
        self.over(ReadSettings::default())
    }

    /// Finds the files.
    pub(crate) fn open(&self, names: &[impl AsRef<Path>]) -> Result<Input> {
        Ok(Input::open(names, self.settings())?)
    }
}
