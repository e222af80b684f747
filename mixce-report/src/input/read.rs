//! Files as text, JSON or lines of JSON.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// A file's text; `None` if there is no such file.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// A file of one JSON value; `None` if there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let value = serde_json::from_str(&text);
    value.map(Some).map_err(|error| Error::Malformed {
        path: path.to_owned(),
        line: None,
        problem: error.to_string(),
    })
}

/// A file with a JSON value on each line; `None` if there is no such file. An incomplete last line is left out if `is_growing`.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path, is_growing: bool) -> Result<Option<Vec<T>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let mut rows = Vec::new();
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let is_torn = is_growing && lines.peek().is_none() && !line.ends_with('\n');
        if is_torn || line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(line).map_err(|error| Error::Malformed {
            path: path.to_owned(),
            line: Some(index + 1),
            problem: error.to_string(),
        })?;
        rows.push(row);
    }
    Ok(Some(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_a_bad_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        assert_eq!(read_lines::<u32>(&path, false).unwrap(), None);
        fs::write(&path, "1\n\n2\n3").unwrap();
        assert_eq!(read_lines::<u32>(&path, false).unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(read_lines::<u32>(&path, true).unwrap(), Some(vec![1, 2]));
        fs::write(&path, "1\nx\n").unwrap();
        let error = read_lines::<u32>(&path, true).unwrap_err().to_string();
        assert!(error.contains("a.jsonl`, line 2: "), "{error}");
        assert!(matches!(read_text(folder.path()), Err(Error::Read { .. })));
    }
}
