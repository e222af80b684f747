//! Parquet: reads the text columns, a few rows at a time.
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use mixce_base::panics::caught;
use parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::column::{Column, Holds, Reason, choose};
use super::format::Format;
use super::lines::too_long;
use super::{Description, MAX_DOCUMENT_BYTES, Row, Rows, parquet_footer, parquet_pages};
use crate::error::{Error, Place, Result};

/// Maximum rows decoded at once: a page of the column and the texts of these rows are in memory.
const MAX_BATCH_ROWS: usize = 256;
/// Bytes of text above which fewer rows are decoded at once.
const BATCH_BYTES: usize = 4 << 20;

/// The rows of a file. Pages are read one at a time; other columns are not read.
pub(super) struct ParquetRows {
    path: PathBuf,
    /// The file once more, with a position of its own.
    pages: File,
    reader: SerializedFileReader<File>,
    /// Indices of the text columns among the leaves of the schema, and their names.
    chosen: Vec<usize>,
    names: Vec<String>,
    reason: Reason,
    next_group: usize,
    /// Rows to decode next: few if texts are long.
    batch_rows: usize,
    columns: Vec<TextColumn>,
    /// Rows returned, bad ones included.
    row: u64,
}

/// One column of the row group that is being read.
struct TextColumn {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// The definition level of a value that is there; less means null.
    defined: i16,
    decoded: VecDeque<Option<ByteArray>>,
}

impl ParquetRows {
    pub(super) fn open(real: &Path, shown: &Path, wanted: &[String]) -> Result<Self> {
        let file = File::open(real).map_err(Error::io("read", shown))?;
        parquet_footer::check(&file, shown)?;
        let reader = guarded(shown, || SerializedFileReader::new(file))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let columns: Vec<Column> = schema
            .columns()
            .iter()
            .map(|column| Column { name: column.path().string(), holds: holds(column) })
            .collect();
        let choice = choose(shown, wanted, &columns)?;
        // A type that has no values is stored as numbers: there is no text to read, in any row.
        if let Some(&at) = choice.columns.iter().find(|&&at| columns[at].holds == Holds::Nothing) {
            let problem = format!("column `{}` holds nothing but nulls, by its type", columns[at].name);
            return Err(Error::Column { path: shown.into(), problem });
        }
        Ok(Self {
            path: shown.into(),
            pages: File::open(real).map_err(Error::io("read", shown))?,
            reader,
            names: choice.columns.iter().map(|&at| columns[at].name.clone()).collect(),
            chosen: choice.columns,
            reason: choice.reason,
            next_group: 0,
            batch_rows: 1,
            columns: Vec::new(),
            row: 0,
        })
    }

    /// Opens the next row group; `false` if there is none.
    fn next_group(&mut self) -> Result<bool> {
        if self.next_group >= self.reader.num_row_groups() {
            return Ok(false);
        }
        let (reader, chosen, path, group) = (&self.reader, &self.chosen, &self.path, self.next_group);
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let ranges = guarded(path, || {
            let group = reader.metadata().row_group(group);
            Ok(chosen
                .iter()
                .map(|&at| (group.column(at).byte_range(), group.column(at).compression()))
                .collect())
        });
        let ranges: Vec<_> = ranges?;
        for (range, codec) in ranges {
            parquet_pages::check(&self.pages, path, range, codec)?;
        }
        self.columns = guarded(path, || {
            let group = reader.get_row_group(group)?;
            let open = |&at: &usize| match group.get_column_reader(at)? {
                ColumnReader::ByteArrayColumnReader(reader) => {
                    let defined = schema.column(at).max_def_level();
                    Ok(TextColumn { reader, defined, decoded: VecDeque::new() })
                }
                _ => Err(ParquetError::General("the column changes its type between row groups".into())),
            };
            chosen.iter().map(open).collect()
        })?;
        self.next_group += 1;
        Ok(true)
    }

    /// Decodes some rows of each column; `false` at the end of the row group.
    fn decode(&mut self) -> Result<bool> {
        let (path, rows) = (&self.path, self.batch_rows);
        for column in &mut self.columns {
            guarded(path, || column.decode(rows))?;
        }
        let texts = self.columns.iter().flat_map(|column| &column.decoded).flatten();
        let is_long = texts.map(|text| text.len()).sum::<usize>() > BATCH_BYTES;
        self.batch_rows = if is_long { 1 } else { (rows * 2).min(MAX_BATCH_ROWS) };
        let counts: Vec<usize> = self.columns.iter().map(|column| column.decoded.len()).collect();
        if counts.windows(2).any(|pair| pair[0] != pair[1]) {
            let problem = "its columns have different numbers of rows".to_owned();
            return Err(Error::Parquet { path: path.clone(), problem });
        }
        Ok(counts.first().is_some_and(|&count| count > 0))
    }

