//! The files of an input.
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mixce_base::digest::{Digest, Sha256, sha256};
use tempfile::TempPath;

use super::compression::{Bytes, read_error};
use super::decoding::{Layer, Recorder, Unused};
use super::documents::Documents;
use super::find::find;
use super::format::Format;
use super::settings::ReadSettings;
use super::stream::{self, Stream};
use crate::error::{Error, Result};

/// The name of standard input.
pub const STDIN: &str = "-";
/// Bytes copied or hashed at a time.
const CHUNK_BYTES: usize = 1 << 18;
/// Part of every digest: raised when the same bytes come to be read as other documents, or [`ReadSettings`] changes its form. The digests of two
/// versions cannot be compared.
pub const READER_VERSION: u32 = 2;

/// Some files, read one after another as one sequence of documents.
#[derive(Clone, Debug)]
pub struct Input {
    files: Vec<InputFile>,
    unused: Vec<Unused>,
    settings: ReadSettings,
}

/// One file.
#[derive(Clone, Debug)]
pub(super) struct InputFile {
    /// Its name in messages.
    pub(super) shown: PathBuf,
    /// Of an archive: none that counts, for each member has its own.
    pub(super) format: Format,
    pub(super) is_archive: bool,
    /// A copy on disk that is read instead: of standard input, and of what must be read at random but is compressed.
    copy: Option<Arc<TempPath>>,
    /// Compression layers of the file that the copy no longer has.
    pub(super) unpacked: Vec<Layer>,
    /// Whether its warnings have been given: the file may be read more than once.
    pub(super) told: Arc<AtomicBool>,
}

impl InputFile {
    /// What to open.
    pub(super) fn real(&self) -> &Path {
        self.copy.as_deref().map_or(self.shown.as_path(), |copy| copy)
    }
}

impl Input {
    /// Finds the files that some names mean: paths, patterns (`data/*.parquet`, in alphabetical order), folders (all files in them and below), or `-`
    /// for standard input, whose bytes are kept in a temporary file. The first bytes of each are examined.
    ///
    /// # Errors
    /// [`Error::NoMatch`], [`Error::NotAFile`] (pipes, devices), [`Error::Incomplete`] (a folder without files), [`Error::StdinTwice`],
    /// [`Error::Settings`], [`Error::Foreign`] and [`Error::Binary`] (files that hold no text), [`Error::Compressed`], [`Error::Io`].
    pub fn open(names: &[impl AsRef<Path>], settings: ReadSettings) -> Result<Self> {
        Self::open_with_stdin(names, settings, &mut std::io::stdin())
    }

    /// As [`Self::open`], with something else for standard input.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_stdin(
        names: &[impl AsRef<Path>],
        settings: ReadSettings,
        stdin: &mut dyn Read,
    ) -> Result<Self> {
        settings.separator()?;
        settings.delimiter_byte()?;
        if names.is_empty() {
            return Err(Error::Settings("expected at least one data file, got none".into()));
        }
        if names.iter().filter(|name| name.as_ref() == Path::new(STDIN)).count() > 1 {
            return Err(Error::StdinTwice);
        }
        let (mut files, mut unused) = (Vec::new(), Vec::new());
        for name in names {
            let name = name.as_ref();
            if name == Path::new(STDIN) {
                let copy = spool(stdin, &|error| Error::io("read", STDIN)(error))?;
                files.push(file(name.into(), Some(Arc::new(copy)), &settings)?);
                continue;
            }
            let found = find(name)?;
            for path in found.files {
                files.push(file(path, None, &settings)?);
            }
            unused.extend(found.unused);
        }
        Ok(Self { files, unused, settings })
    }

    /// The documents, from the first one on.
    #[must_use]
    pub fn documents(&self) -> Documents<'_> {
        Documents::new(self)
    }

    pub(super) fn files(&self) -> &[InputFile] {
        &self.files
    }

    /// The files' names.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.shown.as_path())
    }

    /// Files matched by patterns and folders that are not read.
    #[must_use]
    pub fn unused(&self) -> &[Unused] {
        &self.unused
    }

    /// The files' formats, each once; those of an archive's members are not known before they are read.
    #[must_use]
    pub fn formats(&self) -> Vec<Format> {
        let mut formats: Vec<Format> = Vec::new();
        for file in self.files.iter().filter(|file| !file.is_archive) {
            if !formats.contains(&file.format) {
                formats.push(file.format);
            }
        }
        formats
    }

    /// How the files are read.
    #[must_use]
    pub fn settings(&self) -> &ReadSettings {
        &self.settings
    }

    /// A name for messages and derived files: the file's, or the first one's and the number of others.
    #[must_use]
    pub fn name(&self) -> String {
        let first = self.paths().next().map(|p| p.display().to_string()).unwrap_or_default();
        match self.files.len() {
            0 | 1 => first,
            n => format!("{first} (and {} more)", n - 1),
        }
    }

    /// The stem of the first file's name, for files made from these.
    #[must_use]
    pub fn stem(&self) -> String {
        let stem =
            self.paths().next().and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
        stem.filter(|stem| stem != STDIN).unwrap_or_else(|| "data".to_owned())
    }

    /// Bytes on disk of all files.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn bytes(&self) -> Result<u64> {
        let length = |file: &InputFile| std::fs::metadata(file.real()).map(|data| data.len());
        self.files.iter().map(|file| length(file).map_err(Error::io("read", &file.shown))).sum()
    }

    /// SHA-256 over the files' bytes and all settings that decide which documents they have. Names do not count, but for the formats they imply.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Stopped`] soon after `stop` has become true.
    pub fn digest(&self, stop: &AtomicBool) -> Result<[u8; 32]> {
        // Every part has fixed length or is a digest, so that the encoding is unambiguous.
        let mut all = Sha256::new();
        all.update(READER_VERSION.to_le_bytes());
        all.update(Sha256::digest(self.settings.key()));
        for file in &self.files {
            let bytes = File::open(file.real()).map_err(Error::io("read", &file.shown))?;
            let content = sha256(&mut UntilStopped { source: bytes, stop }).map_err(|error| {
                if stop.load(Ordering::Relaxed) {
                    Error::Stopped
                } else {
                    Error::io("read", &file.shown)(error)
                }
            })?;
            all.update(Sha256::digest(if file.is_archive { "archive" } else { file.format.name() }));
            all.update(content);
        }
        Ok(all.finalize().into())
    }
}

