//! The files of a source: which are data, and which are not used and why.
use std::path::{Path, PathBuf};

/// Endings of files that are taken for data, compression taken off.
const DATA_ENDINGS: [&str; 14] = [
    "txt",
    "raw",
    "tokens",
    "text",
    "jsonl",
    "jsonlines",
    "ndjson",
    "json",
    "csv",
    "tsv",
    "parquet",
    "wp_source",
    "wp_target",
    "lines",
];
/// Extensions of archives. Those after the first five are not supported, which the error says.
const ARCHIVE_ENDINGS: [&str; 13] = [
    ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.lz4",
    ".zip", ".7z", ".rar",
];

/// A data file of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceFile {
    /// Its path inside the source.
    pub(super) name: PathBuf,
    /// Where its bytes lie.
    pub(super) path: PathBuf,
}

/// A file of a source that no split takes documents from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unused {
    /// Its path inside the source.
    pub name: PathBuf,
    /// Why, as a clause: `its name ends as no data file's does`.
    pub reason: &'static str,
}

impl Unused {
    pub(super) const HIDDEN: &str = "hidden";
    pub(super) const RESOURCE: &str = "made by macOS beside the real files";
    pub(super) const NOT_DATA: &str = "its name ends as no data file's does";
    pub(super) const ARCHIVE: &str = "an archive inside the source";
    pub(super) const NOT_A_FILE: &str = "neither a file nor a folder, or a link that leads nowhere";
    pub(super) const LINK: &str = "a link inside the archive";
    pub(super) const SEEN: &str = "a link to a folder that was read already";
    pub(super) const REPLACED: &str = "a later member of the archive has the same name";
    pub(super) const NO_SPLIT: &str = "its name speaks of no split, others' do";
    pub(super) const OTHER_CONFIG: &str = "not below the folder of the configuration";
    pub(super) const MODEL_OUTPUT: &str = "not OpenAI's `webtext.*`";
    pub(super) const NOT_PAIRED: &str = "neither `.wp_source` nor `.wp_target`, which are beside it";
    pub(super) const DESCRIPTION: &str = "a `.json` beside data files is rather a description";
    pub(super) const OTHER_FORMAT: &str = "the parquet files are taken";

    pub(super) fn new(name: impl Into<PathBuf>, reason: &'static str) -> Self {
        Self { name: name.into(), reason }
    }
}

/// Why a path inside a source is passed over whatever its content: hidden, or one of the files that macOS adds (`__MACOSX/`, `._x`).
pub(super) fn passed_over(name: &Path) -> Option<&'static str> {
    let mut reason = None;
    for part in name.iter().map(|part| part.to_string_lossy()) {
        if part == "__MACOSX" || part.starts_with("._") {
            return Some(Unused::RESOURCE);
        }
        if part.starts_with('.') {
            reason = Some(Unused::HIDDEN);
        }
    }
    reason
}

/// Why a file is not a data file according to its extension; `None` if it is one.
pub(super) fn not_data(name: &Path) -> Option<&'static str> {
    if is_archive(name) {
        return Some(Unused::ARCHIVE);
    }
    (!is_data(name)).then_some(Unused::NOT_DATA)
}

/// Whether a file is data by its ending.
pub(super) fn is_data(name: &Path) -> bool {
    let name = file_name(name).to_ascii_lowercase();
    without_compression(&name).rsplit_once('.').is_some_and(|(_, ending)| DATA_ENDINGS.contains(&ending))
}

/// Whether a file is an archive by its ending.
pub(super) fn is_archive(name: &Path) -> bool {
    let name = file_name(name).to_ascii_lowercase();
    ARCHIVE_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The name of a file or folder without its endings of compression and data, in lower case.
pub(super) fn stem(name: &str) -> String {
    let name = name.to_lowercase();
    match without_compression(&name).rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && DATA_ENDINGS.contains(&ending) => stem.to_owned(),
        _ => without_compression(&name).to_owned(),
    }
}

/// The last part of a path.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn without_compression(name: &str) -> &str {
    [".gz", ".zst", ".zstd"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

/// The first names of a list in backquotes, and how many more there are.
pub fn listed<T: AsRef<Path>>(names: &[T]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> =
        names.iter().take(SHOWN).map(|name| format!("`{}`", name.as_ref().display())).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
