//! Iterates over the documents of an input.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tempfile::TempPath;

use super::archive::{Member, Members};
use super::compression::{Bytes, Compression, Source};
use super::decoding::{Decoding, Recorder};
use super::delimited::{DelimitedRows, DelimitedSettings};
use super::description::FileReport;
use super::encoding::Encoding;
use super::files::{self, InputFile};
use super::format::Format;
use super::json::JsonRows;
use super::line_ends::LineEndReader;
use super::lines::Lines;
use super::parquet::ParquetRows;
use super::separated::SeparatedRows;
use super::settings::ReadSettings;
use super::stream::{self, Stream};
use super::text::TextRows;
use super::{Input, Row, Rows};
use crate::error::{Error, Place, Result};

/// Skipped rows that are named in the log one by one.
const MAX_NAMED: u64 = 10;

/// One document and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The file, as it was named.
    pub path: Arc<Path>,
    /// Line (of a table's record: the first) or row.
    pub place: Place,
    /// The text. May be empty: the caller counts and skips those.
    pub text: String,
    /// Bytes of the text that are its prompt, where [`ReadSettings::whole_samples`] is set and the row has one.
    pub prompt_bytes: Option<usize>,
}

/// Reads the documents of all files of an [`Input`], in order; of an archive, those of its members in the archive's order.
///
/// A bad row is an error, unless [`ReadSettings::skip_bad_rows`] allows for it; then it is logged with file and line and left out. After any
/// other error the iterator ends.
pub struct Documents<'a> {
    input: &'a Input,
    next_file: usize,
    archive: Option<OpenArchive>,
    current: Option<OpenFile>,
    reports: Vec<FileReport>,
    decodings: Vec<Decoding>,
    skipped: u64,
    ended: bool,
}

/// A file, or a member of an archive, that is being read.
struct OpenFile {
    path: Arc<Path>,
    rows: Box<dyn Rows>,
    format: Format,
    recorder: Recorder,
    documents: u64,
    bad: u64,
    empty: u64,
    /// Rows of it that were no text so far.
    undecodable: u64,
    /// What is read, if it is not the file itself.
    _copy: Option<TempPath>,
}

struct OpenArchive {
    path: PathBuf,
    members: Members,
    recorder: Recorder,
}

impl std::fmt::Debug for Documents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("next_file", &self.next_file).finish_non_exhaustive()
    }
}

