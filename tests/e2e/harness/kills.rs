//! SIGKILL at random instants.

use std::process::Stdio;

use super::Scale;
use super::lab::{Lab, kill_group};
use super::tally::Tally;

pub(super) fn at_random_instants(lab: &mut Lab, scale: Scale) -> Vec<Tally> {
    let mut tally = Tally::new("SIGKILL at a random instant");
    for trial in 0..scale.trials(50) {
        lab.clear();
        let after = lab.took.mul_f64(lab.draws.below(1000) as f64 / 1000.0);
        let mut child = lab.start(lab.program().stdout(Stdio::null()));
        std::thread::sleep(after);
        kill_group(&mut child);
        tally.add(&format!("{trial} after {after:?}"), lab.resume());
    }
    vec![tally]
}
