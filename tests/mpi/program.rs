//! The program under `mpirun`.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::running::{Running, assert_continues_as_if_undisturbed, send};
use crate::support::{Outcome, SMALL, World, assert_follow, corpus, number};

/// `mpirun` of `ranks` processes of the program with one thread each: all on this machine, whoever runs the test, however many cores there are.
fn mpirun(world: &World, ranks: usize, line: &str) -> Command {
    mpirun_by(world, ranks, &[], line)
}

/// The same of a command that starts the program with its arguments.
fn mpirun_by(world: &World, ranks: usize, starter: &[&str], line: &str) -> Command {
    let alone = world.command(line);
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none", "-n", &ranks.to_string()]);
    command.args([
        "--mca",
        "odls_base_sigkill_timeout",
        "5",
        "--mca",
        "btl_vader_single_copy_mechanism",
        "none",
    ]);
    command.args(starter).arg(alone.get_program()).args(alone.get_args());
    command.env_clear();
    for (name, value) in alone.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.current_dir(alone.get_current_dir().unwrap());
    command
}

fn run(world: &World, ranks: usize, line: &str) -> Outcome {
    Outcome::of(mpirun(world, ranks, line).output().unwrap(), line)
}

const ENDLESS: &str = "train --model model --train train.txt --out run --max-steps 1000000 --scheduler constant --save-every 5 --threads 1 --json";

const SHARDED: &str = "--shard-optimizer";

/// Two ranks that have made some steps and a checkpoint.
fn start(world: &World, more: &str) -> Running {
    start_line(world, &format!("{ENDLESS} {SMALL} {more}"))
}

fn start_line(world: &World, line: &str) -> Running {
    Running::start(mpirun(world, 2, line), 7)
}

fn process_of(running: &Running, rank: usize) -> String {
    running.process_with(&format!("OMPI_COMM_WORLD_RANK={rank}"))
}

/// Continues the run that was stopped to `steps`.
fn assert_continues(world: &World, steps: u64) {
    let line = |out: &str| {
        let line =
            ENDLESS.replace("1000000", &steps.to_string()).replace("--out run", &format!("--out {out}"));
        format!("{line} {SMALL}")
    };
    let first = assert_continues_as_if_undisturbed(world, line, |line| run(world, 2, line).rows());
    assert_eq!(first % 5, 1, "it continues from a checkpoint");
}

#[test]
fn ranks_follow_one_process_with_and_without_shards() {
    let world = World::new();
    let line = |out: &str| {
        format!(
            "train --model model --train train.txt --valid valid.txt --out {out} --max-steps 20 --dropout 0.1 --threads 1 {SMALL} --json"
        )
    };
    let alone = world.run(&line("one")).rows();
    for (ranks, flag) in [(2, ""), (3, ""), (4, ""), (2, SHARDED), (4, SHARDED)] {
        let out = format!("ranks{ranks}{flag}");
        let outcome = run(&world, ranks, &format!("{} {flag}", line(&out))).success();
        assert_eq!(outcome.stderr, "", "only the first rank speaks");
        let rows = outcome.rows();
        assert_follow(&rows, &alone, 1e-5);
        assert_eq!(rows.last().unwrap()["ranks"], ranks);
        assert!(world.text(&format!("{out}/run.toml")).contains(&format!("\nranks = {ranks}\n")));
        let logged = world.rows(&format!("{out}/metrics.jsonl"));
        assert_eq!(logged.len(), rows.len() - 1, "one writer");
    }
    for (ranks, flag) in [(2, ""), (3, ""), (3, SHARDED)] {
        let out = format!("rounded{ranks}{flag}");
        let rows = run(&world, ranks, &format!("{} --grad-reduce-dtype bf16 {flag}", line(&out))).rows();
        assert_follow(&rows, &alone, 2e-3);
    }
    let [whole, sharded] =
        ["", SHARDED].map(|flag| world.read(&format!("rounded3{flag}/final/model.safetensors")));
    assert!(whole == sharded, "in bf16");
    for ranks in [2, 4] {
        for file in ["final/model.safetensors", "checkpoints/step-00000020/optimizer.safetensors"] {
            let [whole, sharded] =
                ["", SHARDED].map(|flag| world.read(&format!("ranks{ranks}{flag}/{file}")));
            assert!(whole == sharded, "{file} of {ranks} ranks");
        }
    }
}

