//! Folders that become read-only under a run.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Scale;
use super::lab::{Lab, can};
use super::tally::{Good, Tally, Verdict};

/// Root may write everywhere, unless it gives this up.
const BOUND: [&str; 1] = ["--bounding-set=-dac_override,-dac_read_search"];

pub(super) fn read_only_folders(lab: &mut Lab, scale: Scale) -> Vec<Tally> {
    let kind = "the run folder read-only from step N on";
    let probe = lab.world.path("probe");
    fs::create_dir(&probe).unwrap();
    set_mode(&probe, 0o555);
    let may_write_anywhere = fs::write(probe.join("file"), "").is_ok();
    if may_write_anywhere && !can("setpriv", &[BOUND[0], "true"]) {
        return vec![Tally::skipped(
            kind,
            "root may write anywhere, and there is no setpriv to give that up",
        )];
    }
    let mut tally = Tally::new(kind);
    for step in (1..=5).take(scale.trials(5)) {
        let mut program = if may_write_anywhere { lab.under("setpriv", &BOUND) } else { lab.program() };
        tally.add(&format!("step {step}"), trial(lab, &mut program, step));
    }
    vec![tally]
}

fn trial(lab: &Lab, program: &mut Command, step: usize) -> Verdict {
    lab.clear();
    let mut child = lab.start(program.stdout(Stdio::piped()));
    let mut rows = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut steps = 0;
    while steps < step {
        let Some(row) = rows.next() else { break };
        steps += usize::from(row.unwrap().contains("\"loss\""));
    }
    let run = lab.world.path("run");
    set_mode(&run, 0o555);
    rows.for_each(drop);
    let ended = lab.watch(&mut child);
    set_mode(&run, 0o755);
    let first = ended.judge_with_message()?;
    lab.resume().map(|good| if first == Good::Refused { first } else { good })
}

/// Of a folder and all below it.
fn set_mode(folder: &Path, mode: u32) {
    // A temporary folder may just have got its final name.
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(mode));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for folder in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        set_mode(&folder, mode);
    }
}