/// A file that can no longer be read once `stop` is true.
struct UntilStopped<'a> {
    source: File,
    stop: &'a AtomicBool,
}

impl Read for UntilStopped<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("stopped"));
        }
        self.source.read(bytes)
    }
}

/// Detects a file's format from its first bytes, and from its name where they do not decide.
fn file(shown: PathBuf, copy: Option<Arc<TempPath>>, settings: &ReadSettings) -> Result<InputFile> {
    let mut file = InputFile {
        shown,
        format: settings.data_format.unwrap_or(Format::Text),
        is_archive: false,
        copy,
        unpacked: Vec::new(),
        told: Arc::default(),
    };
    let recorder = Recorder::new(&file.shown);
    match stream::open(stream::raw(file.real(), &file.shown)?, &file.shown, &recorder)? {
        Stream::Tar(_) => file.is_archive = true,
        Stream::Parquet(bytes) => {
            file.format = parquet_format(&file.shown, settings.data_format)?;
            file.unpacked = recorder.decoding().compression;
            if !file.unpacked.is_empty() {
                file.copy = Some(Arc::new(spool_stream(bytes, &file.shown)?));
                file.unpacked = recorder.decoding().compression;
            }
        }
        Stream::Text(bytes) if file.shown == Path::new(STDIN) && settings.data_format.is_none() => {
            // Standard input has no name: its first characters tell.
            let mut head = Vec::new();
            bytes.take(256).read_to_end(&mut head).map_err(|error| read_error(&file.shown, error))?;
            file.format = Format::of_bytes(&head);
        }
        Stream::Text(_) => file.format = text_format(&file.shown, settings.data_format)?,
    }
    Ok(file)
}

/// The format of a file whose bytes are text: the one that was requested, or the name's.
pub(super) fn text_format(shown: &Path, wanted: Option<Format>) -> Result<Format> {
    let format = wanted.unwrap_or_else(|| Format::of(shown));
    if format == Format::Parquet {
        let problem = "it does not begin with `PAR1`".to_owned();
        return Err(Error::Parquet { path: shown.into(), problem });
    }
    Ok(format)
}

/// The format of a file whose bytes are parquet.
pub(super) fn parquet_format(shown: &Path, wanted: Option<Format>) -> Result<Format> {
    match wanted {
        Some(other) if other != Format::Parquet => Err(Error::Settings(format!(
            "`{}` is a parquet file, which cannot be read as {} (`settings.data_format = {}`)",
            shown.display(),
            other.name(),
            other.name()
        ))),
        _ => Ok(Format::Parquet),
    }
}

/// A copy on disk of a stream: parquet is read from its end.
pub(super) fn spool_stream(mut bytes: Bytes, shown: &Path) -> Result<TempPath> {
    spool(&mut bytes, &|error| read_error(shown, error))
}

fn spool(source: &mut dyn Read, error: &dyn Fn(std::io::Error) -> Error) -> Result<TempPath> {
    let folder = std::env::temp_dir();
    let copy = tempfile::NamedTempFile::new_in(&folder).map_err(Error::io("create a file in", &folder))?;
    let (mut file, path) = copy.into_parts();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => return Ok(path),
            Ok(n) => n,
            Err(failure) if failure.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(failure) => return Err(error(failure)),
        };
        file.write_all(&buffer[..n]).map_err(Error::io("write", path.to_path_buf()))?;
    }
}
