//! From what was typed to the files that are read.
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use tempfile::TempPath;

use super::compression;
use super::documents::Documents;
use super::format::Format;
use super::settings::ReadSettings;
use crate::error::{Error, Result};

/// The name of standard input.
pub const STDIN: &str = "-";
/// Bytes copied or hashed at a time.
const CHUNK_BYTES: usize = 1 << 18;

/// Some files, read one after another as one sequence of documents.
#[derive(Clone, Debug)]
pub struct Input {
    files: Vec<InputFile>,
    settings: ReadSettings,
}

/// One file.
#[derive(Clone, Debug)]
pub(super) struct InputFile {
    /// Its name in messages.
    pub(super) shown: PathBuf,
    pub(super) format: Format,
    /// A copy on disk that is read instead: of standard input, and of what must be read at random but is compressed.
    copy: Option<Arc<TempPath>>,
}

impl InputFile {
    /// What to open.
    pub(super) fn real(&self) -> &Path {
        self.copy.as_deref().map_or(self.shown.as_path(), |copy| copy)
    }
}

impl Input {
    /// Finds the files that some names mean: paths, patterns (`data/*.parquet`, in alphabetical order), or `-` for standard input, whose bytes are
    /// kept in a temporary file.
    ///
    /// # Errors
    /// [`Error::NoMatch`], [`Error::NotAFile`] (folders, pipes, devices), [`Error::StdinTwice`], [`Error::Settings`], [`Error::Io`].
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
        let mut files = Vec::new();
        for name in names {
            let name = name.as_ref();
            if name == Path::new(STDIN) {
                files.push(spool_stdin(stdin, settings.data_format)?);
                continue;
            }
            for path in matches(name)? {
                require_file(&path)?;
                files.push(file(path, settings.data_format)?);
            }
        }
        Ok(Self { files, settings })
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

    /// The files' formats, each once.
    #[must_use]
    pub fn formats(&self) -> Vec<Format> {
        let mut formats: Vec<Format> = Vec::new();
        for file in &self.files {
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

    /// A name for messages and for files made from these: the file's, or the first one's and how many more there are.
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
        // Every part is of fixed length or a digest of its own, so that no two inputs run together.
        let mut all = Sha256::new();
        all.update(Sha256::digest(self.settings.key()));
        let mut buffer = vec![0; CHUNK_BYTES];
        for file in &self.files {
            let mut content = Sha256::new();
            let mut bytes = File::open(file.real()).map_err(Error::io("read", &file.shown))?;
            loop {
                let n = bytes.read(&mut buffer).map_err(Error::io("read", &file.shown))?;
                if n == 0 {
                    break;
                }
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Stopped);
                }
                content.update(&buffer[..n]);
            }
            all.update(Sha256::digest(file.format.name()));
            all.update(content.finalize());
        }
        Ok(all.finalize().into())
    }
}

/// The paths a name stands for: itself, or what matches it.
fn matches(name: &Path) -> Result<Vec<PathBuf>> {
    let text = name.to_string_lossy();
    // A file whose name looks like a pattern is that file.
    if name.exists() || !text.contains(['*', '?', '[']) {
        return Ok(vec![name.to_owned()]);
    }
    let no_match = |reason: Option<String>| Error::NoMatch { pattern: text.clone().into_owned(), reason };
    let paths = glob::glob(&text).map_err(|error| no_match(Some(error.to_string())))?;
    let mut found = Vec::new();
    for path in paths {
        let path = path.map_err(|error| {
            let path = error.path().to_owned();
            Error::io("read", path)(error.into())
        })?;
        if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() { Err(no_match(None)) } else { Ok(found) }
}

/// Refuses what cannot be read from the beginning twice.
fn require_file(path: &Path) -> Result<()> {
    let kind = std::fs::metadata(path).map_err(Error::io("read", path))?.file_type();
    let refuse = |kind| Err(Error::NotAFile { path: path.into(), kind });
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return refuse("a named pipe");
        }
    }
    match kind {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => refuse("a folder"),
        _ => refuse("a device or socket"),
    }
}

fn file(shown: PathBuf, format: Option<Format>) -> Result<InputFile> {
    let format = format.unwrap_or_else(|| Format::of(&shown));
    let mut file = InputFile { shown, format, copy: None };
    if format == Format::Parquet {
        file.copy = decompressed(&file.shown, &file.shown)?;
    }
    Ok(file)
}

/// Keeps standard input in a temporary file.
fn spool_stdin(stdin: &mut dyn Read, format: Option<Format>) -> Result<InputFile> {
    let shown = PathBuf::from(STDIN);
    let copy = spool(stdin, &|error| Error::io("read", STDIN)(error))?;
    let mut head = Vec::new();
    let mut source = compression::open(&copy, &shown)?;
    let read = source.bytes.by_ref().take(256).read_to_end(&mut head);
    read.map_err(|error| source.compression.error(&shown, error))?;
    let format = format.unwrap_or_else(|| Format::of_bytes(&head));
    let mut file = InputFile { shown, format, copy: Some(Arc::new(copy)) };
    if format == Format::Parquet
        && let Some(plain) = decompressed(file.real(), &file.shown)?
    {
        file.copy = Some(plain);
    }
    Ok(file)
}

/// A decompressed copy of a file, which parquet needs because it is read from its end; `None` if it is not compressed.
fn decompressed(real: &Path, shown: &Path) -> Result<Option<Arc<TempPath>>> {
    let mut source = compression::open(real, shown)?;
    if source.compression == compression::Compression::None {
        return Ok(None);
    }
    let compression = source.compression;
    let copy = spool(&mut source.bytes, &|error| compression.error(shown, error))?;
    Ok(Some(Arc::new(copy)))
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
