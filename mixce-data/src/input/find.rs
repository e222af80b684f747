//! Resolves a path, pattern or folder to files.
use std::fs::{self, FileType};
use std::path::{Component, Path, PathBuf};

use glob::Pattern;

use super::compression::Compression;
use super::decoding::{FOLDER, Unused, named};
use super::format::Format;
use crate::error::{Error, Result};

/// Maximum depth of nested folders.
const MAX_DEPTH: usize = 32;
/// Extensions of plain text and of archives.
const USUAL_ENDINGS: [&str; 8] = ["txt", "text", "raw", "tokens", "lines", "wp_source", "wp_target", "tar"];
/// Maximum number of names in a warning.
const MAX_NAMED: usize = 10;

/// The files of a name.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In the order in which they are read.
    pub(super) files: Vec<PathBuf>,
    /// Other matches, which are not read.
    pub(super) unused: Vec<Unused>,
}

/// The files of a path, of a pattern (all matches in alphabetical order), or of a folder (all files in and below it, in that order).
///
/// Patterns and folders skip hidden files, unless the pattern spells out the dot, and anything that is not a file; a warning lists them.
pub(super) fn find(name: &Path) -> Result<Listing> {
    let text = name.to_string_lossy();
    if name.is_dir() {
        let mut found = Listing::default();
        found.add_folder(name, 0)?;
        found.files.sort();
        if found.files.is_empty() {
            return Err(Error::Incomplete { path: name.into(), missing: "files that could be read".into() });
        }
        found.warn(&text);
        return Ok(found);
    }
    // A file whose name looks like a pattern is that file.
    if name.exists() || !text.contains(['*', '?', '[']) {
        require_file(name)?;
        return Ok(Listing { files: vec![name.to_owned()], unused: Vec::new() });
    }
    let mut found = Listing::default();
    found.add_pattern(&text)?;
    if found.files.is_empty() {
        let reason = named(&found.unused.iter().collect::<Vec<_>>());
        let reason = reason.map(|list| format!("there is only {list}"));
        return Err(Error::NoMatch { pattern: text.into_owned(), reason });
    }
    found.warn(&text);
    Ok(found)
}

impl Listing {
    fn unused(&mut self, path: PathBuf, reason: &str) {
        self.unused.push(Unused { path, reason: reason.to_owned() });
    }

    fn add_folder(&mut self, folder: &Path, depth: usize) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            let path = entry.path();
            let is_link = entry.file_type().map_err(Error::io("read", &path))?.is_symlink();
            // A broken link has no metadata.
            let kind = fs::metadata(&path).map(|data| data.file_type()).ok();
            match kind {
                _ if entry.file_name().to_string_lossy().starts_with('.') => self.unused(path, "hidden"),
                None => self.unused(path, "a broken link"),
                Some(kind) if kind.is_file() => self.files.push(path),
                // Such a link may lead back up.
                Some(kind) if kind.is_dir() && is_link => self.unused(path, "a link to a folder"),
                Some(kind) if kind.is_dir() && depth == MAX_DEPTH => {
                    self.unused(path, "a folder nested too deeply")
                }
                Some(kind) if kind.is_dir() => self.add_folder(&path, depth + 1)?,
                Some(kind) => self.unused(path, kind_of(kind)),
            }
        }
        Ok(())
    }

    fn add_pattern(&mut self, pattern: &str) -> Result<()> {
        let no_match = |reason: String| Error::NoMatch { pattern: pattern.to_owned(), reason: Some(reason) };
        let paths = glob::glob(pattern).map_err(|error| no_match(error.to_string()))?;
        let mut paths: Vec<PathBuf> = paths
            .map(|path| {
                path.map_err(|error| {
                    let path = error.path().to_owned();
                    Error::io("read", path)(error.into())
                })
            })
            .collect::<Result<_>>()?;
        paths.sort();
        // Components of the pattern that spell out a dot match hidden files.
        let dotted: Vec<Pattern> = pattern
            .split(['/', '\\'])
            .filter(|part| part.starts_with('.'))
            .filter_map(|part| Pattern::new(part).ok())
            .collect();
        let is_hidden = |path: &Path| {
            path.components().any(|part| {
                let name = part.as_os_str().to_string_lossy();
                matches!(part, Component::Normal(_))
                    && name.starts_with('.')
                    && !dotted.iter().any(|dotted| dotted.matches(&name))
            })
        };
        let mut folders = Vec::new();
        for path in paths {
            match fs::metadata(&path).map(|data| data.file_type()) {
                _ if is_hidden(&path) => self.unused(path, "hidden"),
                Ok(kind) if kind.is_file() => self.files.push(path),
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) => self.unused(path, kind_of(kind)),
                Err(_) => self.unused(path, "a broken link"),
            }
        }
        // `**` matches folders too: those whose files were found are not reported.
        folders.retain(|folder| !self.files.iter().any(|file| file.starts_with(folder)));
        folders.into_iter().for_each(|folder| self.unused(folder, FOLDER));
        Ok(())
    }

    /// Reports what is not read, and what is read as text because its extension is unknown.
    fn warn(&self, name: &str) {
        let read = self.files.len();
        if let Some(list) = named(&self.unused.iter().collect::<Vec<_>>()) {
            tracing::warn!("`{name}`: {read} files are read, these are not: {list}");
        }
        let (known, unknown): (Vec<&PathBuf>, Vec<&PathBuf>) =
            self.files.iter().partition(|path| has_known_ending(path));
        if !known.is_empty() && !unknown.is_empty() {
            let mut list: Vec<String> =
                unknown.iter().take(MAX_NAMED).map(|path| format!("`{}`", path.display())).collect();
            if unknown.len() > MAX_NAMED {
                list.push(format!("and {} more", unknown.len() - MAX_NAMED));
            }
            tracing::warn!(
                "`{name}`: read as text because their extensions are unknown: {}",
                list.join(", ")
            );
        }
        tracing::info!("`{name}`: {read} files are read");
    }
}

fn has_known_ending(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let (compression, plain) = Compression::of_name(&name);
    let ending = plain.rsplit_once('.').map_or("", |(_, ending)| ending);
    Format::of(path) != Format::Text
        || USUAL_ENDINGS.contains(&ending)
        || (compression != Compression::None && ending.is_empty())
}

/// Refuses files that cannot be reread from the beginning.
fn require_file(path: &Path) -> Result<()> {
    let kind = fs::metadata(path).map_err(Error::io("read", path))?.file_type();
    if kind.is_file() { Ok(()) } else { Err(Error::NotAFile { path: path.into(), kind: kind_of(kind) }) }
}

fn kind_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a named pipe";
        }
    }
    if kind.is_dir() { FOLDER } else { "a device or socket" }
}
