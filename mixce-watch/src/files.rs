//! Small files that may be absent, or replaced while they are read: those are tried again at the next poll.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A regular file's text, unless it is larger than `limit`. `None` if there is none, also for a pipe, which would block.
pub(crate) fn text(path: &Path, limit: u64) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    if !found.is_file() || found.len() > limit {
        return None;
    }
    fs::read_to_string(path).ok()
}

/// The complete lines among the last `bytes` of a file, as far as they are UTF-8.
pub(crate) fn last_lines(path: &Path, bytes: u64) -> Vec<String> {
    let read = || -> Option<(Vec<u8>, bool)> {
        if !fs::metadata(path).ok()?.is_file() {
            return None;
        }
        let mut file = File::open(path).ok()?;
        let start = file.metadata().ok()?.len().saturating_sub(bytes);
        file.seek(SeekFrom::Start(start)).ok()?;
        let mut tail = Vec::new();
        file.take(bytes).read_to_end(&mut tail).ok()?;
        Some((tail, start > 0))
    };
    let Some((tail, is_cut)) = read() else { return Vec::new() };
    let lines = tail.split_inclusive(|byte| *byte == b'\n').skip(usize::from(is_cut));
    let complete = lines.filter_map(|line| line.strip_suffix(b"\n"));
    complete.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

/// When a file was last written.
pub(crate) fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// Names and paths of a folder's entries, sorted; none if it cannot be read.
pub(crate) fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(String, PathBuf)> =
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_file_has_whole_lines_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert_eq!(last_lines(&path, 10), Vec::<String>::new());
        fs::write(&path, "first\nsecond\nthird\nhalf").unwrap();
        assert_eq!(last_lines(&path, 100), ["first", "second", "third"]);
        assert_eq!(last_lines(&path, 14), ["third"]);
        assert_eq!(last_lines(folder.path(), 14), Vec::<String>::new());
        assert_eq!((text(&path, 3), text(folder.path(), 99)), (None, None));
        assert_eq!(text(&path, 99).unwrap().len(), 23);
    }
}
