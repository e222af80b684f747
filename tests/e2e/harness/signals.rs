//! SIGINT and SIGTERM in every phase of training: the run ends soon with the status of the signal, and continues as if it had not been stopped.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::Scale;
use super::lab::Lab;
use super::tally::{Bad, Tally, Verdict};
use crate::interrupt::{send, wait_until_ready};
use crate::support::{World, corpus};

/// A second when the machine is idle.
const SOON: Duration = Duration::from_secs(4);

/// One checkpoint: an interrupted run keeps others than an undisturbed one.
const FLAGS: &str = "--keep-last 1";
const SELECT: &str =
    "--keep-last 1 --select mauve --select-featurizer model --select-documents 12 --select-prompt-length 3";

/// A phase and the moment at which it has begun.
enum Phase {
    /// The program handles signals.
    Loading,
    /// The token cache is being written.
    Encoding,
    /// This many steps are reported, the next one is computed.
    Training,
    /// The second step is reported, which is followed by an evaluation of many documents.
    Evaluating,
    /// The same, with samples that are scored.
    Selecting,
    /// A checkpoint has begun.
    Saving,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Loading, Self::Encoding, Self::Training, Self::Evaluating, Self::Selecting, Self::Saving];

    fn name(&self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Encoding => "encoding",
            Self::Training => "training",
            Self::Evaluating => "evaluating",
            Self::Selecting => "selecting by MAUVE",
            Self::Saving => "saving a checkpoint",
        }
    }

    /// A run in which the phase takes long enough to be met.
    fn lab(&self) -> Lab {
        let world = World::new();
        match self {
            Self::Encoding => world.write("train.txt", corpus(20_000, 1)),
            Self::Evaluating => world.write("valid.txt", corpus(3_000, 2)),
            _ => {}
        }
        Lab::of(world, if matches!(self, Self::Selecting) { SELECT } else { FLAGS })
    }

    /// Waits until the phase has begun, and then for a random moment.
    fn wait(&self, lab: &mut Lab, program: &mut Child) {
        let stdout = program.stdout.take().unwrap();
        let mut rows = BufReader::new(stdout).lines();
        let mut steps = |n: usize| {
            let is_step = |row: &String| row.contains("\"loss\"");
            let reported = rows.by_ref().map_while(Result::ok).filter(is_step).take(n).count();
            assert_eq!(reported, n, "the run ended early");
        };
        let most = match self {
            Self::Loading => 0.1,
            Self::Encoding | Self::Saving => 0.02,
            Self::Training => 0.1,
            Self::Evaluating | Self::Selecting => 0.3,
        };
        match self {
            Self::Loading => wait_until_ready(program),
            Self::Encoding => wait_for_temporary(lab, program, "cache-run"),
            Self::Training => steps(1 + 2 * lab.draws.below(3)),
            Self::Evaluating | Self::Selecting => steps(2),
            Self::Saving => wait_for_temporary(lab, program, "run/checkpoints"),
        }
        std::thread::sleep(lab.took.mul_f64(most * lab.draws.below(1000) as f64 / 1000.0));
        // Somebody must go on reading.
        std::thread::spawn(move || rows.for_each(drop));
    }
}

/// Waits until a folder has a temporary file or folder, or the program has ended.
fn wait_for_temporary(lab: &Lab, program: &mut Child, folder: &str) {
    let folder = lab.world.path(folder);
    let has_one = || {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().ends_with(".tmp"))
    };
    while !has_one() && program.try_wait().unwrap().is_none() {}
}

pub(super) fn in_every_phase(_: &mut Lab, scale: Scale) -> Vec<Tally> {
    let mut tallies = Vec::new();
    for phase in &Phase::ALL {
        let mut lab = phase.lab();
        let mut tally = Tally::new(format!("SIGINT or SIGTERM while {}", phase.name()));
        let (trials, mut met) = (scale.trials(20), 0);
        for trial in 0..trials {
            let (signal, status) = [("-INT", 130), ("-TERM", 143)][lab.draws.below(2)];
            let verdict = self::trial(&mut lab, phase, (signal, status), &mut met);
            tally.add(&format!("{trial}, {signal}"), verdict);
        }
        // Now and then a run ends before its signal.
        assert!(met >= trials / 2, "only {met} of {trials} runs were met while {}", phase.name());
        tallies.push(tally);
    }
    tallies
}

/// Counts the runs that were ended by the signal.
fn trial(lab: &mut Lab, phase: &Phase, (signal, status): (&str, i32), met: &mut usize) -> Verdict {
    lab.clear();
    let mut program = lab.start(lab.program().stdout(Stdio::piped()));
    phase.wait(lab, &mut program);
    let sent = Instant::now();
    if program.try_wait().unwrap().is_none() {
        send(signal, &program);
    }
    let ended = lab.watch(&mut program);
    let took = sent.elapsed();
    *met += usize::from(ended.has_status(status));
    ended.judge_signal(status)?;
    if took > SOON {
        return Err((Bad::Hang, format!("it ended after {took:?}")));
    }
    let left = lab.temporaries();
    if !left.is_empty() {
        return Err((Bad::Leftover, format!("{left:?}")));
    }
    lab.resume()
}
