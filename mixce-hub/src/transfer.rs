//! Transfers one file: resumes, verifies, and then renames it into place.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use ureq::http::{StatusCode, header::CONTENT_RANGE};

use crate::{
    checksum::Checksum,
    error::{Error, Result},
    http::{Answer, connection_error, text_header},
    progress::{FetchProgress, FileProgress, FileState},
    remote::{Remote, RemoteFile},
    retry::pause,
    source::RepositoryId,
};

/// Read, hashed and written at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// After this many bytes of progress the failure count restarts.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Most bytes of a file whose length the hub does not give, as for small files that it compresses on the way.
const MAX_UNSIZED_BYTES: u64 = 1 << 28;

/// Transfers a file to `incomplete`, verifies it, and renames it to `complete`.
///
/// Existing bytes of `incomplete` are kept and the rest is requested with a `Range` header. If a file resumed in this way has the wrong
/// checksum, it is downloaded again from the beginning, since the old part may be the cause.
pub(crate) fn transfer(
    remote: &Remote,
    id: &RepositoryId,
    file: &RemoteFile,
    (incomplete, complete): (&Path, &Path),
    progress: &mut dyn FetchProgress,
) -> Result<()> {
    let mut partial = Partial::open(incomplete, id, file)?;
    let mut resumed = partial.length > 0;
    loop {
        partial.report(FileState::Transferring, progress);
        partial.receive_all(remote, progress)?;
        match partial.verify() {
            Ok(()) => break,
            Err(error @ Error::Checksum { .. }) if resumed => {
                tracing::warn!(%error, "the resumed file is damaged; fetching it from the beginning");
                partial.restart()?;
                resumed = false;
            }
            Err(error) => {
                drop(partial);
                fs::remove_file(incomplete).map_err(Error::io("remove", incomplete))?;
                return Err(error);
            }
        }
    }
    partial.bytes.sync_all().map_err(Error::io("write", incomplete))?;
    partial.report(FileState::Complete, progress);
    drop(partial);
    fs::rename(incomplete, complete).map_err(Error::io("write", complete))
}

/// A file of which some bytes are there.
struct Partial<'a> {
    id: &'a RepositoryId,
    file: &'a RemoteFile,
    path: PathBuf,
    bytes: File,
    length: u64,
    checksum: Checksum,
}

