//! Draws the items of a study.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use mixce_base::rng::{Stream, purpose};

use crate::error::Error;
use crate::plan::{Sizes, permutation, plan};
use crate::rows::Rows;
use crate::study::{Candidate, Header, Item, Kind, Outline, Scale, write};

/// Upper limit of every count; a larger number is a typo.
const MAX_COUNT: usize = 1_000_000;
/// Comparisons for each default check.
const TASKS_PER_CHECK: usize = 10;
/// Fewest words, and fewest characters of a text with fewer words (as in scripts without spaces), of a text that can be shuffled.
const MIN_WORDS: usize = 8;
const MIN_CHARS: usize = 16;

/// The settings of [`make`].
#[derive(Clone, Debug)]
pub struct MakeSettings {
    /// Human continuations, for the attention checks: JSON lines with `prompt`, and `continuation` or `text`.
    pub human: PathBuf,
    /// The systems, at least two, with the same prompts.
    pub systems: Vec<System>,
    /// Prompts to draw; every pair of systems is compared on each.
    pub items: usize,
    /// Number of judges.
    pub judges: usize,
    /// Judges of each comparison.
    pub judges_per_item: usize,
    /// Attention checks that each judge sees; by default one for every ten of a judge's comparisons, rounded up.
    pub checks: Option<usize>,
    /// Answers to choose from.
    pub scale: Scale,
    /// Seed of all draws.
    pub seed: u64,
}

/// The continuations of a system, in the format of [`MakeSettings::human`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Name, shown in results only.
    pub name: String,
    /// File.
    pub path: PathBuf,
}

impl System {
    /// Reads `NAME=FILE`, or `FILE`, which is named after its stem; an existing file may have `=` in its path.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let path = PathBuf::from(text);
        match text.split_once('=') {
            Some((name, file)) if !path.exists() => Self { name: name.into(), path: file.into() },
            _ => Self {
                name: path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
                path,
            },
        }
    }
}

/// Makes a study in the new folder `out`. The same settings and files give the same bytes.
///
/// An attention check is a human continuation of a prompt that is not among the items, against the same words in random order (the
/// same characters, for a text of fewer than eight words).
///
/// # Errors
/// When a file cannot be read, a row is malformed, a prompt is missing or occurs twice, a setting is out of range, there are too few
/// prompts, or the folder exists.
pub fn make(settings: &MakeSettings, out: &Path) -> Result<Header, Error> {
    check_counts(settings)?;
    let names = names(&settings.systems)?;
    let systems =
        settings.systems.iter().map(|system| Rows::read(&system.path)).collect::<Result<Vec<_>, _>>()?;
    let human = Rows::read(&settings.human)?;
    let first = &systems[0];
    for other in &systems[1..] {
        other.must_cover(first)?;
        first.must_cover(other)?;
    }
    human.must_cover(first)?;
    let available = first.prompts.len();
    let range = |name, expected, got: usize| Error::Setting { name, expected, got: got.to_string() };
    if settings.items > available {
        return Err(range(
            "items",
            format!("at most the {available} prompts of the systems"),
            settings.items,
        ));
    }
    let stream = Stream::new(settings.seed).fold(purpose::JUDGE);
    let drawn = permutation(stream.fold(0), available);
    let prompts: Vec<&str> = drawn[..settings.items].iter().map(|&i| first.prompts[i].as_str()).collect();
    let mut items = comparisons(&prompts, &names, &systems)?;
    let pairs = items.len() / prompts.len();
    let per_judge = (items.len() * settings.judges_per_item).div_ceil(settings.judges);
    let checks = settings.checks.unwrap_or(per_judge.div_ceil(TASKS_PER_CHECK));
    items.extend(self::checks(&prompts, &human, checks, stream.fold(1))?);
    let (judges, judges_per_item) = (settings.judges, settings.judges_per_item);
    let sizes = Sizes { prompts: prompts.len(), pairs, checks, judges, judges_per_item };
    let plan = plan(sizes, stream.fold(2));
    let outline = Outline { seed: settings.seed, scale: settings.scale, systems: names, judges_per_item };
    write(out, outline, &items, &plan)
}

fn check_counts(settings: &MakeSettings) -> Result<(), Error> {
    let counts = [
        ("items", settings.items, 1),
        ("judges", settings.judges, 1),
        ("judges_per_item", settings.judges_per_item, 1),
        ("attention", settings.checks.unwrap_or(0), 0),
    ];
    for (name, got, least) in counts {
        if !(least..=MAX_COUNT).contains(&got) {
            let expected = format!("{least} to {MAX_COUNT}");
            return Err(Error::Setting { name, expected, got: got.to_string() });
        }
    }
    if settings.judges_per_item > settings.judges {
        let expected = format!("at most the number of judges, {}", settings.judges);
        return Err(Error::Setting {
            name: "judges_per_item",
            expected,
            got: settings.judges_per_item.to_string(),
        });
    }
    if settings.systems.len() < 2 {
        let got = settings.systems.len().to_string();
        return Err(Error::Setting { name: "systems", expected: "at least 2 files".into(), got });
    }
    Ok(())
}

