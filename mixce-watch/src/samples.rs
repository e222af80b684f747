//! The last samples of a folder.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::files::{entries, last_lines, modified};

/// Samples that are shown.
const SHOWN: usize = 3;
/// Where the last of them are looked for.
const TAIL: u64 = 256 << 10;

/// A prompt and its continuation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    #[serde(default)]
    pub prompt: String,
    /// The continuation.
    #[serde(alias = "continuation")]
    pub text: String,
}

/// Remembers which file it read.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    read: Option<(PathBuf, SystemTime)>,
    samples: Vec<Sample>,
}

impl Samples {
    /// The last samples of the file that was written last in these folders (`samples-0.jsonl`, ...).
    pub(crate) fn poll(&mut self, folders: impl Iterator<Item = PathBuf>) -> Vec<Sample> {
        let files = folders.flat_map(|folder| files_of(&folder));
        let newest = files.max_by_key(|(_, written)| *written);
        if newest != self.read {
            self.samples = newest.as_ref().map_or_else(Vec::new, |(file, _)| last(file));
            self.read = newest;
        }
        self.samples.clone()
    }
}

fn files_of(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let is_samples = |name: &str| name.starts_with("samples-") && name.ends_with(".jsonl");
    let files = entries(folder).into_iter().filter(|(name, _)| is_samples(name));
    files.filter_map(|(_, path)| Some((path.clone(), modified(&path)?))).collect()
}

fn last(file: &Path) -> Vec<Sample> {
    let lines = last_lines(file, TAIL);
    let samples = lines.iter().rev().filter_map(|line| serde_json::from_str(line).ok());
    samples.take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_newest_file_s_last_whole_rows_are_shown() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("valid");
        let mut samples = Samples::default();
        let mut poll = || samples.poll([folder.clone(), root.path().join("none")].into_iter());
        assert_eq!(poll(), []);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("human.jsonl"), "{\"prompt\":\"h\",\"text\":\"uman\"}\n").unwrap();
        let rows: String =
            (0..5).map(|i| format!("{{\"prompt\":\"p{i}\",\"continuation\":\"c\"}}\n")).collect();
        fs::write(folder.join("samples-0.jsonl"), rows + "{\"prompt\":\"half").unwrap();
        let prompts: Vec<String> = poll().into_iter().map(|sample| sample.prompt).collect();
        assert_eq!(prompts, ["p4", "p3", "p2"]);
    }
}
