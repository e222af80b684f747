//! P estimated from a text file.

use std::collections::HashMap;
use std::path::Path;

use mixce_base::files::read_limited;

use super::{Error, Result, World};

/// Largest file of transitions or text; it is kept in memory.
const MAX_FILE_BYTES: u64 = 1 << 29;

/// The text of a file that the user names.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let text = String::from_utf8(read_limited(path, MAX_FILE_BYTES)?);
    text.map_err(|cause| {
        Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, cause.utf8_error()))
    })
}

impl World {
    /// Estimates the transitions from a text: a line is a sequence of words (split at white space); the `vocab - 1`
    /// most frequent words stay (ties in alphabetical order), other words are taken out of their line, and the end of
    /// a line that holds any word is EOS. Row i is the share of each follower of word i. The first token is uniform
    /// over V, as in the paper's experiments.
    ///
    /// # Errors
    /// When the file cannot be read or has fewer than `vocab - 1` distinct words.
    pub fn from_text(path: &Path, vocab: usize) -> Result<Self> {
        if vocab < 2 {
            return Err(Error::range("vocab", "at least 2 tokens, EOS included", vocab));
        }
        let text = read_text(path)?;
        let mut frequency: HashMap<&str, usize> = HashMap::new();
        text.split_whitespace().for_each(|word| *frequency.entry(word).or_default() += 1);
        if frequency.len() < vocab - 1 {
            return Err(Error::SmallText {
                path: path.to_owned(),
                expected: vocab - 1,
                got: frequency.len(),
            });
        }
        let mut words: Vec<(&str, usize)> = frequency.into_iter().collect();
        words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        words.truncate(vocab - 1);
        let ids: HashMap<&str, usize> = words.iter().enumerate().map(|(id, (word, _))| (*word, id)).collect();
        let eos = vocab - 1;
        let mut transitions = vec![0.0; vocab * vocab];
        for line in text.lines() {
            let mut previous = None;
            for id in line.split_whitespace().filter_map(|word| ids.get(word).copied()) {
                if let Some(from) = previous.replace(id) {
                    transitions[from * vocab + id] += 1.0;
                }
            }
            if let Some(last) = previous {
                transitions[last * vocab + eos] += 1.0;
            }
        }
        for row in transitions.chunks_exact_mut(vocab).take(eos) {
            let total: f64 = row.iter().sum();
            row.iter_mut().for_each(|p| *p /= total);
        }
        Self::new(vec![1.0 / vocab as f64; vocab], transitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_followers_of_the_frequent_words() {
        let path = std::env::temp_dir().join(format!("mixce-text-{}.txt", std::process::id()));
        std::fs::write(&path, "a b a rare b\n\nb a\nunusual\na\n").unwrap();
        let world = World::from_text(&path, 3).unwrap();
        // a: b, b, end, end; b: a, a, end.
        let third = 1.0 / 3.0;
        assert_eq!(world.transitions(), [0.0, 0.5, 0.5, 2.0 * third, 0.0, third, 0.0, 0.0, 0.0]);
        let message = World::from_text(&path, 9).unwrap_err().to_string();
        assert!(message.contains("expected at least 8 distinct words, got 4"), "{message}");
        assert!(World::from_text(&path, 1).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(World::from_text(&path, 3).is_err());
    }
}
