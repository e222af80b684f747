//! A growing file of lines, read only as far as it has grown.

use std::fs::{self, File, Metadata};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

/// Bytes that are read at once. A longer line is none of ours, and nothing after it is read.
const CHUNK: u64 = 4 << 20;

/// What happened to the file since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// There is no such file.
    Absent,
    /// These complete lines were added; `is_new` says that earlier lines no longer count, because the file was replaced or cut.
    Lines { lines: Vec<String>, is_new: bool },
}

/// Reads new lines of a file. A last line without its line feed is not finished and waits.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    /// What tells the file from another of the same name.
    identity: Option<(u64, u64)>,
    /// Bytes that were consumed as complete lines.
    consumed: u64,
}

impl Tail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, identity: None, consumed: 0 }
    }

    /// The lines since the last call.
    pub(crate) fn poll(&mut self) -> Growth {
        self.read().unwrap_or_else(|| {
            (self.identity, self.consumed) = (None, 0);
            Growth::Absent
        })
    }

    /// `None` if the file is not there or cannot be read now.
    fn read(&mut self) -> Option<Growth> {
        // A pipe of that name would block.
        if !fs::metadata(&self.path).ok()?.is_file() {
            return None;
        }
        let mut file = File::open(&self.path).ok()?;
        let found = file.metadata().ok()?;
        let identity = identity(&found);
        let is_new =
            self.identity != Some(identity) || found.len() < self.consumed || !self.ends_a_line(&mut file)?;
        if is_new {
            (self.identity, self.consumed) = (Some(identity), 0);
        }
        let mut lines = Vec::new();
        loop {
            file.seek(SeekFrom::Start(self.consumed)).ok()?;
            let mut bytes = Vec::new();
            file.by_ref().take(CHUNK).read_to_end(&mut bytes).ok()?;
            let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else { break };
            let complete = bytes[..end].split(|byte| *byte == b'\n');
            lines.extend(complete.map(|line| String::from_utf8_lossy(line).into_owned()));
            self.consumed += end as u64 + 1;
            if (bytes.len() as u64) < CHUNK {
                break;
            }
        }
        Some(Growth::Lines { lines, is_new })
    }

    /// Whether what was consumed still ends where a line does; otherwise the file was written anew in place.
    fn ends_a_line(&self, file: &mut File) -> Option<bool> {
        let Some(last) = self.consumed.checked_sub(1) else { return Some(true) };
        let mut byte = [0];
        file.seek(SeekFrom::Start(last)).ok()?;
        file.read_exact(&mut byte).ok()?;
        Some(byte == [b'\n'])
    }
}

#[cfg(unix)]
fn identity(found: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (found.dev(), found.ino())
}

/// Elsewhere a replaced file is noticed by its length and its line ends.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn lines(growth: Growth) -> (Vec<String>, bool) {
        match growth {
            Growth::Lines { lines, is_new } => (lines, is_new),
            Growth::Absent => panic!("absent"),
        }
    }

    fn told(expected: &[&str], is_new: bool) -> (Vec<String>, bool) {
        (expected.iter().map(|line| (*line).to_owned()).collect(), is_new)
    }

    #[test]
    fn lines_come_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut tail = Tail::new(path.clone());
        assert_eq!(tail.poll(), Growth::Absent);
        let mut file = File::create(&path).unwrap();
        assert_eq!(lines(tail.poll()), told(&[], true));
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(lines(tail.poll()), told(&["one"], false));
        assert_eq!(lines(tail.poll()), told(&[], false));
        file.write_all(b"o\n\xff\nthr").unwrap();
        assert_eq!(lines(tail.poll()), told(&["two", "\u{fffd}"], false));
        file.write_all(b"ee\n").unwrap();
        assert_eq!(lines(tail.poll()), told(&["three"], false));
    }

    #[test]
    fn a_replaced_cut_or_removed_file_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut tail = Tail::new(path.clone());
        fs::write(&path, "one\ntwo\n").unwrap();
        tail.poll();
        // As a resumed run does it: shorter, under a new inode.
        let other = folder.path().join("new");
        fs::write(&other, "one\nother\nthree\n").unwrap();
        fs::rename(&other, &path).unwrap();
        #[cfg(unix)]
        assert_eq!(lines(tail.poll()), told(&["one", "other", "three"], true));
        fs::write(&path, "cut\n").unwrap();
        assert_eq!(lines(tail.poll()), told(&["cut"], true));
        // In place, longer, with other line ends.
        fs::write(&path, "a longer one\n").unwrap();
        assert_eq!(lines(tail.poll()), told(&["a longer one"], true));
        fs::remove_file(&path).unwrap();
        assert_eq!(tail.poll(), Growth::Absent);
        fs::write(&path, "back\n").unwrap();
        assert_eq!(lines(tail.poll()), told(&["back"], true));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(tail.poll(), Growth::Absent);
    }

    #[test]
    fn files_larger_than_a_chunk_are_read_to_their_end_and_endless_lines_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut tail = Tail::new(path.clone());
        let line = "x".repeat(999);
        fs::write(&path, format!("{line}\n").repeat(10_000)).unwrap();
        assert_eq!(lines(tail.poll()).0.len(), 10_000);
        fs::write(&path, vec![b'x'; 9 << 20]).unwrap();
        assert_eq!(lines(tail.poll()), told(&[], true));
    }
}