#[test]
fn a_sharded_run_of_4_ranks_is_continued_on_2_and_on_1() {
    let world = World::new();
    let line = |out: &str, steps: u64| {
        format!(
            "train --model model --train train.txt --out {out} --max-steps {steps} --scheduler constant --threads 1 {SMALL} --json"
        )
    };
    let alone = world.run(&line("alone", 20)).rows();
    let mut first = run(&world, 4, &format!("{} {SHARDED}", line("run", 10))).rows();
    first.retain(|row| row["event"].is_null());
    for out in ["sharded", "whole", "one"] {
        let copied =
            Command::new("cp").args(["-r", "run", out]).current_dir(world.path("")).status().unwrap();
        assert!(copied.success());
    }
    let resumed = |out: &str| format!("{} --resume auto", line(out, 20));
    let second = run(&world, 2, &format!("{} {SHARDED}", resumed("sharded"))).rows();
    run(&world, 2, &resumed("whole")).success();
    assert!(world.read("sharded/final/model.safetensors") == world.read("whole/final/model.safetensors"));
    let one = world.run(&format!("{} {SHARDED}", resumed("one"))).success();
    assert!(one.stderr.contains("`--shard-optimizer` has no effect"), "{}", one.stderr);
    for continued in [second, one.rows()] {
        let rows: Vec<&Value> = first.iter().chain(&continued).filter(|row| row["event"].is_null()).collect();
        assert_eq!(rows.len(), 20);
        for (row, alone) in rows.iter().zip(&alone) {
            assert_eq!(row["step"], alone["step"]);
            let (a, b) = (number(row, "nll"), number(alone, "nll"));
            assert!((a - b).abs() <= 1e-5 * b, "{row} {alone}");
        }
    }
}

/// A limit on the size of files stands for a disk that is full: writing the next checkpoint fails, in the middle of its first file.
#[test]
fn a_full_disk_of_the_first_rank_ends_all_and_the_run_then_continues() {
    let world = World::new();
    // Without the signal, writing beyond the limit is an error as on a full disk.
    let without_signal = ["sh", "-c", r#"trap '' XFSZ; exec "$0" "$@""#];
    let line = format!("{ENDLESS} {SMALL} {SHARDED} --comm-timeout 20");
    let running = Running::start(mpirun_by(&world, 2, &without_signal, &line), 7);
    let started = Instant::now();
    let limit = world.read("model/model.safetensors").len() / 2;
    let limit = format!("--fsize={limit}");
    let limited = Command::new("prlimit").args(["--pid", &process_of(&running, 0), &limit]).status();
    assert!(limited.unwrap().success());
    let (status, stderr, events) = running.wait();
    assert!(started.elapsed() < Duration::from_secs(40), "{stderr}");
    assert_eq!(status, Some(2), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    assert!(stderr.contains("cannot write") && stderr.contains("model.safetensors"), "{stderr}");
    let last = events.iter().filter_map(|event| event["step"].as_u64()).max().unwrap_or(7);
    assert_continues(&world, last + 5);
}

#[test]
fn ctrl_c_to_the_launcher_saves_once() {
    let world = World::new();
    // `mpirun` reads no output while it ends its processes, and a rank whose output is not read waits: few lines.
    let few = SMALL.replace("--log-every 1", "--log-every 25");
    let running = start_line(&world, &format!("{ENDLESS} {few}"));
    let launcher = running.launcher.id().to_string();
    send("-INT", &launcher);
    let (status, stderr, events) = running.wait();
    assert_ne!(status, Some(0), "{stderr}");
    let event = events.last().expect("an event");
    assert_eq!(event["event"], "interrupted", "{event} {stderr}");
    assert_eq!(stderr.matches("interrupted after step").count(), 1, "{stderr}");
    let checkpoint = event["checkpoint"].as_str().unwrap();
    assert!(world.path(checkpoint).join("COMPLETE").is_file());
}

#[test]
fn a_killed_rank_ends_the_run_which_then_continues() {
    let world = World::new();
    let running = start(&world, "");
    let started = Instant::now();
    send("-KILL", &process_of(&running, 1));
    let (status, stderr, events) = running.wait();
    assert!(started.elapsed() < Duration::from_secs(40), "{stderr}");
    assert_ne!(status, Some(0), "{stderr}");
    assert!(stderr.contains("signal 9"), "{stderr}");
    let last = events.iter().filter_map(|event| event["step"].as_u64()).max().unwrap_or(7);
    assert_continues(&world, last + 5);
}

#[test]
fn a_stopped_rank_is_noticed_in_time() {
    let world = World::new();
    let running = start(&world, "--comm-timeout 8");
    let started = Instant::now();
    send("-STOP", &process_of(&running, 1));
    let (status, stderr, events) = running.wait();
    assert!(started.elapsed() < Duration::from_secs(40), "{stderr}");
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("error: no answer from the other ranks of the run within 8 s"), "{stderr}");
    assert!(stderr.contains("--comm-timeout") && stderr.contains("--resume auto"), "{stderr}");
    let last = events.iter().filter_map(|event| event["step"].as_u64()).max().unwrap_or(7);
    assert_continues(&world, last + 5);
}

#[test]
fn an_evaluation_is_that_of_one_process_bit_for_bit() {
    let world = World::new();
    for flags in
        ["", "--prompt-length 3 --compat authors --batch-size 5", "--block-size 40 --confine-attention"]
    {
        // Several batches for each rank.
        let line = |out: &str| {
            format!(
                "evaluate --model model --data train.txt {flags} --batch-tokens 100 --threads 1 --per-token {out} --overwrite --json"
            )
        };
        let alone = world.run(&line("one.jsonl")).success();
        for ranks in [2, 3] {
            let outcome = run(&world, ranks, &line("more.jsonl")).success();
            assert_eq!(
                (&outcome.stdout, &outcome.stderr),
                (&alone.stdout, &alone.stderr),
                "{ranks}: {flags}"
            );
            assert!(world.read("one.jsonl") == world.read("more.jsonl"), "{ranks}: {flags}");
        }
    }
}

#[test]
fn samples_are_those_of_one_process_byte_for_byte() {
    let world = World::new();
    let documents = world.text("train.txt");
    let prompts: Vec<&str> = documents.lines().take(7).map(|line| line.get(..20).unwrap_or(line)).collect();
    world.write("prompts.txt", prompts.join("\n"));
    for flags in [
        "--prompts prompts.txt --prompt-length 4 --num-samples 3",
        "--prompts prompts.txt --json --greedy",
        "--unconditional 2 --top-p 0.9 --seed 7",
    ] {
        // In a file: to `mpirun`, which gives its processes a terminal, control characters are escaped.
        let line = |out: &str| {
            format!("generate --model model {flags} --max-new-tokens 12 --threads 1 --out {out} --overwrite")
        };
        world.run(&line("one.txt")).success();
        assert!(!world.read("one.txt").is_empty());
        for ranks in [2, 3] {
            let outcome = run(&world, ranks, &line("more.txt")).success();
            assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""), "{ranks}: {flags}");
            assert!(world.read("one.txt") == world.read("more.txt"), "{ranks}: {flags}");
        }
    }
    let json = "generate --model model --prompts prompts.txt --threads 1 --json";
    assert_eq!(run(&world, 2, json).success().stdout, world.run(json).success().stdout);
    let line = |out: &str| format!("generate --model model --prompts prompts.txt --threads 1 --out {out}");
    world.run(&line("one.jsonl")).success();
    run(&world, 2, &line("two.jsonl")).success();
    assert!(world.read("one.jsonl") == world.read("two.jsonl"));
    let again = run(&world, 2, &line("two.jsonl"));
    assert_eq!((again.status, again.stderr.matches("error: ").count()), (Some(2), 1), "{}", again.stderr);
    let line = |out: &str| {
        format!(
            "generate --model model --documents train.txt --prompt-length 3 --max-length 40 --threads 1 --name x --out {out}"
        )
    };
    world.run(&line("alone")).success();
    assert_eq!(run(&world, 2, &line("ranks")).success().stderr, "");
    for file in ["x.human", "x.sample", "x.sample.jsonl", "x.sample2.jsonl", "x.settings.json"] {
        assert!(world.read(&format!("alone/{file}")) == world.read(&format!("ranks/{file}")), "{file}");
    }
}

