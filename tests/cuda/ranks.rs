//! Training by several processes with a GPU each: two GPUs, or an emulated driver that shows as many.

use std::process::Command;
use std::time::{Duration, Instant};

use mixce_gpt2::Gpt2Config;
use mixce_kernels::cuda_devices;
use serde_json::Value;

use crate::program;
use crate::running::{Running, assert_continues_as_if_undisturbed, send};
use crate::support::{Outcome, SMALL, World, assert_follow, number, small_config, torchrun};

/// Devices that the emulated driver shows.
const DEVICES: (&str, &str) = ("EMULATED_CUDA_DEVICES", "2");

fn command(world: &World, line: &str) -> Command {
    let mut command = program::command(world, line);
    command.env(DEVICES.0, DEVICES.1);
    command
}

fn run(world: &World, line: &str) -> Outcome {
    Outcome::of(command(world, line).output().unwrap(), line)
}

/// Whether the machine has only one GPU, with which nothing here can run. The emulated driver shows one in this process.
#[expect(clippy::print_stderr, reason = "says what was not tried")]
fn is_single_gpu() -> bool {
    let is_emulated = std::env::var("LD_LIBRARY_PATH").is_ok_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join("libemulated_cuda.so").exists())
    });
    let is_single = !is_emulated && cuda_devices().unwrap() < 2;
    if is_single {
        eprintln!("skipped: this machine has one GPU");
    }
    is_single
}

/// What rank 0 of two processes prints that know an address, after checking that the other prints nothing.
fn rows_of_two(world: &World, line: &str) -> Vec<Value> {
    let [first, second] = torchrun(2, line, || command(world, line)).try_into().unwrap();
    assert_eq!(second.success().stdout, "", "only the first rank speaks");
    first.rows()
}

#[test]
fn two_gpus_follow_one() {
    if is_single_gpu() {
        return;
    }
    let world = World::new();
    // Steps that the device goes ahead with, and steps that are read at once. An epoch ends with a microbatch of few documents: one rank
    // has none where there is one.
    for (name, flags, tolerance) in [
        ("f32", "--dropout 0.1 --batch-size 9 --grad-accum 4 --log-every 2 --valid valid.txt", 1e-5),
        ("read", "--dropout 0.1 --batch-size 4 --grad-accum 2 --log-every 1 --skip-outlier-steps 50", 1e-5),
        ("bf16", "--dropout 0.1 --batch-size 7 --grad-accum 1 --log-every 2 --precision bf16", 2e-3),
        ("sent", "--dropout 0.1 --batch-size 4 --grad-accum 2 --log-every 2 --grad-reduce-dtype bf16", 1e-3),
    ] {
        let line = |ranks: usize| {
            format!(
                "train --model model --train train.txt --out {name}{ranks} --max-steps 4 --max-length 60 --lr 3e-3 --scheduler constant --device cuda --threads 1 --json {flags}"
            )
        };
        let alone = run(&world, &line(1)).rows();
        let rows = rows_of_two(&world, &line(2));
        assert_follow(&rows, &alone, tolerance);
        assert_eq!(rows.last().unwrap()["ranks"], 2);
        assert!(world.text(&format!("{name}2/run.toml")).contains("\nranks = 2\n"));
    }
}

/// Two buckets: the first has all of the blocks but a few values, and its sum begins before the embedding's gradients are complete.
#[test]
fn sums_beside_the_backward_pass_follow_one_gpu() {
    if is_single_gpu() {
        return;
    }
    let world = World::of(&Gpt2Config { n_embd: 512, n_head: 8, initializer_range: 0.02, ..small_config() });
    let line = |ranks: usize| {
        format!(
            "train --model model --train train.txt --out run{ranks} --max-steps 2 --max-length 16 --batch-size 3 --grad-accum 1 --log-every 1 --scheduler constant --device cuda --threads 1 --json"
        )
    };
    let alone = run(&world, &line(1)).rows();
    assert_follow(&rows_of_two(&world, &line(2)), &alone, 1e-5);
}

/// What goes over the wire is counted, on the emulated driver.
#[test]
fn gradients_are_sent_once_a_step() {
    if is_single_gpu() {
        return;
    }
    for (dtype, bytes) in [("f32", 4.0), ("bf16", 2.0)] {
        assert_sent_once_a_step(dtype, bytes);
    }
}

fn assert_sent_once_a_step(dtype: &str, bytes: f64) {
    let world = World::new();
    let sent = |steps: usize| {
        let line = format!(
            "train --model model --train train.txt --out run{steps} --max-steps {steps} --device cuda --threads 1 --json {SMALL} --grad-reduce-dtype {dtype}"
        );
        let file = world.path(&format!("statistics{steps}.json"));
        let outcomes = torchrun(2, &line, || {
            let mut command = command(&world, &line);
            command.env("EMULATED_CUDA_STATISTICS", &file);
            command
        });
        outcomes.into_iter().for_each(|outcome| drop(outcome.success()));
        file.exists().then(|| world.rows(&format!("statistics{steps}.json")).remove(0)["collectives"].clone())
    };
    let (Some(two), Some(three)) = (sent(2), sent(3)) else { return };
    let more = |key: &str| number(&three, key) - number(&two, key);
    let model = world.read("model/model.safetensors");
    let header = u64::from_le_bytes(model[..8].try_into().unwrap()) as usize + 8;
    let parameters = (model.len() - header) as f64 / 4.0;
    assert_eq!(more("bytes"), bytes * parameters, "each gradient once, in {dtype}");
    assert!(more("calls") > 1.0, "{three}");
}