/// The names of the systems, which must differ.
fn names(systems: &[System]) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = Vec::new();
    for System { name, path } in systems {
        if name.is_empty() || names.contains(name) {
            let expected = "a different name for each system (`NAME=FILE` gives one)".into();
            return Err(Error::Setting { name: "systems", expected, got: path.display().to_string() });
        }
        names.push(name.clone());
    }
    Ok(names)
}

/// Every pair of systems on every prompt, pair by pair.
fn comparisons(prompts: &[&str], names: &[String], systems: &[Rows]) -> Result<Vec<Item>, Error> {
    let candidate = |system: usize, prompt: &str| {
        let text = systems[system].get(prompt).ok_or_else(|| Error::MissingPrompt {
            path: systems[system].path.clone(),
            prompt: prompt.into(),
            of: systems[0].path.clone(),
            missing: 1,
        })?;
        Ok::<_, Error>(Candidate { system: names[system].clone(), text: text.into() })
    };
    let mut items = Vec::new();
    for first in 0..systems.len() {
        for second in first + 1..systems.len() {
            for &prompt in prompts {
                items.push(Item {
                    kind: Kind::Comparison,
                    prompt: prompt.into(),
                    first: candidate(first, prompt)?,
                    second: candidate(second, prompt)?,
                });
            }
        }
    }
    Ok(items)
}

fn checks(prompts: &[&str], human: &Rows, wanted: usize, stream: Stream) -> Result<Vec<Item>, Error> {
    let used: HashSet<&str> = prompts.iter().copied().collect();
    let order = permutation(stream.fold(0), human.prompts.len());
    let unused =
        order.into_iter().map(|i| &human.prompts[i]).filter(|prompt| !used.contains(prompt.as_str()));
    let check = |(number, prompt): (usize, &String)| {
        let text = human.get(prompt)?;
        let shuffled = shuffled(text, stream.fold(1).fold(number as u64))?;
        let candidate = |system: &str, text: String| Candidate { system: system.into(), text };
        Some(Item {
            kind: Kind::Check,
            prompt: prompt.clone(),
            first: candidate("human", text.into()),
            second: candidate("shuffled", shuffled),
        })
    };
    let items: Vec<Item> = unused.enumerate().filter_map(check).take(wanted).collect();
    if items.len() < wanted {
        return Err(Error::TooFewChecks { wanted, items: prompts.len(), found: items.len() });
    }
    Ok(items)
}

/// The words of a text in random order, or its characters if it has few words; `None` for a text that is too short, or that
/// hardly changes because its words repeat.
fn shuffled(text: &str, stream: Stream) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (units, separator): (Vec<String>, &str) = if words.len() >= MIN_WORDS {
        (words.into_iter().map(str::to_owned).collect(), " ")
    } else {
        let chars: Vec<String> = text.chars().filter(|c| !c.is_whitespace()).map(String::from).collect();
        (chars.len() >= MIN_CHARS).then_some((chars, ""))?
    };
    let moved: Vec<&String> = permutation(stream, units.len()).into_iter().map(|i| &units[i]).collect();
    let unchanged = moved.iter().zip(&units).filter(|(a, b)| **a == *b).count();
    let start = if text.starts_with(char::is_whitespace) { " " } else { "" };
    let text = moved.into_iter().map(String::as_str).collect::<Vec<_>>().join(separator);
    (2 * unchanged < units.len()).then(|| format!("{start}{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_have_names() {
        let system = |name: &str, path: &str| System { name: name.into(), path: path.into() };
        assert_eq!(System::parse("runs/mle.jsonl"), system("mle", "runs/mle.jsonl"));
        assert_eq!(System::parse("mle=runs/a=b/dev.jsonl"), system("mle", "runs/a=b/dev.jsonl"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eta=0.1.jsonl").display().to_string();
        std::fs::write(&path, "").unwrap();
        assert_eq!(System::parse(&path), system("eta=0.1", &path));
    }

    #[test]
    fn words_or_characters_are_shuffled() {
        let text = " one two three four five six seven eight";
        let made = shuffled(text, Stream::new(1)).unwrap();
        assert!(made.starts_with(' ') && made != text);
        let sorted = |text: &str| {
            let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&made), sorted(text));
        let chinese = "海内存知己天涯若比邻无为在歧路儿女";
        assert_eq!(shuffled(chinese, Stream::new(1)).unwrap().chars().count(), chinese.chars().count());
        assert_eq!(shuffled("too short", Stream::new(1)), None);
        assert_eq!(shuffled(&"again ".repeat(40), Stream::new(1)), None);
    }
}
