//! The token cache: two processes at once, and one that is stopped.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Outcome, SMALL, World, corpus};

/// Training on standard input, which is read to its end before anything is encoded.
fn spawn(world: &World, out: &str) -> (Child, String) {
    let line =
        format!("train --model model --train - --cache-dir cache --out {out} --max-steps 1 {SMALL} --seed 3");
    let mut command = world.command(&line);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    (command.spawn().unwrap(), line)
}

fn cached(world: &World) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(world.path("cache")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn two_processes_build_one_cache_at_once() {
    let world = World::new();
    let text = corpus(2000, 5).repeat(20);
    let mut programs = ["one", "two"].map(|out| spawn(&world, out));
    for (program, _) in &mut programs {
        program.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }
    // Both have all of the text; now both learn that it has ended.
    for (program, _) in &mut programs {
        drop(program.stdin.take());
    }
    for (program, line) in programs {
        Outcome::of(program.wait_with_output().unwrap(), &line).success();
    }
    let files = cached(&world);
    assert!(files.len() == 1 && files[0].ends_with(".tokens"), "{files:?}");
    assert!(world.read("one/final/model.safetensors") == world.read("two/final/model.safetensors"));
    let row = world.run(&format!("inspect cache/{} --json", files[0])).row();
    assert_eq!(row["counts"]["documents"], 40_000);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_a_build_and_leaves_nothing() {
    let world = World::new();
    let (mut program, line) = spawn(&world, "run");
    let text = corpus(2000, 5);
    let mut stdin = program.stdin.take().unwrap();
    for _ in 0..500 {
        stdin.write_all(text.as_bytes()).unwrap();
    }
    drop(stdin);
    let started_at = Instant::now();
    while cached(&world).is_empty() {
        assert!(program.try_wait().unwrap().is_none(), "it ended before it began");
        assert!(started_at.elapsed() < Duration::from_secs(60), "no cache is begun");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &program.id().to_string()]).status().unwrap().success());
    let outcome = Outcome::of(program.wait_with_output().unwrap(), &line);
    assert_eq!(outcome.status, Some(130), "{outcome:?}");
    assert!(outcome.stderr.contains("stopping: nothing is written"), "{}", outcome.stderr);
    assert!(outcome.stderr.lines().any(|line| line == "interrupted"), "{}", outcome.stderr);
    assert_eq!(cached(&world), [] as [&str; 0]);
    assert!(!world.path("run").exists());
}
