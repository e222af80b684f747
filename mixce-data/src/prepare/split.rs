//! Determines a file's split from its name within the source.
//!
//! The words are `train`, `training`; `valid`, `validation`, `val`, `dev`; `test`. They count in the file's own name and in those of the folders
//! between the source and the file; the name of the source itself says nothing.
//!
//! - A word **decides** when it stands alone between dots, with or without a shard number behind: `test.txt`, `wiki.train.tokens`,
//!   `validation-00000-of-00001.parquet`, `train_3.jsonl`, the folder `dev`; or when a name beside it differs in that word alone: `my_train.txt` and
//!   `my_test.txt`.
//! - Between hyphens or spaces it may be a title, `the-last-train.txt`: it is **mentioned**, which counts only if that loses no file (see [`assign`]).
//! - Inside another word it is none: `testament.txt`, `the_train.txt`, `train10K.txt`.
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::files::{listed, stem};

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Split {
    /// To learn from.
    Train,
    /// To choose models by.
    Valid,
    /// To report on.
    Test,
}

impl Split {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// `train`, `valid` or `test`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        match word {
            "train" | "training" => Some(Self::Train),
            "valid" | "validation" | "val" | "dev" => Some(Self::Valid),
            "test" => Some(Self::Test),
            _ => None,
        }
    }
}

/// The splits of files, in the order of their names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    /// The split of each file; `None` for one whose name says nothing where others' do.
    pub(super) splits: Vec<Option<Split>>,
    /// The folder above the one (or the file) that names the split: two of them are two data sets.
    pub(super) roots: Vec<PathBuf>,
    /// Whether any name decides.
    pub(super) decided: bool,
}

/// Sorts files into splits.
///
/// Where a name decides, mentions count too, and files whose names say nothing belong to no split. Where none decides, and no more than `train` is
/// mentioned, all files are the training split.
///
/// # Errors
/// In words: names that speak of two splits; development or test files by mere mention, beside files that say nothing.
pub(super) fn assign(names: &[&Path]) -> Result<Assignment, String> {
    let twins = twins(names);
    let claims: Vec<Claim> = names.iter().map(|name| Claim::of(name, &twins)).collect::<Result<_, _>>()?;
    let decided = claims.iter().any(|claim| claim.decides);
    let mentioned: HashSet<Split> = claims.iter().filter_map(|claim| claim.split).collect();
    let silent = claims.iter().any(|claim| claim.split.is_none());
    let splits = if decided {
        claims.iter().map(|claim| claim.split).collect()
    } else if mentioned.iter().all(|split| *split == Split::Train) {
        vec![Some(Split::Train); names.len()]
    } else if silent {
        return Err(doubt(names, &claims));
    } else {
        claims.iter().map(|claim| claim.split).collect()
    };
    // If no name decides, folders are not separate data sets.
    let root = |claim: &Claim| if decided { claim.root.clone() } else { PathBuf::new() };
    Ok(Assignment { splits, roots: claims.iter().map(root).collect(), decided })
}

fn doubt(names: &[&Path], claims: &[Claim]) -> String {
    let of = |split: Option<Split>| -> Vec<&Path> {
        names.iter().zip(claims).filter(|(_, claim)| claim.split == split).map(|(name, _)| *name).collect()
    };
    let mut parts: Vec<String> = Vec::new();
    for split in Split::ALL {
        let own = of(Some(split));
        if !own.is_empty() {
            parts.push(format!("{} may be {}", listed(&own), split.name()));
        }
    }
    parts.push(format!("{} name no split", listed(&of(None))));
    format!("the names do not determine the splits: {}", parts.join("; "))
}

/// What a path says.
#[derive(Debug)]
struct Claim {
    split: Option<Split>,
    decides: bool,
    root: PathBuf,
}