    fn text(&mut self) -> Result<String> {
        let place = Place::Row(self.row);
        let mut fields: Vec<String> = Vec::with_capacity(self.columns.len());
        let mut problem = None;
        // Every column advances, also after a bad field, so that the columns stay aligned.
        for (column, name) in self.columns.iter_mut().zip(&self.names) {
            let words = match column.decoded.pop_front().flatten() {
                None => format!("expected text in column `{name}`, got null"),
                Some(bytes) if bytes.len() > MAX_DOCUMENT_BYTES => {
                    problem = problem.or(Some(too_long(&self.path, place)));
                    continue;
                }
                Some(bytes) => match std::str::from_utf8(bytes.data()) {
                    Ok(text) => {
                        fields.push(text.to_owned());
                        continue;
                    }
                    Err(error) => {
                        let byte = error.valid_up_to() + 1;
                        format!("column `{name}` holds bytes that are not UTF-8, from byte {byte} on")
                    }
                },
            };
            problem = problem.or(Some(Error::bad_row(&self.path, place, words)));
        }
        problem.map_or_else(|| Ok(fields.join(" ")), Err)
    }
}

impl TextColumn {
    /// Decodes some rows. The reader gives a level for every row, but a value only for those that are not null.
    fn decode(&mut self, rows: usize) -> std::result::Result<(), ParquetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let levels_wanted = (self.defined > 0).then_some(&mut levels);
        let (rows, found, _) = self.reader.read_records(rows, levels_wanted, None, &mut values)?;
        if self.defined == 0 {
            levels = vec![0; rows];
        }
        let are_defined = levels.iter().filter(|&&level| level == self.defined).count();
        if levels.len() != rows || are_defined != found || values.len() != found {
            return Err(ParquetError::General("rows and values do not match".into()));
        }
        let mut values = values.into_iter();
        let defined = self.defined;
        let value = |level: i16| if level == defined { values.next() } else { None };
        self.decoded.extend(levels.into_iter().map(value));
        Ok(())
    }
}

/// A column's contents according to the schema.
fn holds(column: &ColumnDescriptor) -> Holds {
    if column.max_rep_level() > 0 {
        return Holds::Other("lists");
    }
    match column.physical_type() {
        PhysicalType::BOOLEAN => Holds::Other("booleans"),
        PhysicalType::FIXED_LEN_BYTE_ARRAY => Holds::Other("bytes of a fixed length"),
        PhysicalType::BYTE_ARRAY => match (column.logical_type_ref(), column.converted_type()) {
            (Some(LogicalType::String | LogicalType::Enum | LogicalType::Json), _) => Holds::Text,
            (None, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => Holds::Text,
            (None, ConvertedType::NONE) => Holds::Bytes,
            (_, ConvertedType::DECIMAL) => Holds::Other("numbers"),
            _ => Holds::Other("bytes that are not text"),
        },
        _ => match column.logical_type_ref() {
            Some(LogicalType::Unknown) => Holds::Nothing,
            _ => Holds::Other("numbers or times"),
        },
    }
}

impl Rows for ParquetRows {
    fn next_row(&mut self) -> Result<Option<Row>> {
        while self.columns.first().is_none_or(|column| column.decoded.is_empty()) {
            if (self.columns.is_empty() || !self.decode()?) && !self.next_group()? {
                return Ok(None);
            }
        }
        self.row += 1;
        let text = self.text()?;
        Ok(Some(Row { place: Place::Row(self.row), text, prompt_bytes: None }))
    }

    fn describe(&self) -> Description {
        Description {
            columns: self.names.clone(),
            chosen: Some(self.reason.words()),
            ..Description::of(Format::Parquet)
        }
    }
}

/// Runs the decoder, catching panics on damaged files.
fn guarded<T>(path: &Path, f: impl FnOnce() -> std::result::Result<T, ParquetError>) -> Result<T> {
    let problem = match caught(f) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panicked) => panicked.to_string(),
    };
    Err(Error::Parquet { path: path.into(), problem })
}
