//! A run to disturb, an undisturbed one to compare with, and a watch over child processes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::tally::{Bad, Good, Verdict};
use crate::faults::{Draws, difference};
use crate::support::{SMALL, World};

/// The steps of a run.
const STEPS: u64 = 6;
/// A run takes less than a second.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_MEMORY_KB: i64 = 4_000_000;

pub(super) struct Lab {
    pub(super) world: World,
    pub(super) draws: Draws,
    /// The time of an undisturbed run.
    pub(super) took: Duration,
    /// Flags of all runs.
    flags: String,
}

/// What a child process ended with.
pub(super) struct Ended {
    /// None if it had to be killed because it went on for ever.
    status: Option<ExitStatus>,
    stderr: String,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::of(World::new(), "--keep-last 2")
    }

    /// Runs with these flags in a world that was prepared for them.
    pub(super) fn of(world: World, flags: &str) -> Self {
        let mut lab = Self { world, draws: Draws(4), took: Duration::ZERO, flags: flags.to_owned() };
        lab.world.run(&lab.line("whole", STEPS)).success();
        let started = Instant::now();
        lab.world.run(&lab.line("again", STEPS)).success();
        lab.took = started.elapsed();
        assert_eq!(difference(&lab.world, "again", "whole"), None);
        fs::remove_dir_all(lab.world.path("again")).unwrap();
        lab
    }

    /// A run with checkpoints every second step.
    fn line(&self, run: &str, steps: u64) -> String {
        format!(
            "train --model model --train train.txt --valid valid.txt --scheduler constant --dropout 0.1 --save-every 2 --eval-every 2 \
            --out {run} --cache-dir cache-{run} --max-steps {steps} --resume auto --json {SMALL} {}",
            self.flags
        )
    }

    /// Removes the run, so that it begins anew.
    pub(super) fn clear(&self) {
        for folder in ["run", "cache-run"] {
            let path = self.world.path(folder);
            if path.exists() {
                fs::remove_dir_all(path).unwrap();
            }
        }
    }

    /// The program, which begins or continues the run.
    pub(super) fn program(&self) -> Command {
        self.program_until(STEPS)
    }

    pub(super) fn program_until(&self, steps: u64) -> Command {
        self.world.command(&self.line("run", steps))
    }

    /// The same as an argument of another program.
    pub(super) fn under(&self, program: &str, arguments: &[&str]) -> Command {
        wrap(program, arguments, &self.program())
    }

    /// Starts a command with its standard error in a file.
    pub(super) fn start(&self, command: &mut Command) -> Child {
        let stderr = File::create(self.world.path("stderr.txt")).unwrap();
        command.stdin(Stdio::null()).stderr(stderr).process_group(0).spawn().unwrap()
    }

    /// Waits for the end.
    pub(super) fn watch(&self, child: &mut Child) -> Ended {
        let started = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if started.elapsed() > PATIENCE => {
                    kill_group(child);
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let stderr = fs::read(self.world.path("stderr.txt")).unwrap();
        Ended { status, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }

    pub(super) fn run(&self, command: &mut Command) -> Ended {
        self.watch(&mut self.start(command.stdout(Stdio::null())))
    }

    /// Continues the run, which must end as the undisturbed one, with nothing left over.
    pub(super) fn resume(&self) -> Verdict {
        self.resume_by(&mut self.program())
    }

    /// The same with the program in another command.
    pub(super) fn resume_by(&self, command: &mut Command) -> Verdict {
        let ended = self.run(command);
        let told = ended.stderr.clone();
        if ended.judge()? == Good::Refused {
            return Err((Bad::Error, format!("not resumed: {told}")));
        }
        if let Some(difference) = difference(&self.world, "run", "whole") {
            return Err((Bad::Difference, format!("{difference}: {told}")));
        }
        let extra: Vec<String> = self.paths("run").difference(&self.paths("whole")).cloned().collect();
        match extra.is_empty() {
            true => Ok(Good::Equal),
            false => Err((Bad::Leftover, format!("{extra:?}"))),
        }
    }

    /// Temporary files and folders of the run and of its token cache.
    pub(super) fn temporaries(&self) -> BTreeSet<String> {
        self.paths("run")
            .into_iter()
            .filter(|path| path.ends_with(".tmp") || path.ends_with(".lock"))
            .collect()
    }

    /// What is in a run's folder and in its token cache, without what has a time in its name and what was set aside on purpose.
    fn paths(&self, run: &str) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        for (name, folder) in
            [("run", self.world.path(run)), ("cache", self.world.path(&format!("cache-{run}")))]
        {
            collect(&folder, name, &mut paths);
        }
        paths
    }
}

fn collect(folder: &Path, prefix: &str, paths: &mut BTreeSet<String>) {
    // A run that was ended early has none.
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("events.out.tfevents.") || name.contains(".set-aside") {
            continue;
        }
        let path = format!("{prefix}/{name}");
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), &path, paths);
        }
        paths.insert(path);
    }
}

impl Ended {
    /// A kill or success is what was wanted; an error must be clear.
    pub(super) fn judge(self) -> Verdict {
        let bad = |bad: Bad| Err((bad, self.stderr.clone()));
        let Some(status) = self.status else { return bad(Bad::Hang) };
        if status.code() == Some(101) || self.stderr.contains("panicked") {
            return bad(Bad::Panic);
        }
        // Of all children so far.
        let memory = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
        if memory > MAX_MEMORY_KB {
            return Err((Bad::Memory, format!("{memory} kB")));
        }
        match (status.code(), status.signal()) {
            (Some(0), _) | (None, Some(9)) | (Some(137), _) => Ok(Good::Equal),
            (Some(2), _) => Ok(Good::Refused),
            _ => Err((Bad::Error, format!("{status}: {}", self.stderr))),
        }
    }

    /// Whether it ended by itself with this status.
    pub(super) fn has_status(&self, status: i32) -> bool {
        self.status.is_some_and(|ended| ended.code() == Some(status))
    }

    /// A signal must end a command with this status and without an error, unless it had ended by itself.
    pub(super) fn judge_signal(self, status: i32) -> Verdict {
        match (self.has_status(status), self.stderr.contains("error: ")) {
            (true, false) => Ok(Good::Equal),
            (true, true) => Err((Bad::Error, self.stderr)),
            (false, _) => self.judge_with_message(),
        }
    }

    /// As [`Ended::judge`]; besides, an error must be one line that begins `error: `.
    pub(super) fn judge_with_message(self) -> Verdict {
        let lines = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        let told = self.stderr.clone();
        match self.judge()? {
            Good::Refused if lines != 1 => Err((Bad::Error, told)),
            good => Ok(good),
        }
    }
}

/// A command as the argument of another program, with the same environment and folder.
pub(super) fn wrap(program: &str, arguments: &[&str], inner: &Command) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).arg(inner.get_program()).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = inner.get_current_dir() {
        command.current_dir(folder);
    }
    command
}

/// Kills a command and all that it started.
pub(super) fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    // It may have ended just now.
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    child.wait().unwrap();
}

/// Kills what a command started, and waits for both: what it started may outlive a killed parent for a moment.
pub(super) fn kill_inner(child: &mut Child) {
    let id = child.id();
    let inner = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    match inner.split_whitespace().next() {
        Some(inner) => _ = Command::new("kill").args(["-KILL", inner]).stderr(Stdio::null()).status(),
        None => child.kill().unwrap(),
    }
    child.wait().unwrap();
}

/// Whether a program does what is needed here.
pub(super) fn can(program: &str, arguments: &[&str]) -> bool {
    let mut probe = Command::new(program);
    probe.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}
