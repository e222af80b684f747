//! Signals: Ctrl-C and SIGTERM.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mixce_gpt2::Gpt2Config;

use crate::hub::serve;
use crate::server::{Fault, HubServer, Storage, etag};
use crate::support::{Outcome, SMALL, World, corpus, small_config};

/// Longer than a command may take to end: a second when the machine is idle.
const SOON: Duration = Duration::from_secs(4);

/// A model of 25 million parameters, whose files are not written in a moment.
fn large_config() -> Gpt2Config {
    Gpt2Config { n_embd: 512, n_layer: 8, ..small_config() }
}

pub(crate) fn send(signal: &str, program: &Child) {
    let id = program.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[test]
fn ctrl_c_leaves_a_checkpoint_to_go_on_from() {
    let world = World::new();
    let line = format!(
        "train --model model --train train.txt --valid valid.txt --out run --max-steps 1000000 --save-every 1000000 --eval-every 1000000 {SMALL} --json"
    );
    let mut program = world.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Training has started once the first steps are reported.
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        lines.next().unwrap().unwrap();
    }
    let mut second = world.command(&format!("{line} --resume auto"));
    Outcome::of(second.output().unwrap(), &line)
        .refused(&["run folder `run` is in use by another process", "hint: "]);
    send("-INT", &program);
    let last = lines.map_while(Result::ok).last().unwrap();
    let event: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(event["event"], "interrupted", "{event}");
    let outcome = program.wait_with_output().unwrap();
    let stderr = String::from_utf8(outcome.stderr).unwrap();
    assert_eq!(outcome.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted after step") && stderr.contains("--resume auto"), "{stderr}");
    let checkpoint = event["checkpoint"].as_str().unwrap();
    assert!(world.path(checkpoint).join("COMPLETE").is_file());
    assert!(!world.path("run/final").exists());

    // SIGTERM does the same, with a status of its own.
    let resumed = format!("{line} --resume auto");
    let mut program = world.command(&resumed).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["step"], event["step"].as_u64().unwrap() + 1, "it goes on where it stopped");
    send("-TERM", &program);
    let last = lines.map_while(Result::ok).last().unwrap();
    let event: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(event["event"], "interrupted", "{event}");
    assert_eq!(program.wait().unwrap().code(), Some(143));

    let step = event["step"].as_u64().unwrap();
    let steps = format!("--max-steps {}", step + 2);
    let rows = world.run(&line.replace("--max-steps 1000000", &format!("{steps} --resume auto"))).rows();
    assert_eq!(rows[0]["step"], step + 1, "it goes on where it stopped");
    assert!(world.path("run/final/model.safetensors").is_file());
}

/// What `--gpus` does for its processes, here for one: its standard input ends when the process that has started it does.
#[test]
fn the_end_of_the_launcher_ends_a_rank_with_a_checkpoint() {
    let world = World::new();
    let line = format!(
        "train --model model --train train.txt --out run --max-steps 1000000 --save-every 1000000 --eval-every never {SMALL} --json"
    );
    let mut command = world.command(&line);
    command.env("MIXCE_LAUNCHER_HOLDS_STDIN", "1").stdin(Stdio::piped());
    let mut program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let held = program.stdin.take().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        lines.next().unwrap().unwrap();
    }
    let ended = Instant::now();
    drop(held);
    let last = lines.map_while(Result::ok).last().unwrap();
    let event: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(event["event"], "interrupted", "{event}");
    let outcome = program.wait_with_output().unwrap();
    let stderr = String::from_utf8(outcome.stderr).unwrap();
    assert_eq!(outcome.status.code(), Some(143), "as after SIGTERM: {stderr}");
    assert!(ended.elapsed() < SOON, "{stderr}");
    assert!(world.path(event["checkpoint"].as_str().unwrap()).join("COMPLETE").is_file());
}

