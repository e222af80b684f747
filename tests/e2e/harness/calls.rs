//! Kills and errors at chosen system calls, which strace injects.

use std::collections::BTreeMap;
use std::fs;

use super::Scale;
use super::lab::{Lab, can};
use super::tally::{Tally, Verdict};

/// Calls that change what is on the disk, without their data. A question mark: not every processor has it.
const NAMES: [(&str, &str); 4] = [
    ("rename", "?rename,?renameat,?renameat2"),
    ("mkdir", "?mkdir,?mkdirat"),
    ("unlink", "?unlink,?unlinkat,?rmdir"),
    ("fsync", "?fsync,?fdatasync"),
];
/// Those that write data.
const WRITES: &str = "?write,?writev,?pwrite64,?copy_file_range,?sendfile,?ftruncate,?fallocate";

pub(super) fn kills_and_errors(lab: &mut Lab, scale: Scale) -> Vec<Tally> {
    let groups = NAMES.iter().chain([&("write", WRITES)]);
    if !can("strace", &["-f", "-o", "/dev/null", "true"]) {
        let why = "strace is not installed or not permitted";
        return vec![Tally::skipped("kills and errors at system calls", why)];
    }
    let mut tallies = Vec::new();
    for (group, calls) in groups {
        let places = places(lab, calls);
        assert!(!places.is_empty(), "a run without {group}");
        let mut injections: Vec<&Injection> =
            Injection::ALL.iter().filter(|injection| injection.fits(group)).collect();
        if let Scale::Sample(_) = scale {
            injections = vec![injections[lab.draws.below(injections.len())]];
        }
        for injection in injections {
            let mut tally = Tally::new(injection.kind(group));
            for (call, nth) in chosen(lab, scale, &places) {
                tally.add(&format!("{call} {nth}"), injection.trial(lab, &call, nth));
            }
            tallies.push(tally);
        }
    }
    tallies
}

enum Injection {
    /// SIGKILL instead of the call.
    Kill,
    /// The call fails, once.
    Fail(&'static str),
    /// It fails from then on.
    FailForGood(&'static str),
}

impl Injection {
    const ALL: [Self; 5] = [
        Self::Kill,
        Self::Fail("ENOSPC"),
        Self::Fail("EIO"),
        Self::FailForGood("ENOSPC"),
        Self::FailForGood("EIO"),
    ];

    /// What can happen to these calls: an unlink needs no space.
    fn fits(&self, group: &str) -> bool {
        match self {
            Self::Kill => true,
            Self::Fail("ENOSPC") => group != "unlink",
            Self::Fail(_) => true,
            Self::FailForGood(_) => group == "write",
        }
    }

    fn kind(&self, group: &str) -> String {
        match self {
            Self::Kill => format!("SIGKILL at each `{group}`"),
            Self::Fail(error) => format!("{error} at each `{group}`"),
            Self::FailForGood(error) => format!("{error} from each `{group}` on"),
        }
    }

    fn trial(&self, lab: &Lab, call: &str, nth: usize) -> Verdict {
        let inject = match self {
            Self::Kill => format!("inject={call}:signal=KILL:when={nth}"),
            Self::Fail(error) => format!("inject={call}:error={error}:when={nth}"),
            Self::FailForGood(error) => format!("inject={call}:error={error}:when={nth}+"),
        };
        lab.clear();
        let ended = lab.run(&mut strace(lab, call, &["-e", &inject, "-o", "/dev/null"]));
        // The message cannot be written either if all writes fail.
        let first = match self {
            Self::Fail(_) => ended.judge_with_message(),
            _ => ended.judge(),
        }?;
        lab.resume().map(|_| first)
    }
}

/// `strace` of these calls in all threads.
fn strace(lab: &Lab, calls: &str, arguments: &[&str]) -> std::process::Command {
    let trace = format!("trace={calls}");
    let first = ["-f", "-qq", "-e", &trace, "-e", "signal=none"];
    lab.under("strace", &[&first, arguments].concat())
}

/// The calls of an undisturbed run, numbered by thread as strace does: for each call its largest number.
fn places(lab: &Lab, calls: &str) -> BTreeMap<String, usize> {
    lab.clear();
    let log = lab.world.path("calls.txt");
    lab.run(&mut strace(lab, calls, &["-o", log.to_str().unwrap()])).judge().ok().unwrap();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        // `1234  rename("a", "b") = 0`; a call that another thread interrupts has a second line, `<... rename resumed>`.
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            *counts.entry((thread.to_owned(), call.to_owned())).or_default() += 1;
        }
    }
    let mut largest = BTreeMap::new();
    for ((_, call), count) in counts {
        let known: &mut usize = largest.entry(call).or_default();
        *known = count.max(*known);
    }
    largest
}

/// All places, or some at random.
fn chosen(lab: &mut Lab, scale: Scale, places: &BTreeMap<String, usize>) -> Vec<(String, usize)> {
    let all: Vec<(String, usize)> =
        places.iter().flat_map(|(call, &count)| (1..=count).map(|nth| (call.clone(), nth))).collect();
    match scale {
        Scale::Whole => all,
        Scale::Sample(_) => (0..scale.trials(all.len()).div_ceil(2))
            .map(|_| all[lab.draws.below(all.len())].clone())
            .collect(),
    }
}
