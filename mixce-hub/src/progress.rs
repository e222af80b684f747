//! How a fetch tells its caller what it is doing.

/// What is happening to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileState {
    /// It lies in the cache already; nothing is transferred.
    Cached,
    /// Bytes are arriving. The first such report of a resumed file begins at the bytes that were kept.
    Transferring,
    /// All bytes are there and the checksum holds.
    Complete,
}

/// One report about one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileProgress<'a> {
    /// The file's name within the model.
    pub name: &'a str,
    /// Bytes on disk so far.
    pub bytes_done: u64,
    /// Bytes in all, if the hub said so.
    pub bytes_total: Option<u64>,
    /// What is happening.
    pub state: FileState,
}

/// The receiver of progress reports. Implemented by closures, and by [`NoProgress`].
pub trait FetchProgress {
    /// Called before the first byte of a file, about every quarter of a mebibyte, and when the file is complete.
    fn update(&mut self, file: &FileProgress<'_>);

    /// Asked at each report of a transfer: `true` stops it with [`Error::Stopped`](crate::Error::Stopped).
    fn stopped(&self) -> bool {
        false
    }
}

impl<F: FnMut(&FileProgress<'_>)> FetchProgress for F {
    fn update(&mut self, file: &FileProgress<'_>) {
        self(file);
    }
}

/// Takes reports and does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl FetchProgress for NoProgress {
    fn update(&mut self, _: &FileProgress<'_>) {}
}
