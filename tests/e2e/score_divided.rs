//! Scoring by several processes.

use std::fs;
use std::path::PathBuf;

use crate::support::{Outcome, World, corpus, torchrun};

/// Sets of more texts than a file of the cache has, of which the second is shorter.
fn world() -> World {
    let world = World::new();
    world.write("human.txt", corpus(600, 3));
    world.write("good.txt", corpus(600, 4));
    world.write("short.txt", corpus(300, 5));
    world
}

const TEXTS: &str = "score --human human.txt --model-text good.txt short.txt --threads 1 --device cpu --json";

/// Runs a command on several processes and compares its output with that of one.
fn assert_same(world: &World, size: usize, line: &str, alone: &Outcome) {
    let outcomes = torchrun(size, line, || world.command(line));
    let said = |outcome: &Outcome| (outcome.status, outcome.stdout.clone(), outcome.stderr.clone());
    assert_eq!(said(&outcomes[0]), said(alone), "`mixce {line}` on {size}");
    for other in &outcomes[1..] {
        assert_eq!(said(other), (Some(0), String::new(), String::new()), "`mixce {line}` on {size}");
    }
}

#[test]
fn scores_are_those_of_one_process() {
    let world = world();
    for flags in [
        "--metrics mauve,diversity --featurizer model --mauve-seeds 2 --per-text values.json --overwrite",
        "--metrics coherence,length --embedder {fixtures}/encoder --prompt-length 3 --tokenizer {tokenizer}",
        "--metrics controlled-mauve,controlled-coherence --featurizer model --embedder {fixtures}/encoder \
         --prompt-length 3 --window-tokens 7,1000 --windows 300 --mauve-seeds 1",
        // No model: nothing to divide.
        "--metrics diversity,zipf",
    ] {
        let line = format!("{TEXTS} {flags} --no-cache");
        let alone = world.run(&line).success();
        let values = fs::read(world.path("values.json")).unwrap();
        for size in [2, 3] {
            assert_same(&world, size, &line, &alone);
            assert_eq!(fs::read(world.path("values.json")).unwrap(), values);
        }
    }
}

#[test]
fn features_of_files_need_no_division() {
    let world = World::new();
    let features = "score --human-features a.npy --model-features a.npy --mauve-seeds 1 --threads 1 --json";
    world.write("a.npy", crate::score::npy(300, 4, |row, column| crate::score::noise(row, column, 1)));
    let alone = world.run(features).success();
    assert_same(&world, 2, features, &alone);
}

/// The files of a cache with their contents, in order.
fn files(world: &World, cache: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(world.path(cache)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let named = |path: &PathBuf| (path.file_name().unwrap().into(), fs::read(path).unwrap());
    paths.iter().map(named).collect()
}

#[test]
fn the_cache_is_that_of_one_process_and_what_is_missing_is_divided() {
    let world = world();
    let line = |cache: &str| {
        format!("{TEXTS} --metrics mauve --featurizer model --mauve-seeds 1 --cache-dir {cache}")
    };
    let alone = world.run(&line("one")).success();
    let whole = files(&world, "one");
    assert_eq!(whole.len(), 3 + 3 + 2);
    assert_same(&world, 3, &line("three"), &alone);
    assert_eq!(files(&world, "three"), whole);
    // All is there, then all but every second file.
    assert_same(&world, 2, &line("three"), &alone);
    for (name, _) in whole.iter().step_by(2) {
        fs::remove_file(world.path("three").join(name)).unwrap();
    }
    assert_same(&world, 3, &line("three"), &alone);
    assert_eq!(files(&world, "three"), whole);
}

#[test]
fn a_failure_is_reported_once() {
    let world = world();
    for (flags, words) in [
        ("--human missing.txt --metrics diversity", "missing.txt"),
        ("--human human.txt --metrics mauve --featurizer missing", "missing"),
        ("--human human.txt --metrics diversity --per-text valid.txt", "--overwrite"),
    ] {
        let line = format!("score --model-text good.txt --device cpu {flags}");
        let outcomes = torchrun(2, &line, || world.command(&line));
        outcomes[0].refused(&[words]);
        assert_eq!((outcomes[1].status, outcomes[1].stderr.as_str()), (Some(2), ""), "{line}");
    }
    assert_eq!(world.text("valid.txt"), corpus(12, 2));
}