impl<'a> Documents<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        let (archive, current) = (None, None);
        let (reports, decodings) = (Vec::new(), Vec::new());
        Self { input, next_file: 0, archive, current, reports, decodings, skipped: 0, ended: false }
    }

    /// Bad rows left out so far.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How the rows of files and members were understood, and what was read, as far as the iterator has come.
    #[must_use]
    pub fn reports(&self) -> Vec<FileReport> {
        self.reports.iter().cloned().chain(self.current.iter().map(OpenFile::report)).collect()
    }

    /// What the files turned out to be that have been read to their end.
    #[must_use]
    pub fn decodings(&self) -> &[Decoding] {
        &self.decodings
    }

    fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            let Some(open) = &mut self.current else {
                if !self.open_next()? {
                    self.tell_skipped();
                    return Ok(None);
                }
                continue;
            };
            match open.rows.next_row() {
                Ok(Some(Row { place, text, prompt_bytes })) => {
                    open.documents += 1;
                    open.empty += u64::from(text.trim().is_empty());
                    open.recorder.note(|decoding| decoding.documents += 1);
                    let path = Arc::clone(&open.path);
                    return Ok(Some(Document { path, place, text, prompt_bytes }));
                }
                Ok(None) => self.close(),
                Err(error) if error.is_bad_row() => {
                    open.bad += 1;
                    let error = open.explained(error);
                    self.skip(error)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens the next member of the archive, or the next file; `false` if there is none.
    fn open_next(&mut self) -> Result<bool> {
        if let Some(archive) = &mut self.archive {
            match archive.members.next_member()? {
                Some(member) => {
                    let path = archive.path.join(&member.name);
                    self.current = Some(open_member(member, path, self.input.settings())?);
                }
                None => {
                    let decoding = archive.recorder.decoding();
                    self.archive = None;
                    self.keep(decoding);
                }
            }
            return Ok(true);
        }
        let Some(file) = self.input.files().get(self.next_file) else { return Ok(false) };
        self.next_file += 1;
        if file.is_archive {
            self.archive = Some(open_archive(file)?);
        } else {
            self.current = Some(open_file(file, self.input.settings())?);
        }
        Ok(true)
    }

    /// Keeps what was found about the file that has been read.
    fn close(&mut self) {
        let Some(open) = self.current.take() else { return };
        self.keep_report(open.report());
        let mut decoding = open.recorder.decoding();
        decoding.format = Some(open.format);
        match &self.archive {
            None => self.keep(decoding),
            Some(archive) => archive.recorder.note(|whole| {
                whole.documents += decoding.documents;
                whole.archive.get_or_insert_default().add_used(decoding);
            }),
        }
    }

    fn keep_report(&mut self, report: FileReport) {
        // A column that nobody named may be another one in each file.
        let columns = &report.description.columns;
        let other = self.reports.iter().find(|before| {
            let before = &before.description.columns;
            !before.is_empty() && !columns.is_empty() && before != columns
        });
        if let Some(other) = other {
            tracing::warn!(
                "the text is column `{}` of `{}`, but `{}` of `{}`",
                other.description.columns.join("`, `"),
                other.path.display(),
                columns.join("`, `"),
                report.path.display()
            );
        }
        self.reports.push(report);
    }

    fn keep(&mut self, decoding: Decoding) {
        let file = self.input.files().get(self.next_file - 1);
        if file.is_some_and(|file| !file.told.swap(true, Ordering::Relaxed)) {
            for warning in decoding.warnings() {
                tracing::warn!("{warning}");
            }
        }
        self.decodings.push(decoding);
    }

    fn skip(&mut self, error: Error) -> Result<()> {
        let limit = self.input.settings().skip_bad_rows;
        if self.skipped == limit {
            return Err(if limit == 0 {
                error
            } else {
                Error::TooManyBadRows { limit, next: Box::new(error) }
            });
        }
        self.skipped += 1;
        if self.skipped <= MAX_NAMED {
            tracing::warn!("bad row skipped: {error}");
        } else {
            tracing::debug!("bad row skipped: {error}");
        }
        Ok(())
    }

    fn tell_skipped(&self) {
        if self.skipped > MAX_NAMED {
            tracing::warn!("{} bad rows were skipped; the first {MAX_NAMED} are listed above", self.skipped);
        }
    }
}

impl OpenFile {
    fn new(path: &Path, rows: Box<dyn Rows>, format: Format, recorder: Recorder) -> Self {
        let (documents, bad, empty, undecodable) = (0, 0, 0, 0);
        Self {
            path: Arc::from(path),
            rows,
            format,
            recorder,
            documents,
            bad,
            empty,
            undecodable,
            _copy: None,
        }
    }

    fn report(&self) -> FileReport {
        FileReport {
            path: self.path.to_path_buf(),
            description: self.rows.describe(),
            rows: self.documents + self.bad,
            bad: self.bad,
            empty: self.empty,
            blank_lines: self.rows.blank_lines(),
        }
    }

    /// Adds to an error about a row what is known of the whole file's encoding.
    fn explained(&mut self, error: Error) -> Error {
        let Error::NotUtf8 { path, place, byte, guess, .. } = error else { return error };
        self.undecodable += 1;
        let (encoding, first) = self.recorder.note(|decoding| (decoding.encoding, decoding.first_invalid));
        if let Some(encoding) = encoding.filter(|encoding| *encoding != Encoding::Utf8) {
            let problem =
                format!("byte {byte} of its text cannot be decoded: the {} is damaged", encoding.name());
            return Error::bad_row(&path, place, problem);
        }
        // The first such row holds the first such byte, unless that is in a column that is not read.
        let first = first.filter(|first| self.undecodable == 1 && first.line >= place.number());
        Error::NotUtf8 { path, place, byte, offset: first.map(|first| first.offset), guess }
    }
}

fn open_file(file: &InputFile, settings: &ReadSettings) -> Result<OpenFile> {
    let (shown, format) = (file.shown.as_path(), file.format);
    let recorder = Recorder::new(shown);
    let open = || -> Result<Source> {
        match stream::open(stream::raw(file.real(), shown)?, shown, &recorder)? {
            Stream::Text(bytes) => Ok(source(bytes, format, &recorder)),
            _ => Err(changed(shown)),
        }
    };
    let rows = match format {
        Format::Parquet => {
            recorder.note(|decoding| decoding.compression.clone_from(&file.unpacked));
            parquet(file.real(), shown, settings)?
        }
        Format::Text => text(open()?, shown, settings)?,
        _ => table(&open, format, shown, settings)?,
    };
    Ok(OpenFile::new(shown, rows, format, recorder))
}

fn open_archive(file: &InputFile) -> Result<OpenArchive> {
    let shown = file.shown.as_path();
    let recorder = Recorder::new(shown);
    let Stream::Tar(bytes) = stream::open(stream::raw(file.real(), shown)?, shown, &recorder)? else {
        return Err(changed(shown));
    };
    let members = Members::new(bytes, shown, recorder.clone());
    Ok(OpenArchive { path: shown.into(), members, recorder })
}

/// Opens a member. Plain text is read as it comes; a table may have to be read more than once, and goes through a temporary file.
fn open_member(member: Member, path: PathBuf, settings: &ReadSettings) -> Result<OpenFile> {
    let recorder = Recorder::new(&path);
    let (format, bytes) = match stream::open(member.bytes, &path, &recorder)? {
        Stream::Tar(_) => {
            let problem = "nested archives are not supported; unpack the outer one".to_owned();
            return Err(Error::Archive { path, problem });
        }
        Stream::Parquet(bytes) => (files::parquet_format(&path, settings.data_format)?, bytes),
        Stream::Text(bytes) => (files::text_format(&path, settings.data_format)?, bytes),
    };
    if format == Format::Text {
        let rows = text(source(bytes, format, &recorder), &path, settings)?;
        return Ok(OpenFile::new(&path, rows, format, recorder));
    }
    let copy = files::spool_stream(bytes, &path)?;
    let open = || -> Result<Source> { Ok(source(stream::raw(&copy, &path)?, format, &recorder)) };
    let rows = match format {
        Format::Parquet => parquet(&copy, &path, settings)?,
        _ => table(&open, format, &path, settings)?,
    };
    Ok(OpenFile { _copy: Some(copy), ..OpenFile::new(&path, rows, format, recorder.clone()) })
}

fn changed(path: &Path) -> Error {
    let source = std::io::Error::other("it has changed since it was first read");
    Error::Io { action: "read", path: path.into(), source }
}

/// Text with its line endings counted. A field of a table may hold a `\r`; in JSON it is white space wherever it stands.
fn source(bytes: Bytes, format: Format, recorder: &Recorder) -> Source {
    let unify = matches!(format, Format::Text | Format::JsonLines);
    let compression = recorder.note(|decoding| decoding.compression.first().map(|layer| layer.kind));
    let bytes = Box::new(LineEndReader::new(bytes, unify, recorder.clone()));
    Source { bytes, compression: compression.unwrap_or(Compression::None) }
}

fn parquet(real: &Path, shown: &Path, settings: &ReadSettings) -> Result<Box<dyn Rows>> {
    Ok(Box::new(ParquetRows::open(real, shown, &settings.text_column.0)?))
}

fn text(source: Source, shown: &Path, settings: &ReadSettings) -> Result<Box<dyn Rows>> {
    Ok(match settings.separator()? {
        Some(separator) => Box::new(SeparatedRows::new(source, shown, &separator)),
        None => Box::new(TextRows(Lines::new(source, shown))),
    })
}

/// The rows of JSON, CSV or TSV. `open` gives the text from its beginning, as often as it is called.
fn table(
    open: &dyn Fn() -> Result<Source>,
    format: Format,
    shown: &Path,
    settings: &ReadSettings,
) -> Result<Box<dyn Rows>> {
    let wanted = settings.text_column.0.as_slice();
    if format == Format::JsonLines {
        return Ok(Box::new(JsonRows::open(open, shown, wanted, settings.whole_samples)?));
    }
    let (delimiter, no_header) = (settings.delimiter_byte()?, settings.no_header);
    let settings = DelimitedSettings { format, delimiter, no_header, wanted };
    Ok(Box::new(DelimitedRows::open(open, shown, settings)?))
}

impl Iterator for Documents<'_> {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_document();
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}