/// Waits until the program handles signals: then SIGTERM, bit 14, is blocked in its threads.
pub(crate) fn wait_until_ready(program: &Child) {
    if !std::path::Path::new("/proc/self/status").exists() {
        std::thread::sleep(Duration::from_secs(1));
        return;
    }
    let started = Instant::now();
    let blocks = |status: String| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).map(str::trim);
        mask.is_some_and(|mask| u64::from_str_radix(mask, 16).unwrap() >> 14 & 1 == 1)
    };
    while !std::fs::read_to_string(format!("/proc/{}/status", program.id())).is_ok_and(blocks) {
        assert!(started.elapsed() < Duration::from_secs(60), "it does not start");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal, and checks that the program ends soon with its status and without an error.
fn ends_soon(program: Child, line: &str, (signal, status): (&str, i32)) {
    let sent = Instant::now();
    send(signal, &program);
    let outcome = program.wait_with_output().unwrap();
    let (took, stderr) = (sent.elapsed(), String::from_utf8(outcome.stderr).unwrap());
    assert_eq!(outcome.status.code(), Some(status), "`{line}` {signal}: {stderr}");
    assert!(stderr.contains("interrupted") && !stderr.contains("error: "), "`{line}`: {stderr}");
    assert!(took < SOON, "`{line}` {signal} took {took:?}");
}

const SIGNALS: [(&str, i32); 2] = [("-INT", 130), ("-TERM", 143)];

/// Every command that runs for long, most of them waiting for standard input, which does not end.
#[cfg(target_os = "linux")]
#[test]
fn every_command_ends_soon_with_the_status_of_the_signal() {
    let commands = [
        format!("train --model model --train - --out run {SMALL}"),
        "evaluate --model model --data - --json".to_owned(),
        "generate --model model --prompts - --out samples.jsonl".to_owned(),
        "generate --model model --prompt the --num-samples 100000000 --out more.jsonl".to_owned(),
        "generate --model model --documents - --out documents --name x".to_owned(),
        "score --human - --model-text valid.txt".to_owned(),
        "inspect -".to_owned(),
        "nll-histogram --model model --human - --generated valid.txt --svg figure.svg".to_owned(),
        "data detokenize".to_owned(),
        "bench train --model-config config.json --batch-size 1 --seq-len 8 --steps 100000000".to_owned(),
        "bench generate --model-config config.json --batch-size 1 --seq-len 8 --steps 100000000".to_owned(),
        "synthetic --out cells --preset appendix".to_owned(),
        "quickstart --out quick{status}".to_owned(),
        "export --model large --out hf".to_owned(),
        "sweep --model large --train train.txt --valid valid.txt --test valid.txt --etas 0.5 --max-length 40 --prompt-length 3 --no-controls \
         --metrics diversity --metric perplexity --max-steps 1000000 --out sweep{status}"
            .to_owned(),
    ];
    let world = World::new();
    world.model("large", &large_config());
    let mut draws = 7u64;
    for line in &commands {
        for (signal, status) in SIGNALS {
            let line = line.replace("{status}", &status.to_string());
            let mut command = world.command(&line);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut program = command.spawn().unwrap();
            // Some input, then silence. A program that wants none closes its end.
            let mut stdin = program.stdin.take().unwrap();
            let _ = stdin.write_all(corpus(20, 1).as_bytes());
            wait_until_ready(&program);
            draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            std::thread::sleep(Duration::from_millis(draws >> 56));
            let ended = program.try_wait().unwrap();
            assert!(ended.is_none(), "`{line}` ended by itself: {ended:?}");
            ends_soon(program, &line, (signal, status));
            drop(stdin);
        }
    }
    let files = world.snapshot();
    let temporary = |path: &&std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with(".tmp") || name.ends_with(".lock")
    };
    let left: Vec<_> = files.keys().filter(temporary).collect();
    assert!(left.is_empty(), "{left:?}");
    for file in ["samples.jsonl", "more.jsonl", "run", "hf"] {
        assert!(!world.path(file).exists(), "{file}");
    }
}