impl<'a> Partial<'a> {
    fn open(path: &Path, id: &'a RepositoryId, file: &'a RemoteFile) -> Result<Self> {
        let bytes = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let bytes = bytes.map_err(Error::io("create", path))?;
        let checksum = Checksum::for_etag(&file.etag, file.bytes_total);
        let mut partial = Self { id, file, path: path.to_owned(), bytes, length: 0, checksum };
        let there = partial.bytes.metadata().map_err(Error::io("read", path))?.len();
        if file.bytes_total.is_none_or(|total| there <= total) {
            partial.read_existing()?;
        } else {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Takes the bytes on disk into the checksum.
    fn read_existing(&mut self) -> Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = self.bytes.read(&mut chunk).map_err(Error::io("read", &self.path))?;
            if count == 0 {
                return Ok(());
            }
            self.checksum.update(&chunk[..count]);
            self.length += count as u64;
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.bytes.set_len(0).map_err(Error::io("write", &self.path))?;
        self.bytes.seek(SeekFrom::Start(0)).map_err(Error::io("write", &self.path))?;
        self.length = 0;
        self.checksum = Checksum::for_etag(&self.file.etag, self.file.bytes_total);
        Ok(())
    }

    /// Receives all bytes, over as many connections as necessary.
    fn receive_all(&mut self, remote: &Remote, progress: &mut dyn FetchProgress) -> Result<()> {
        let mut failures = 0;
        // An unknown length is only known to be reached by the end of a connection that began.
        while self.file.bytes_total.is_none_or(|total| self.length < total) {
            let before = self.length;
            match self.receive(remote, progress) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    failures =
                        if self.length >= before.saturating_add(PROGRESS_BYTES) { 1 } else { failures + 1 };
                    pause(remote.retries(), failures, error)?;
                }
            }
        }
        Ok(())
    }

    /// One connection.
    fn receive(&mut self, remote: &Remote, progress: &mut dyn FetchProgress) -> Result<()> {
        let answer = remote.open(self.id, self.file, self.length)?;
        match answer.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => {
                // The partial file does not match the hub's current one; or its length was unknown and it is complete.
                let whole = self.file.bytes_total.is_none() && total_of(&answer) == Some(self.length);
                if whole {
                    return Ok(());
                };
                self.restart()?;
                return Err(self.lost("the hub does not have the rest of the file"));
            }
            StatusCode::PARTIAL_CONTENT if start_of(&answer) == Some(self.length) => {
                tracing::debug!(file = self.file.name, from = self.length, "resuming");
            }
            // The whole file, or a different part than requested.
            StatusCode::PARTIAL_CONTENT => {
                self.restart()?;
                return Err(self.lost("the server sent a different part of the file than requested"));
            }
            _ if self.length > 0 => {
                tracing::debug!(file = self.file.name, "the server does not resume");
                self.restart()?;
            }
            _ => {}
        }
        let mut body = answer.into_body().into_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err(connection_error(&self.file.url, error.into())),
            };
            self.take(&chunk[..count])?;
            self.report(FileState::Transferring, progress);
            if progress.stopped() {
                return Err(Error::Stopped { file: self.file.name.clone() });
            }
        }
        match self.file.bytes_total {
            Some(total) if self.length < total => Err(self.lost("the connection ended before the file did")),
            _ => Ok(()),
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<()> {
        let length = self.length + chunk.len() as u64;
        if self.file.bytes_total.is_none() && length > MAX_UNSIZED_BYTES {
            self.restart()?;
            let reason =
                format!("more than {MAX_UNSIZED_BYTES} bytes of a file whose length it does not give");
            return Err(Error::Malformed { url: self.file.url.to_string(), reason });
        }
        if let Some(expected_bytes) = self.file.bytes_total.filter(|&total| length > total) {
            self.restart()?;
            return Err(Error::TooLong {
                repository: self.id.repository().to_owned(),
                file: self.file.name.clone(),
                expected_bytes,
                got_bytes: length,
            });
        }
        self.bytes.write_all(chunk).map_err(Error::io("write", &self.path))?;
        self.checksum.update(chunk);
        self.length = length;
        Ok(())
    }

    fn verify(&self) -> Result<()> {
        let Some((algorithm, got)) = self.checksum.clone().finish() else {
            tracing::warn!(
                file = self.file.name,
                etag = self.file.etag,
                "the hub gives no checksum: only the length is verified"
            );
            return Ok(());
        };
        if got.eq_ignore_ascii_case(&self.file.etag) {
            return Ok(());
        }
        Err(Error::Checksum {
            repository: self.id.repository().to_owned(),
            file: self.file.name.clone(),
            algorithm,
            expected: self.file.etag.clone(),
            got,
        })
    }

    fn report(&self, state: FileState, progress: &mut dyn FetchProgress) {
        let RemoteFile { name, bytes_total, .. } = self.file;
        progress.update(&FileProgress { name, bytes_done: self.length, bytes_total: *bytes_total, state });
    }

    fn lost(&self, reason: &str) -> Error {
        Error::Connection { url: self.file.url.to_string(), reason: reason.to_owned() }
    }
}

/// The first byte of a partial answer, from `Content-Range: bytes START-END/TOTAL`.
fn start_of(answer: &Answer) -> Option<u64> {
    let text = text_header(answer.headers(), CONTENT_RANGE.as_str())?;
    text.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// The length of the whole file, from `Content-Range: bytes */TOTAL`.
fn total_of(answer: &Answer) -> Option<u64> {
    text_header(answer.headers(), CONTENT_RANGE.as_str())?.rsplit_once('/')?.1.trim().parse().ok()
}