#[test]
fn doctor_checks_and_times_the_sums_of_ranks() {
    let world = World::new();
    for ranks in [2, 3] {
        let outcome = run(&world, ranks, "doctor --threads 1 --json").success();
        assert_eq!(outcome.stderr, "");
        let row = outcome.row();
        assert!(row["checks"].as_array().unwrap().iter().all(|check| check["holds"] == true), "{row}");
        assert_eq!(row["links"]["ranks"], ranks);
        assert!(number(&row["links"]["latency_us"], "median") > 0.0);
        assert!(number(&row["links"], "bytes_per_s") > 0.0);
    }
}

#[test]
fn scores_are_those_of_one_process_byte_for_byte() {
    let world = World::new();
    world.write("human.txt", corpus(300, 3));
    world.write("good.txt", corpus(600, 4));
    let line = "score --human human.txt --model-text good.txt --featurizer model --metrics mauve,diversity --mauve-seeds 2 --threads 1 --no-cache --json";
    let alone = world.run(line).success();
    for ranks in [2, 3] {
        let outcome = run(&world, ranks, line).success();
        assert_eq!((outcome.stdout, outcome.stderr), (alone.stdout.clone(), alone.stderr.clone()), "{ranks}");
    }
}

#[test]
fn a_failure_is_reported_once_with_status_2() {
    let world = World::new();
    let outcome = run(&world, 2, "train --model model --train missing.txt --out run --threads 1");
    assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("error: ").count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("missing.txt"), "{}", outcome.stderr);
    assert!(!world.path("run").exists());
}