/// Each command with a request, by method and end of path, that the hub does not answer.
#[cfg(target_os = "linux")]
#[test]
fn commands_that_wait_for_the_hub_end_soon() {
    let world = World::new();
    let weights = etag(Storage::Large, &world.read("model/model.safetensors"));
    let (download, push) = ("download owner/tiny --out copy", "push model me/mine");
    let train = format!("train --model owner/tiny --train train.txt --out run {SMALL}");
    // Side by side, because all of them wait.
    std::thread::scope(|scope| {
        for (line, method, end) in [
            (download, "GET", "/revision/main"),
            (download, "GET", "/config.json"),
            (download, "GET", weights.as_str()),
            (train.as_str(), "GET", &weights),
            (push, "POST", "/repos/create"),
            (push, "POST", "/preupload/main"),
            (push, "POST", "/objects/batch"),
            (push, "PUT", &weights),
        ] {
            scope.spawn(move || SIGNALS.map(|signal| a_silent_hub_is_left(line, (method, end), signal)));
        }
    });
    let server = serve(&world);
    for line in [download, push] {
        Outcome::of(with_token(&world, &server, line).output().unwrap(), line).success();
    }
    assert!(world.read("copy/model.safetensors") == world.read("model/model.safetensors"));
    assert!(server.branch("me/mine", "main")["model.safetensors"].1 == world.read("model/model.safetensors"));
}

#[cfg(target_os = "linux")]
fn with_token(world: &World, server: &HubServer, line: &str) -> Command {
    let mut command = world.command_at(server, line);
    command.env("HF_TOKEN", "hf_right");
    command
}

/// A command whose request that ends in `end` is never answered.
#[cfg(target_os = "linux")]
fn a_silent_hub_is_left(line: &str, (method, end): (&'static str, &str), signal: (&str, i32)) {
    let world = World::new();
    let server = serve(&world);
    server.fault(method, end, Fault::Silence, 100);
    let mut command = with_token(&world, &server, line);
    let program = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (started, mut requests) = (Instant::now(), Vec::new());
    while !requests.iter().any(|path: &String| path.split('?').next().unwrap().ends_with(end)) {
        requests.extend(server.take_requests().into_iter().map(|request| request.path));
        assert!(started.elapsed() < Duration::from_secs(60), "`{line}`, {end}: {requests:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    ends_soon(program, line, signal);
    assert!(server.commits().is_empty() && !world.path("copy").exists() && !world.path("run").exists());
}

/// `--select mauve` is busy for a while between two steps; the steps before are not lost.
#[test]
fn a_signal_while_samples_are_drawn_and_scored_leaves_a_checkpoint() {
    let world = World::new();
    world.write("valid.txt", corpus(600, 2));
    let line = format!(
        "train --model model --train train.txt --valid valid.txt --out run --max-steps 1000000 --save-every never --eval-every 3 {SMALL} --json \
         --select mauve --select-featurizer model --select-documents 600 --select-prompt-length 3"
    );
    let mut program = world.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut rows = BufReader::new(program.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        rows.next().unwrap().unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let reader = std::thread::spawn(move || rows.map_while(Result::ok).collect::<Vec<_>>());
    ends_soon(program, &line, ("-TERM", 143));
    let rows = reader.join().unwrap();
    assert_eq!(rows.len(), 1, "it was not in time: {rows:?}");
    let event: serde_json::Value = serde_json::from_str(&rows[0]).unwrap();
    assert_eq!((&event["event"], &event["step"]), (&"interrupted".into(), &3.into()));
    assert!(world.path("run/checkpoints/step-00000003/COMPLETE").is_file());
}

/// Bytes that a pipe of Linux holds.
#[cfg(target_os = "linux")]
const PIPE_CAPACITY: usize = 65_536;

/// The program has been told to stop, but its output is stuck; the second signal does not wait.
#[cfg(target_os = "linux")]
#[test]
fn a_second_signal_ends_at_once() {
    let world = World::new();
    let line = format!(
        "train --model model --train train.txt --out run --max-steps 1000000 --save-every never {SMALL} --json"
    );
    // A pipe that is full, and nobody reads: training waits at its first row, or with the event that it was interrupted.
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'\n'; PIPE_CAPACITY]).unwrap();
    let mut program = world.command(&line).stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !world.path("run/run.toml").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "training does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    send("-TERM", &program);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(program.try_wait().unwrap().is_none(), "a run that saves is waited for");
    let sent = Instant::now();
    send("-TERM", &program);
    assert_eq!(program.wait().unwrap().code(), Some(143));
    assert!(sent.elapsed() < Duration::from_secs(3), "{:?}", sent.elapsed());
}
