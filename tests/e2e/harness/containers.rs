//! Containers: the program is process 1 of its own process namespace, at every start again.

use std::process::Stdio;

use super::Scale;
use super::lab::{Lab, can, kill_inner, wrap};
use super::tally::{Bad, Good, Tally, Verdict};
use crate::faults::difference;

const UNSHARE: [&str; 5] = ["-r", "--pid", "--fork", "--mount-proc", "--kill-child"];

pub(super) fn restarts(lab: &mut Lab, scale: Scale) -> Vec<Tally> {
    if !can("unshare", &[&UNSHARE[..], &["true"]].concat()) {
        return vec![Tally::skipped("containers", "process namespaces are not permitted")];
    }
    let mut killed = Tally::new("container killed and restarted, three times each");
    for trial in 0..scale.trials(20) {
        killed.add(&trial.to_string(), kill_three_times(lab));
    }
    let mut together = Tally::new("two containers at once, one token cache");
    for trial in 0..scale.trials(10) {
        together.add(&trial.to_string(), two_at_once(lab));
    }
    vec![killed, together]
}

fn kill_three_times(lab: &mut Lab) -> Verdict {
    lab.clear();
    for _ in 0..3 {
        let mut child = lab.start(lab.under("unshare", &UNSHARE).stdout(Stdio::null()));
        std::thread::sleep(lab.took.mul_f64(lab.draws.below(1000) as f64 / 1000.0));
        kill_inner(&mut child);
    }
    lab.resume_by(&mut lab.under("unshare", &UNSHARE))
}

fn two_at_once(lab: &Lab) -> Verdict {
    lab.clear();
    let other = lab.world.path("other");
    if other.exists() {
        std::fs::remove_dir_all(&other).unwrap();
    }
    let program = lab.program();
    let mut second = lab.world.command("");
    let renamed = program.get_args().map(|word| if word == "run" { "other".as_ref() } else { word });
    second.args(renamed);
    let mut children: Vec<_> = [&program, &second]
        .map(|inner| lab.start(wrap("unshare", &UNSHARE, inner).stdout(Stdio::null())))
        .into();
    for child in &mut children {
        let ended = lab.watch(child);
        if ended.judge()? == Good::Refused {
            return Err((Bad::Error, "one of two runs is refused".to_owned()));
        }
    }
    match difference(&lab.world, "other", "whole") {
        Some(difference) => Err((Bad::Difference, difference)),
        None => lab.resume(),
    }
}
