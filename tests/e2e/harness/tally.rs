//! Counts of what trials ended in.

use std::fmt::Write as _;

/// How a trial ended well.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Good {
    /// With the result of an undisturbed run.
    Equal,
    /// With an error that says what is wrong, nothing else having changed.
    Refused,
    /// With another result, after a change of a file that a user may edit (it has no checksum).
    Edited,
}

/// How a trial ended badly.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    Panic,
    Hang,
    Memory,
    Difference,
    Leftover,
    /// An error where there should be none, or one that does not say what is wrong.
    Error,
}

/// How a trial ended, with the details of what is bad.
pub(super) type Verdict = Result<Good, (Bad, String)>;

/// Trials of one kind.
pub(super) struct Tally {
    kind: String,
    verdicts: Vec<Result<Good, Bad>>,
    problems: Vec<String>,
    skipped: Option<String>,
}

impl Tally {
    pub(super) fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), verdicts: Vec::new(), problems: Vec::new(), skipped: None }
    }

    /// A kind that cannot be tried here.
    #[expect(clippy::print_stderr, reason = "says what was not tried")]
    pub(super) fn skipped(kind: impl Into<String>, why: &str) -> Self {
        let tally = Self { skipped: Some(why.to_owned()), ..Self::new(kind) };
        eprintln!("skipped: {}: {why}", tally.kind);
        tally
    }

    #[expect(clippy::print_stderr, reason = "says at once what was found")]
    pub(super) fn add(&mut self, trial: &str, verdict: Verdict) {
        if let Err((_, details)) = &verdict {
            let problem = format!("{}, {trial}: {details}", self.kind);
            eprintln!("{problem}");
            self.problems.push(problem);
        }
        self.verdicts.push(verdict.map_err(|(bad, _)| bad));
    }

    pub(super) fn trials(&self) -> usize {
        self.verdicts.len()
    }

    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    fn count(&self, verdict: Result<Good, Bad>) -> usize {
        self.verdicts.iter().filter(|other| **other == verdict).count()
    }
}

/// The Markdown table of the documentation.
pub(super) fn table(tallies: &[Tally]) -> String {
    let columns = [
        ("equal result", Ok(Good::Equal)),
        ("clear error", Ok(Good::Refused)),
        ("other result, no checksum", Ok(Good::Edited)),
        ("panics", Err(Bad::Panic)),
        ("hangs", Err(Bad::Hang)),
        ("over 4 GB", Err(Bad::Memory)),
        ("silent differences", Err(Bad::Difference)),
        ("leftovers", Err(Bad::Leftover)),
        ("wrong errors", Err(Bad::Error)),
    ];
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let mut text = format!("| fault | trials | {} |\n|", names.join(" | "));
    text += &" --- |".repeat(columns.len() + 2);
    text.push('\n');
    for tally in tallies {
        let counts: Vec<String> = match &tally.skipped {
            Some(why) => vec![format!("skipped: {why}")],
            None => columns.iter().map(|(_, verdict)| tally.count(*verdict).to_string()).collect(),
        };
        let _ = writeln!(text, "| {} | {} | {} |", tally.kind, tally.trials(), counts.join(" | "));
    }
    text
}
