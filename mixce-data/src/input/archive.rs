//! Streams the members of tar archives sequentially, without writing to disk.
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tar::{EntryType, Header};

use super::compression::{Bytes, buffered, fault, read_error};
use super::decoding::{Archive, FOLDER, Recorder};
use super::sniff::is_tar;
use crate::error::{Error, Fault, Result};

const BLOCK_BYTES: usize = 512;
/// Longest header of a member's long name and other properties.
const MAX_HEADER_BYTES: u64 = 1 << 20;
const KIND: &str = "tar";

/// The members of an archive.
pub(super) struct Members {
    path: PathBuf,
    source: Arc<Mutex<Source>>,
    recorder: Recorder,
}

/// A member to read.
pub(super) struct Member {
    /// Its path within the archive.
    pub(super) name: PathBuf,
    pub(super) bytes: Bytes,
}

/// The archive's bytes, and how many of them belong to the current member.
struct Source {
    bytes: Bytes,
    left: u64,
    /// Zero bytes that follow the member's.
    padding: u64,
}

/// Properties of the next member from extended headers.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Members {
    pub(super) fn new(bytes: Bytes, path: &Path, recorder: Recorder) -> Self {
        recorder.note(|decoding| decoding.archive = Some(Archive::default()));
        let source = Source { bytes, left: 0, padding: 0 };
        Self { path: path.into(), source: Arc::new(Mutex::new(source)), recorder }
    }

    /// The next member that is a file and not hidden; others are recorded. Unread bytes of the previous member are skipped.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>> {
        let mut extended = Extended::default();
        loop {
            lock(&self.source).skip().map_err(|error| read_error(&self.path, error))?;
            let Some(header) = self.next_header()? else { return Ok(None) };
            let kind = header.entry_type();
            let size = header.entry_size().map_err(|error| self.damaged(&error.to_string()))?;
            let size = extended.size.filter(|_| !is_extension(kind)).unwrap_or(size);
            lock(&self.source).begin(size);
            if is_extension(kind) {
                let data = self.extension(size)?;
                extended.add(kind, &data).map_err(|problem| self.damaged(&problem))?;
                continue;
            }
            let Extended { name, sparse, .. } = std::mem::take(&mut extended);
            let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
            let name = relative(&String::from_utf8_lossy(&name));
            if sparse || kind == EntryType::GNUSparse {
                let problem =
                    format!("its member `{}` is a sparse file; unpack it with `tar`", name.display());
                return Err(Error::Archive { path: self.path.clone(), problem });
            }
            match why_unused(&name, &header) {
                Some(reason) => self.recorder.note(|decoding| {
                    decoding.archive.get_or_insert_default().add_unused(name, reason);
                }),
                None => {
                    let bytes = buffered(MemberBytes(Arc::clone(&self.source)));
                    return Ok(Some(Member { name, bytes }));
                }
            }
        }
    }

    /// The next header. Two empty blocks end an archive, but another one may follow (`cat a.tar b.tar`).
    fn next_header(&mut self) -> Result<Option<Header>> {
        let mut empty_blocks = 0;
        loop {
            let mut block = [0; BLOCK_BYTES];
            let mut source = lock(&self.source);
            let read = source.read_block(&mut block).map_err(|error| read_error(&self.path, error))?;
            if read == BLOCK_BYTES && block == [0; BLOCK_BYTES] {
                empty_blocks += 1;
                continue;
            }
            if read == BLOCK_BYTES && is_tar(&block) {
                return Ok(Some(Header::from_byte_slice(&block).clone()));
            }
            if read > 0 && empty_blocks == 0 {
                drop(source);
                return Err(match read {
                    BLOCK_BYTES => self.damaged("the checksum of a member's header does not match"),
                    _ => self.cut_off(),
                });
            }
            let ignored = if block[..read].iter().all(|byte| *byte == 0) { 0 } else { read as u64 };
            let rest = io::copy(&mut source.bytes, &mut io::sink())
                .map_err(|error| read_error(&self.path, error))?;
            self.recorder.note(|decoding| {
                let archive = decoding.archive.get_or_insert_default();
                archive.trailing_bytes = ignored + rest;
                archive.unterminated = empty_blocks == 0;
            });
            return Ok(None);
        }
    }

    fn extension(&self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_HEADER_BYTES {
            return Err(self.damaged("a header is longer than 1 MiB"));
        }
        let mut data = Vec::new();
        let read = MemberBytes(Arc::clone(&self.source)).read_to_end(&mut data);
        read.map_err(|error| read_error(&self.path, error))?;
        Ok(data)
    }

    fn damaged(&self, problem: &str) -> Error {
        Error::Compressed { path: self.path.clone(), kind: KIND, fault: Fault::Damaged(problem.into()) }
    }

    fn cut_off(&self) -> Error {
        Error::Compressed { path: self.path.clone(), kind: KIND, fault: Fault::CutOff }
    }
}