const ENDLESS: &str = "train --model model --train train.txt --out run --max-steps 1000000 --scheduler constant --save-every 2 --threads 1 --json";

/// Two ranks, started by the program itself, that have made some steps and a checkpoint.
fn start(world: &World, more: &str) -> Running {
    Running::start(command(world, &format!("{ENDLESS} {SMALL} --gpus 2 {more}")), 3)
}

fn process_of(running: &Running, rank: usize) -> String {
    running.process_with(&format!("RANK={rank}"))
}

#[test]
fn a_killed_rank_ends_the_run_which_then_continues() {
    if is_single_gpu() {
        return;
    }
    let world = World::new();
    for rank in [1, 0] {
        let running = start(&world, "--resume auto");
        let started = Instant::now();
        send("-KILL", &process_of(&running, rank));
        let (status, stderr, _) = running.wait();
        assert!(started.elapsed() < Duration::from_secs(20), "{stderr}");
        assert_eq!(status, Some(2), "{stderr}");
        assert!(stderr.contains(&format!("rank {rank} of the run has died: signal: 9")), "{stderr}");
        if rank == 1 {
            assert!(stderr.contains("the connection to rank 1 of the run is lost"), "{stderr}");
        }
    }
    let last = world.rows("run/metrics.jsonl").iter().filter_map(|row| row["step"].as_u64()).max().unwrap();
    let line = |out: &str| {
        let line =
            ENDLESS.replace("1000000", &(last + 3).to_string()).replace("--out run", &format!("--out {out}"));
        format!("{line} {SMALL} --gpus 2")
    };
    assert_continues_as_if_undisturbed(&world, line, |line| run(&world, line).rows());
}

#[test]
fn a_stopped_rank_is_noticed_in_time() {
    if is_single_gpu() {
        return;
    }
    let world = World::new();
    let running = start(&world, "--comm-timeout 4");
    let started = Instant::now();
    send("-STOP", &process_of(&running, 1));
    let (status, stderr, _) = running.wait();
    assert!(started.elapsed() < Duration::from_secs(40), "{stderr}");
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("error: no answer from the other ranks of the run within 4 s"), "{stderr}");
}

#[test]
fn ctrl_c_to_the_launcher_saves_once() {
    if is_single_gpu() {
        return;
    }
    let world = World::new();
    let running = start(&world, "");
    send("-INT", &running.launcher.id().to_string());
    let (status, stderr, events) = running.wait();
    assert_eq!(status, Some(130), "{stderr}");
    let event = events.last().expect("an event");
    assert_eq!(event["event"], "interrupted", "{event} {stderr}");
    assert_eq!(stderr.matches("interrupted after step").count(), 1, "{stderr}");
    assert!(world.path(event["checkpoint"].as_str().unwrap()).join("COMPLETE").is_file());
}

/// The launcher cannot pass on a signal that ends it at once; its processes notice, and save.
#[test]
fn a_killed_launcher_leaves_no_process_and_a_checkpoint() {
    if is_single_gpu() {
        return;
    }
    let world = World::new();
    let running = start(&world, "");
    let processes = [0, 1].map(|rank| process_of(&running, rank));
    let started = Instant::now();
    send("-KILL", &running.launcher.id().to_string());
    // The pipes of its output end with the processes.
    let (status, stderr, events) = running.wait();
    assert_eq!(status, None, "{stderr}");
    let event = events.last().expect("an event");
    assert_eq!(event["event"], "interrupted", "{event} {stderr}");
    assert!(world.path(event["checkpoint"].as_str().unwrap()).join("COMPLETE").is_file());
    let is_there =
        |id: &String| std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| !line.is_empty());
    while processes.iter().any(is_there) {
        assert!(started.elapsed() < Duration::from_secs(20), "{processes:?} go on: {stderr}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn failures_are_reported_once() {
    if is_single_gpu() {
        return;
    }
    let world = World::new();
    let train =
        |more: &str| run(&world, &format!("train --model model --out run --max-steps 1 {SMALL} {more}"));
    train("--train missing.txt --gpus 2").refused(&["missing.txt"]);
    let many = format!("--gpus {}", cuda_devices().unwrap().max(2) + 1);
    train(&format!("--train train.txt {many}")).refused(&[&format!("`{many}`: this machine has")]);
    assert!(!world.path("run").exists());
}

/// The emulated driver's own NCCL is left out of the folder that is searched.
#[test]
fn a_machine_without_nccl_is_told_what_to_install() {
    let Ok(path) = std::env::var("LD_LIBRARY_PATH") else { return };
    let driver = std::env::split_paths(&path)
        .map(|folder| folder.join("libemulated_cuda.so"))
        .find(|file| file.exists());
    let Some(driver) = driver else { return };
    let world = World::new();
    std::fs::create_dir(world.path("lib")).unwrap();
    for name in ["cuda", "nvrtc", "curand", "cublas", "cublasLt", "cudart"] {
        std::os::unix::fs::symlink(&driver, world.path(&format!("lib/lib{name}.so"))).unwrap();
    }
    std::os::unix::fs::symlink(&driver, world.path("lib/libemulated_cuda.so")).unwrap();
    let line = format!("train --model model --train train.txt --out run --max-steps 1 --gpus 2 {SMALL}");
    let mut command = command(&world, &line);
    command.env("LD_LIBRARY_PATH", world.path("lib"));
    Outcome::of(command.output().unwrap(), &line).refused(&["NCCL", "libnccl.so", "LD_LIBRARY_PATH"]);
}