impl Claim {
    fn of(name: &Path, twins: &Twins) -> Result<Self, String> {
        let mut claim = Self { split: None, decides: false, root: PathBuf::new() };
        let mut above = PathBuf::new();
        for part in name.iter().map(|part| part.to_string_lossy()) {
            let stem = stem(&part);
            for word in words(&stem) {
                let decides = word.stands_alone(&stem) || twins.contains(&above, &word.template(&stem));
                let is_mentioned = word.is_whole(&stem) && !claim.decides;
                if !decides && !is_mentioned {
                    continue;
                }
                match claim.split {
                    Some(other) if other != word.split && claim.decides == decides => {
                        let (a, b) = (other.name(), word.split.name());
                        return Err(format!("`{}` names two splits, {a} and {b}", name.display()));
                    }
                    Some(other) if other == word.split && claim.decides == decides => {}
                    _ => claim = Self { split: Some(word.split), decides, root: above.clone() },
                }
            }
            above.push(&*part);
        }
        if claim.split.is_none() {
            claim.root = above.parent().map(Path::to_owned).unwrap_or_default();
        }
        Ok(claim)
    }
}

/// A split's word in a stem, from byte `start` to `end`, with no letter on either side.
#[derive(Debug)]
struct Word {
    split: Split,
    start: usize,
    end: usize,
}

fn words(stem: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let mut start = 0;
    for run in stem.split(|c: char| !c.is_alphabetic()) {
        let end = start + run.len();
        found.extend(Split::of_word(run).map(|split| Word { split, start, end }));
        start = end + stem[end..].chars().next().map_or(0, char::len_utf8);
    }
    found
}

impl Word {
    /// What is before the word, and what is after it and its shard number (`3`, `_3`).
    fn around<'a>(&self, stem: &'a str) -> (&'a str, &'a str) {
        let behind = &stem[self.end..];
        let digits = behind.strip_prefix('_').unwrap_or(behind);
        let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
        (&stem[..self.start], if rest.len() < digits.len() { rest } else { behind })
    }

    /// Whether it is between dots, or at the beginning or end; numbers with hyphens (`-00000-of-00001`, `-v1`) may come after it.
    fn stands_alone(&self, stem: &str) -> bool {
        let (before, behind) = self.around(stem);
        let (shard, _) = behind.split_once('.').unwrap_or((behind, ""));
        let is_number = |part: &str| {
            let digits = part.strip_prefix('v').unwrap_or(part);
            part == "of" || (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        };
        let numbers = match shard.strip_prefix('-') {
            None => shard.is_empty(),
            Some(parts) => parts.split('-').all(is_number),
        };
        (before.is_empty() || before.ends_with('.')) && numbers
    }

    /// Whether no letter, digit or underscore touches it.
    fn is_whole(&self, stem: &str) -> bool {
        let joins = |c: char| c.is_alphanumeric() || c == '_';
        let (before, behind) = self.around(stem);
        !before.ends_with(joins) && !behind.starts_with(joins)
    }

    /// The stem without the word and with `0` for each number: the same for names that differ in the word alone.
    fn template(&self, stem: &str) -> String {
        let mut template = String::new();
        for c in stem[..self.start].chars().chain(['\0']).chain(stem[self.end..].chars()) {
            match c.is_ascii_digit() {
                true if template.ends_with('0') => {}
                true => template.push('0'),
                false => template.push(c),
            }
        }
        template
    }
}

/// For each folder, the templates that names with words of several splits share.
#[derive(Debug)]
struct Twins(HashMap<(PathBuf, String), HashSet<Split>>);

impl Twins {
    fn contains(&self, folder: &Path, template: &str) -> bool {
        self.0.get(&(folder.to_owned(), template.to_owned())).is_some_and(|splits| splits.len() > 1)
    }
}

