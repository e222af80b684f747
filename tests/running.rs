//! A run of several processes, for tests of what ends it. Used by the tests of hosts, of MPI and of several GPUs.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::support::{World, without_times};

/// A run that goes on until it is stopped.
pub(crate) struct Running {
    pub(crate) launcher: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The last row that was read.
    pub(crate) last: Value,
}

impl Running {
    /// Starts the command of a launcher and waits until its run has made some steps.
    pub(crate) fn start(mut command: Command, steps: usize) -> Self {
        let mut launcher = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(launcher.stdout.take().unwrap()).lines();
        let mut running = Self { launcher, lines, last: Value::Null };
        (0..steps).for_each(|_| running.next_step());
        running
    }

    pub(crate) fn next_step(&mut self) {
        let line = self.lines.next().expect("the run goes on").unwrap();
        self.last = serde_json::from_str(&line).unwrap();
    }

    /// The launcher's child with this variable, as `NAME=VALUE`, in its environment.
    pub(crate) fn process_with(&self, variable: &str) -> String {
        let children = Command::new("pgrep").args(["-P", &self.launcher.id().to_string()]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let has = |id: &&str| {
            let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|own| own == variable.as_bytes())
        };
        children.lines().find(has).expect("a process of that rank").to_owned()
    }

    /// Exit status, messages and the rows that were not read.
    pub(crate) fn wait(self) -> (Option<i32>, String, Vec<Value>) {
        let rows =
            self.lines.map_while(Result::ok).map(|line| serde_json::from_str(&line).unwrap()).collect();
        let output = self.launcher.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), rows)
    }
}

pub(crate) fn send(signal: &str, id: &str) {
    assert!(Command::new("kill").args([signal, id]).status().unwrap().success());
}

/// Ends the run `run` with `rows_of` its command line; it must have the steps and the weights of one that was not disturbed. Returns the first
/// step after the interruption.
pub(crate) fn assert_continues_as_if_undisturbed(
    world: &World,
    line: impl Fn(&str) -> String,
    rows_of: impl Fn(&str) -> Vec<Value>,
) -> u64 {
    let rows = |line: &str| without_times(rows_of(line));
    let (resumed, whole) = (rows(&format!("{} --resume auto", line("run"))), rows(&line("undisturbed")));
    let steps = resumed.len() - 1;
    assert!(steps > 0 && steps < whole.len() - 1);
    assert_eq!(resumed[..steps], whole[whole.len() - 1 - steps..whole.len() - 1]);
    let weights = |out: &str| world.read(&format!("{out}/final/model.safetensors"));
    assert!(weights("run") == weights("undisturbed"), "the same weights bit for bit");
    resumed[0]["step"].as_u64().unwrap()
}
