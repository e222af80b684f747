//! Progress reports of downloads.

/// The state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileState {
    /// Already in the cache; nothing is transferred.
    Cached,
    /// In transfer. The first report of a resumed file starts at the bytes already on disk.
    Transferring,
    /// Complete, with a verified checksum.
    Complete,
}

/// One report about one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileProgress<'a> {
    /// The file's name within the model.
    pub name: &'a str,
    /// Bytes on disk so far.
    pub bytes_done: u64,
    /// Total bytes, if the hub reported them.
    pub bytes_total: Option<u64>,
    /// The file's state.
    pub state: FileState,
}

/// The receiver of progress reports. Implemented by closures, and by [`NoProgress`].
pub trait FetchProgress {
    /// Called before the first byte of a file, about every quarter of a mebibyte, and when the file is complete.
    fn update(&mut self, file: &FileProgress<'_>);

    /// Called at each report of a transfer: `true` stops it with [`Error::Stopped`](crate::Error::Stopped).
    fn stopped(&self) -> bool {
        false
    }
}

impl<F: FnMut(&FileProgress<'_>)> FetchProgress for F {
    fn update(&mut self, file: &FileProgress<'_>) {
        self(file);
    }
}

/// Ignores reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl FetchProgress for NoProgress {
    fn update(&mut self, _: &FileProgress<'_>) {}
}
