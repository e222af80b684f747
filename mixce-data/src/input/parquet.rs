//! Parquet: the columns of the text, a few rows at a time.
use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::column::{Column, choose};
use super::lines::utf8;
use super::{Row, Rows};
use crate::error::{Error, Place, Result};

/// Rows decoded at once: a page of the column is in memory, and the texts of these.
const BATCH_ROWS: usize = 64;

/// The rows of a file. Pages are read one by one; other columns are not touched.
pub(super) struct ParquetRows {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    /// Positions of the text's columns among the leaves of the schema.
    chosen: Vec<usize>,
    next_group: usize,
    columns: Vec<TextColumn>,
    /// Rows handed out, bad ones included.
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
        let reader = guarded(shown, || SerializedFileReader::new(file))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
        let columns: Vec<Column<'_>> = schema
            .columns()
            .iter()
            .zip(&names)
            .map(|(column, name)| Column {
                name,
                is_text: column.physical_type() == PhysicalType::BYTE_ARRAY && column.max_rep_level() == 0,
            })
            .collect();
        let chosen = choose(shown, wanted, &columns)?;
        // `text` is taken by its name, whatever it holds.
        if let Some(&at) = chosen.iter().find(|&&at| !columns[at].is_text) {
            let problem = format!("column `{}` does not hold text", columns[at].name);
            return Err(Error::Column { path: shown.into(), problem });
        }
        Ok(Self { path: shown.into(), reader, chosen, next_group: 0, columns: Vec::new(), row: 0 })
    }

    /// Opens the next row group; `false` if there is none.
    fn next_group(&mut self) -> Result<bool> {
        if self.next_group >= self.reader.num_row_groups() {
            return Ok(false);
        }
        let (reader, chosen, path, group) = (&self.reader, &self.chosen, &self.path, self.next_group);
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
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
        let path = &self.path;
        for column in &mut self.columns {
            guarded(path, || column.decode())?;
        }
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
        // Every column is taken from, also behind a bad field: the next row begins in all of them.
        for (column, at) in self.columns.iter_mut().zip(&self.chosen) {
            match column.decoded.pop_front().flatten() {
                Some(bytes) => match utf8(bytes.data(), &self.path, place) {
                    Ok(text) => fields.push(text.to_owned()),
                    Err(error) => problem = problem.or(Some(error)),
                },
                None => {
                    let name = self.reader.metadata().file_metadata().schema_descr().column(*at);
                    let words = format!("expected text in column `{}`, got null", name.path().string());
                    problem = problem.or(Some(Error::bad_row(&self.path, place, words)));
                }
            }
        }
        problem.map_or_else(|| Ok(fields.join(" ")), Err)
    }
}

impl TextColumn {
    fn decode(&mut self) -> std::result::Result<(), ParquetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let levels_wanted = (self.defined > 0).then_some(&mut levels);
        let (rows, _, _) = self.reader.read_records(BATCH_ROWS, levels_wanted, None, &mut values)?;
        let mut values = values.into_iter();
        if self.defined == 0 {
            self.decoded.extend(values.map(Some));
        } else {
            let defined = self.defined;
            self.decoded.extend(levels.iter().map(|&level| values.next().filter(|_| level == defined)));
        }
        if self.decoded.len() == rows {
            Ok(())
        } else {
            Err(ParquetError::General("rows and values do not match".into()))
        }
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
        Ok(Some(Row { place: Place::Row(self.row), text }))
    }
}

/// Runs the decoder, which may panic on a damaged file.
fn guarded<T>(path: &Path, f: impl FnOnce() -> std::result::Result<T, ParquetError>) -> Result<T> {
    let problem = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the decoder gave up on it".to_owned(),
    };
    Err(Error::Parquet { path: path.into(), problem })
}