fn twins(names: &[&Path]) -> Twins {
    let mut twins: HashMap<(PathBuf, String), HashSet<Split>> = HashMap::new();
    for name in names {
        let mut above = PathBuf::new();
        for part in name.iter().map(|part| part.to_string_lossy()) {
            let stem = stem(&part);
            for word in words(&stem) {
                twins.entry((above.clone(), word.template(&stem))).or_default().insert(word.split);
            }
            above.push(&*part);
        }
    }
    Twins(twins)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The splits' names, `-` for none.
    fn splits(names: &[&str]) -> Result<Vec<&'static str>, String> {
        let paths: Vec<&Path> = names.iter().map(Path::new).collect();
        let name = |split: Option<Split>| split.map_or("-", Split::name);
        assign(&paths).map(|found| found.splits.into_iter().map(name).collect())
    }

    #[test]
    fn words_between_dots_decide_with_or_without_a_shard_number() {
        for (name, split) in [
            ("wiki.train.raw", "train"),
            ("validation-00000-of-00001.parquet", "valid"),
            ("webtext.valid.jsonl.gz", "valid"),
            ("DEV.txt", "valid"),
            ("test-00000.parquet", "test"),
            ("test3.jsonl", "test"),
            ("val_07.csv.zst", "valid"),
            ("train-v1.1.json", "train"),
            ("test/part-0.txt", "test"),
            ("en/dev/a/b.txt", "valid"),
            ("latest.txt", "-"),
            ("trainer.txt", "-"),
            ("train10K.txt", "-"),
            ("the_train.txt", "-"),
            ("testament.txt", "-"),
            ("devotion/a.txt", "-"),
            ("test_of_time.txt", "-"),
            ("2test.txt", "-"),
            ("détest.txt", "-"),
        ] {
            // With a file beside it that decides, one that says nothing is left out.
            assert_eq!(splits(&["train.txt", name]), Ok(vec!["train", split]), "{name}");
        }
    }

    #[test]
    fn names_that_differ_in_the_word_alone_decide() {
        assert_eq!(splits(&["my_train.txt", "my_test.txt"]), Ok(vec!["train", "test"]));
        assert_eq!(
            splits(&["en_train-00001-of-2.json", "en_dev-00000-of-1.json", "notes.txt"]),
            Ok(vec!["train", "valid", "-"])
        );
        assert_eq!(splits(&["train_set/a.txt", "test_set/a.txt"]), Ok(vec!["train", "test"]));
        // Not a counterpart in another folder, or with a different remainder.
        assert_eq!(splits(&["a/my_train.txt", "b/my_test.txt"]), Ok(vec!["train", "train"]));
        assert_eq!(splits(&["my_train.txt", "your_test.txt"]), Ok(vec!["train", "train"]));
    }

    #[test]
    fn titles_lose_no_file() {
        for name in ["the_train.txt", "the-last-train.txt", "slow train coming.txt", "testament.txt"] {
            assert_eq!(splits(&["alice.txt", "moby.txt", name]), Ok(vec!["train"; 3]), "{name}");
        }
        let doubt = splits(&["alice.txt", "moby.txt", "a-test-of-will.txt"]).unwrap_err();
        assert!(
            doubt.contains("`a-test-of-will.txt` may be test; `alice.txt`, `moby.txt` name no split"),
            "{doubt}"
        );
        // Beside names that decide, or alone, a mention counts.
        assert_eq!(splits(&["train.txt", "test-clean.txt"]), Ok(vec!["train", "test"]));
        assert_eq!(splits(&["wiki-test.txt"]), Ok(vec!["test"]));
    }

    #[test]
    fn two_splits_in_one_path_are_refused_and_a_decision_overrules_a_mention() {
        for name in ["test/train.txt", "train/dev/a.txt", "train-test-split.txt", "test.dev.txt"] {
            let error = splits(&[name, "a.txt"]).unwrap_err();
            assert!(error.contains(&format!("`{name}` names two splits")), "{error}");
        }
        assert_eq!(splits(&["train/a-test-of-will.txt"]), Ok(vec!["train"]));
        assert_eq!(splits(&["dev-tools/train.txt"]), Ok(vec!["train"]));
        assert_eq!(splits(&["train/train-00.txt"]), Ok(vec!["train"]));
    }

    #[test]
    fn the_root_is_above_what_names_the_split() {
        let names = ["x/train/a/1.txt", "x/train/b/2.txt", "y/train.txt"].map(Path::new);
        assert_eq!(assign(&names).unwrap().roots, ["x", "x", "y"].map(PathBuf::from));
        let silent = ["x/1.txt", "y/1.txt"].map(Path::new);
        assert_eq!(assign(&silent).unwrap().roots, [PathBuf::new(), PathBuf::new()]);
    }
}