impl Extended {
    fn add(&mut self, kind: EntryType, data: &[u8]) -> std::result::Result<(), String> {
        match kind {
            EntryType::GNULongName => {
                self.name = Some(data.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
            }
            EntryType::XHeader => {
                for (key, value) in pax_records(data).ok_or("a member's extended header is damaged")? {
                    match key {
                        b"path" => self.name = Some(value.to_vec()),
                        b"size" => {
                            let size = std::str::from_utf8(value).ok().and_then(|size| size.parse().ok());
                            self.size = Some(size.ok_or("the size of a member is not a number")?);
                        }
                        key => self.sparse |= key.starts_with(b"GNU.sparse."),
                    }
                }
            }
            // Link targets and global properties are not needed.
            _ => {}
        }
        Ok(())
    }
}

/// Keys and values of an extended header (POSIX pax): records `LENGTH KEY=VALUE\n`, the length counting the whole record.
fn pax_records(mut data: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let digits = data.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&data[..digits]).ok()?.parse().ok()?;
        let record = data.get(digits + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        data = &data[length..];
    }
    Some(records)
}

fn is_extension(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
    )
}

/// A member's path without components that lead out of the archive.
fn relative(name: &str) -> PathBuf {
    Path::new(name).components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

fn why_unused(name: &Path, header: &Header) -> Option<String> {
    let link = || {
        let to = header.link_name_bytes().unwrap_or_default();
        String::from_utf8_lossy(&to).into_owned()
    };
    match header.entry_type() {
        // Old archivers mark a folder with a trailing slash.
        EntryType::Regular if header.path_bytes().ends_with(b"/") => Some(FOLDER.into()),
        EntryType::Regular | EntryType::Continuous => {
            let hidden = |part: Component<'_>| part.as_os_str().to_string_lossy().starts_with('.');
            name.components().any(hidden).then(|| "hidden".to_owned())
        }
        EntryType::Directory => Some(FOLDER.into()),
        EntryType::Symlink => Some(format!("a link to `{}`", link())),
        EntryType::Link => Some(format!("a hard link to `{}`", link())),
        EntryType::Char | EntryType::Block => Some("a device".into()),
        EntryType::Fifo => Some("a named pipe".into()),
        other => Some(format!("a member of kind `{}`", char::from(other.as_byte()))),
    }
}

fn lock(source: &Mutex<Source>) -> MutexGuard<'_, Source> {
    // Only one thread reads, so a poisoned lock is harmless.
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    fn begin(&mut self, size: u64) {
        let block = BLOCK_BYTES as u64;
        self.left = size;
        self.padding = (block - size % block) % block;
    }

    /// Goes to the next header.
    fn skip(&mut self) -> io::Result<()> {
        let wanted = std::mem::take(&mut self.left).saturating_add(std::mem::take(&mut self.padding));
        let skipped = io::copy(&mut self.bytes.by_ref().take(wanted), &mut io::sink())?;
        if skipped == wanted { Ok(()) } else { Err(fault(KIND, Fault::CutOff)) }
    }

    /// Fills a block, except at the end.
    fn read_block(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < block.len() {
            match self.bytes.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// The bytes of the member that is read.
struct MemberBytes(Arc<Mutex<Source>>);

impl Read for MemberBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut source = lock(&self.0);
        let wanted = usize::try_from(source.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = source.bytes.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(fault(KIND, Fault::CutOff));
        }
        source.left -= count as u64;
        Ok(count)
    }
}
