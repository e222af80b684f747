//! The files of a study: `study.json`, `items.jsonl`, `plan.jsonl`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use mixce_base::digest::{Digest as _, Sha256, hex};
use mixce_base::files::{AtomicFolder, write_atomic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;

const HEADER: &str = "study.json";
const ITEMS: &str = "items.jsonl";
const PLAN: &str = "plan.jsonl";
/// The database of answers, beside the study's files.
pub(crate) const ANSWERS: &str = "answers.sqlite";
/// The value of `format` in `study.json`.
const FORMAT: &str = "mixce-judge-1";

/// The answers that a judge chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Scale {
    /// One is better, no difference, the other is better: -1, 0, 1.
    Three,
    /// With "much" and "slightly" better: -2 to 2.
    Five,
}

impl Scale {
    /// The largest value: 1 or 2.
    #[must_use]
    pub fn extreme(self) -> i8 {
        match self {
            Self::Three => 1,
            Self::Five => 2,
        }
    }
}

impl TryFrom<u8> for Scale {
    type Error = Error;

    fn try_from(answers: u8) -> Result<Self, Error> {
        match answers {
            3 => Ok(Self::Three),
            5 => Ok(Self::Five),
            got => Err(Error::Setting { name: "scale", expected: "3 or 5".into(), got: got.to_string() }),
        }
    }
}

impl From<Scale> for u8 {
    fn from(scale: Scale) -> Self {
        2 * scale.extreme().unsigned_abs() + 1
    }
}

/// `study.json`: what the study is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Name and version of the format.
    pub format: String,
    /// Seed of all draws.
    pub seed: u64,
    /// Answers to choose from.
    pub scale: Scale,
    /// Names of the systems.
    pub systems: Vec<String>,
    /// Comparisons: prompts times pairs of systems.
    pub comparisons: usize,
    /// Attention checks, which every judge sees.
    pub checks: usize,
    /// Number of judges.
    pub judges: usize,
    /// Judges of each comparison.
    pub judges_per_item: usize,
    /// Digest of `items.jsonl`.
    pub items_sha256: String,
    /// Digest of `plan.jsonl`.
    pub plan_sha256: String,
}

/// What an item is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Two systems.
    Comparison,
    /// A human text (always the item's `first`) and the same text shuffled.
    Check,
}

/// One continuation of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The system; never sent to a judge.
    pub system: String,
    /// The continuation.
    pub text: String,
}

/// A line of `items.jsonl`; its number is its place in the file, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// What it is for.
    pub kind: Kind,
    /// The prompt.
    pub prompt: String,
    /// One continuation.
    pub first: Candidate,
    /// The other one.
    pub second: Candidate,
}

/// A line of `plan.jsonl`: an item that a judge sees. The lines of a judge are in the order shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Judge, from 1.
    pub judge: usize,
    /// Item, from 0.
    pub item: usize,
    /// Whether the item's `second` is shown as text A.
    pub swapped: bool,
}

/// A study that was read from its folder.
#[derive(Debug)]
pub struct Study {
    /// Its folder.
    pub folder: PathBuf,
    /// `study.json`.
    pub header: Header,
    /// The items.
    pub items: Vec<Item>,
    /// The tasks of each judge, in order.
    pub plan: Vec<Vec<Task>>,
    /// Identifies the study to its answers: the digest of `study.json`, which holds those of the other files.
    pub(crate) digest: String,
}

/// What [`write`] needs besides the items and the plan.
pub(crate) struct Outline {
    pub(crate) seed: u64,
    pub(crate) scale: Scale,
    pub(crate) systems: Vec<String>,
    pub(crate) judges_per_item: usize,
}

/// Writes a study to a new folder, which appears once it is complete.
pub(crate) fn write(
    out: &Path,
    outline: Outline,
    items: &[Item],
    plan: &[Vec<Task>],
) -> Result<Header, Error> {
    let items_jsonl = lines(items, out)?;
    let tasks: Vec<Task> = plan.iter().flatten().copied().collect();
    let plan_jsonl = lines(&tasks, out)?;
    let checks = items.iter().filter(|item| item.kind == Kind::Check).count();
    let header = Header {
        format: FORMAT.into(),
        seed: outline.seed,
        scale: outline.scale,
        systems: outline.systems,
        comparisons: items.len() - checks,
        checks,
        judges: plan.len(),
        judges_per_item: outline.judges_per_item,
        items_sha256: sha256(items_jsonl.as_bytes()),
        plan_sha256: sha256(plan_jsonl.as_bytes()),
    };
    let json = serde_json::to_string_pretty(&header).map_err(|error| unusable(out, error.to_string()))?;
    let folder = AtomicFolder::create(out)?;
    for (name, text) in [(HEADER, json + "\n"), (ITEMS, items_jsonl), (PLAN, plan_jsonl)] {
        write_atomic(&folder.path().join(name), text.as_bytes())?;
    }
    folder.finish()?;
    Ok(header)
}

impl Study {
    /// Reads a study and checks it.
    ///
    /// # Errors
    /// When a file is missing or malformed, or `items.jsonl` or `plan.jsonl` was changed.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let bad = |problem: String| unusable(folder, problem);
        let text = read(folder, HEADER)?;
        let header: Header = serde_json::from_str(&text).map_err(|e| bad(format!("`{HEADER}`: {e}")))?;
        if header.format != FORMAT {
            return Err(bad(format!("its format is `{}`, expected `{FORMAT}`", header.format)));
        }
        let items: Vec<Item> = parse(folder, ITEMS, &header.items_sha256)?;
        let tasks: Vec<Task> = parse(folder, PLAN, &header.plan_sha256)?;
        let mut plan = vec![Vec::new(); header.judges];
        let mut seen = HashSet::new();
        for task in tasks {
            let of_judge = task.judge.checked_sub(1).and_then(|judge| plan.get_mut(judge));
            match of_judge {
                Some(of_judge) if task.item < items.len() && seen.insert((task.judge, task.item)) => {
                    of_judge.push(task);
                }
                _ => return Err(bad(format!("`{PLAN}` has the impossible or repeated task {task:?}"))),
            }
        }
        Ok(Self { folder: folder.into(), header, items, plan, digest: sha256(text.as_bytes()) })
    }
}

fn read(folder: &Path, name: &str) -> Result<String, Error> {
    let path = folder.join(name);
    fs::read_to_string(&path).map_err(Error::io("read", &path))
}

fn parse<T: DeserializeOwned>(folder: &Path, name: &str, digest: &str) -> Result<Vec<T>, Error> {
    let text = read(folder, name)?;
    if sha256(text.as_bytes()) != digest {
        return Err(unusable(folder, format!("`{name}` was changed after it was made")));
    }
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| unusable(folder, format!("`{name}`, line {}: {e}", index + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

fn lines<T: Serialize>(rows: &[T], out: &Path) -> Result<String, Error> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row).map_err(|error| unusable(out, error.to_string()))?;
        text.push('\n');
    }
    Ok(text)
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn unusable(folder: &Path, problem: String) -> Error {
    Error::Study { path: folder.into(), problem }
}
