//! The fault harness: every kind of fault under a short run in a child process, seeded and counted.
//!
//! The suite runs a few trials of each kind. All of them, with the table of `docs/src/reliability.md`:
//! `cargo test --workspace --test e2e -- --ignored --nocapture --test-threads=1 harness::all`.

mod calls;
mod containers;
mod corruption;
mod kills;
mod lab;
mod permissions;
mod signals;
mod tally;

use std::time::Instant;

use lab::Lab;
use tally::{Tally, table};

/// How many trials of a kind are made.
#[derive(Clone, Copy)]
enum Scale {
    /// This many, at random.
    Sample(usize),
    Whole,
}

impl Scale {
    /// `whole` trials, or fewer.
    fn trials(self, whole: usize) -> usize {
        match self {
            Self::Sample(trials) => trials.min(whole),
            Self::Whole => whole,
        }
    }
}

type Kind = fn(&mut Lab, Scale) -> Vec<Tally>;

fn check(tallies: &[Tally]) {
    let problems: Vec<&String> = tallies.iter().flat_map(Tally::problems).collect();
    assert!(problems.is_empty(), "{} problems: {problems:#?}", problems.len());
}

#[test]
fn a_sample_of_all_faults_harms_nothing() {
    let kinds: [Kind; 6] = [
        kills::at_random_instants,
        signals::in_every_phase,
        calls::kills_and_errors,
        permissions::read_only_folders,
        containers::restarts,
        corruption::of_files,
    ];
    let mut lab = Lab::new();
    let tallies: Vec<Tally> = kinds.into_iter().flat_map(|kind| kind(&mut lab, Scale::Sample(1))).collect();
    check(&tallies);
    assert!(tallies.iter().any(|tally| tally.trials() > 0));
}

#[expect(clippy::print_stdout, reason = "the result")]
fn whole(kind: Kind) {
    let started = Instant::now();
    let tallies = kind(&mut Lab::new(), Scale::Whole);
    println!("{}{} s", table(&tallies), started.elapsed().as_secs());
    check(&tallies);
}

#[test]
#[ignore = "takes minutes; prints a part of the documentation's table"]
fn all_kills_at_random_instants() {
    whole(kills::at_random_instants);
}

#[test]
#[ignore = "takes minutes; prints a part of the documentation's table"]
fn all_signals_in_every_phase() {
    whole(signals::in_every_phase);
}

#[test]
#[ignore = "takes minutes; prints a part of the documentation's table"]
fn all_kills_and_errors_at_system_calls() {
    whole(calls::kills_and_errors);
}

#[test]
#[ignore = "takes minutes; prints a part of the documentation's table"]
fn all_read_only_folders() {
    whole(permissions::read_only_folders);
}

#[test]
#[ignore = "takes minutes; prints a part of the documentation's table"]
fn all_containers() {
    whole(containers::restarts);
}

#[test]
#[ignore = "takes minutes; prints a part of the documentation's table"]
fn all_damaged_files() {
    whole(corruption::of_files);
}
