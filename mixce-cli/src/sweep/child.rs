//! Runs this program's own commands as child processes.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mixce_train::distributed::Launched;

/// The exit statuses of a command that a signal ended in an orderly way: SIGINT, SIGTERM.
const BY_SIGNAL: [i32; 2] = [130, 143];
/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(20);
/// A console sends Ctrl-C to the commands too, and ending them would lose their progress: time for them to report it. Elsewhere they are told in a
/// way that does not end those that know.
const GRACE: Duration = Duration::from_millis(if cfg!(unix) { 0 } else { 1500 });

/// A command that did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Ctrl-C.
    Stopped,
    /// It failed: its error message.
    Failed(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

/// Starts commands.
#[derive(Debug)]
pub(super) struct Commands<'a> {
    program: PathBuf,
    /// Flags of every command.
    global: Vec<String>,
    stop: &'a AtomicBool,
}

impl<'a> Commands<'a> {
    /// Commands of this program with these flags, which end when `stop` is set.
    pub(super) fn new(global: Vec<String>, stop: &'a AtomicBool) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        Ok(Self { program, global, stop })
    }

    /// Whether no further command should begin.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs a command and returns its stdout. The command line and its stderr are appended to the log, if there is one.
    pub(super) fn run(&self, words: &[String], log: Option<&Path>) -> Result<String, Failure> {
        if self.is_stopped() {
            return Err(Failure::Stopped);
        }
        let mut words = words.to_vec();
        words.extend(self.global.iter().cloned());
        let told = || format!("cannot write `{}`", log.unwrap_or(Path::new("the log")).display());
        let open = |path: &Path| File::options().create(true).append(true).open(path);
        let mut log: Box<dyn Write + Send> = match log {
            Some(path) => Box::new(open(path).with_context(told)?),
            None => Box::new(io::sink()),
        };
        writeln!(log, "$ mixce {}", shell_line(&words)).with_context(told)?;
        let mut command = Command::new(&self.program);
        // A launcher may have started the sweep several times, for shards; its commands are single processes.
        for variable in Launched::variables() {
            command.env_remove(variable);
        }
        let child = command
            .args(&words)
            .args(["--color", "never"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.program.display()))?;
        let ended = self.follow(child, &mut *log).context("cannot follow a command")?;
        writeln!(log, "# {}", ended.status).with_context(told)?;
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        if self.was_stopped(ended.status) {
            return Err(Failure::Stopped);
        }
        let told = ended.error.unwrap_or_else(|| ended.status.to_string());
        Err(Failure::Failed(format!("`mixce {}`: {told}", words.first().map_or("", String::as_str))))
    }

    /// Waits for the end, and passes Ctrl-C on.
    fn follow(&self, mut child: Child, log: &mut (dyn Write + Send)) -> io::Result<Ended> {
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let has_heard = AtomicBool::new(false);
        thread::scope(|scope| {
            let stdout = scope.spawn(move || {
                let mut text = String::new();
                out.map_or(Ok(0), |mut out| out.read_to_string(&mut text)).map(|_| text)
            });
            let stderr: ScopedJoinHandle<'_, io::Result<Option<String>>> = scope.spawn(|| {
                let mut error = None;
                for line in err.into_iter().flat_map(|err| BufReader::new(err).lines()) {
                    let line = line?;
                    writeln!(log, "{line}")?;
                    if line.starts_with("stopping: ") {
                        has_heard.store(true, Ordering::Relaxed);
                    }
                    if let Some(told) = line.strip_prefix("error: ") {
                        error = Some(told.to_owned());
                    }
                }
                Ok(error)
            });
            let status = self.wait(&mut child, &has_heard)?;
            let lost = |_| io::Error::other("a reader of its output ended");
            let stdout = stdout.join().map_err(lost)??;
            Ok(Ended { status, stdout, error: stderr.join().map_err(lost)?? })
        })
    }

    fn wait(&self, child: &mut Child, has_heard: &AtomicBool) -> io::Result<ExitStatus> {
        let mut stopped_at: Option<Instant> = None;
        let mut is_told = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.is_stopped() {
                let waited = stopped_at.get_or_insert_with(Instant::now).elapsed();
                if !is_told && waited >= GRACE && !has_heard.load(Ordering::Relaxed) {
                    stop(child)?;
                    is_told = true;
                }
            }
            thread::sleep(POLL);
        }
    }

    /// Whether a failed command ended because of a signal, which may reach it before this process.
    fn was_stopped(&self, status: ExitStatus) -> bool {
        let by_signal = status.code().is_none_or(|code| BY_SIGNAL.contains(&code));
        if by_signal && !self.is_stopped() {
            thread::sleep(Duration::from_millis(200));
        }
        by_signal && self.is_stopped()
    }
}

/// An ended command.
struct Ended {
    status: ExitStatus,
    stdout: String,
    /// The last error that it reported.
    error: Option<String>,
}

#[cfg(unix)]
fn stop(child: &mut Child) -> io::Result<()> {
    use nix::sys::signal::kill;
    use nix::unistd::Pid;
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    // It is not reaped yet, so the number is still its own.
    kill(Pid::from_raw(id), crate::interrupt::PASSED_ON).map_err(io::Error::from)
}

/// Without signals, a command is ended; finished steps and checkpoints are kept.
#[cfg(not(unix))]
fn stop(child: &mut Child) -> io::Result<()> {
    child.kill()
}

/// The words as they can be typed into a shell.
fn shell_line(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quoted = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_be_typed_into_a_shell() {
        let words = ["train", "--lr", "1e-3", "a b", "it's", "", "topp(p=0.9)"].map(str::to_owned);
        assert_eq!(shell_line(&words), r"train --lr 1e-3 'a b' 'it'\''s' '' 'topp(p=0.9)'");
    }
}
