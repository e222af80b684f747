//! The live state of runs: as text, as JSON, in a terminal, as a page.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{SMALL, World, number};

/// A run that takes long enough to be watched.
const LONG: &str = "train --model model --train train.txt --valid valid.txt --out run --max-steps 1000000 --save-every 1000000 --eval-every 1000000 --json";

fn send(signal: &str, program: &Child) {
    let id = program.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

/// Starts a program and returns with the first lines of its output.
fn begin(world: &World, line: &str, lines: usize) -> (Child, Vec<Value>) {
    let mut program = world.command(line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(program.stdout.take().unwrap()).lines();
    let first = (0..lines).map(|_| serde_json::from_str(&output.next().unwrap().unwrap()).unwrap()).collect();
    // Somebody must go on reading.
    std::thread::spawn(move || output.for_each(drop));
    (program, first)
}

fn wait(program: &mut Child) -> Option<i32> {
    let started = Instant::now();
    loop {
        match program.try_wait().unwrap() {
            Some(status) => return status.code(),
            None if started.elapsed() > Duration::from_secs(60) => {
                program.kill().unwrap();
                panic!("it does not end");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn a_finished_run_is_told_and_not_touched() {
    let world = World::new();
    world
        .run(&format!(
            "train --model model --train train.txt --valid valid.txt --out run --max-steps 6 {SMALL}"
        ))
        .success();
    world.write("run/valid/samples-0.jsonl", "{\"prompt\":\"A\\u001b\",\"text\":\"mill\"}\n{\"prompt\":\"ha");
    let before = world.snapshot();
    let told = world.run("watch run").success();
    for words in [
        "run            run\n",
        "state          finished\n",
        "step           6 of 6 (100 %)",
        "gradient norm",
        "perplexity",
        "\nA\\u{1b} | mill\n",
    ] {
        assert!(told.stdout.contains(words), "{words}\n{}", told.stdout);
    }
    assert!(!told.stdout.contains("time left") && !told.stdout.contains('\u{1b}'), "{}", told.stdout);
    let row = world.run("watch run --json").row();
    assert_eq!((&row["kind"], &row["state"]["is"]), (&json!("run"), &json!("finished")));
    assert_eq!((&row["last_step"]["step"], &row["total_steps"]), (&json!(6), &json!(6)));
    assert_eq!(row["objective"], "mixce:eta=0.1");
    assert!(world.snapshot() == before, "watching wrote something");
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_is_watched_while_it_runs_and_after_it_was_killed() {
    let world = World::new();
    let (mut program, _) = begin(&world, &format!("{LONG} {SMALL}"), 3);
    let row = world.run("watch run --json").row();
    assert_eq!(row["state"], json!({"is": "running", "process": program.id()}));
    assert!(number(&row, "memory_bytes") > 1e6 && number(&row, "seconds_left") > 1.0, "{row}");
    let text = world.run("watch run --once").success().stdout;
    assert!(text.contains("of 1000000 (0 %)") && text.contains("tokens/s"), "{text}");
    send("-KILL", &program);
    wait(&mut program);
    let row = world.run("watch run --json").row();
    assert_eq!((&row["state"]["is"], &row["memory_bytes"]), (&json!("interrupted"), &Value::Null));
    assert!(world.run("watch run").success().stdout.contains("`train --resume auto` continues it"));

    // The report does not call it done either.
    let step = row["last_step"]["step"].as_u64().unwrap();
    let told = world.run("report run --out page").success().stdout;
    let sentence = format!("The training of `run` is not finished (step {step} of 1000000)");
    assert!(told.contains(&sentence), "{told}");
    assert!(world.text("page/index.html").contains(&format!("not finished: step {step} of 1000000")));
    assert!(!world.text("page/tables/cells.csv").contains(",done,"));
}

#[test]
fn a_failed_run_is_told_with_its_step() {
    let world = World::new();
    let line = format!(
        "train --model model --train train.txt --valid valid.txt --out run --max-steps 9 {}",
        SMALL.replace("3e-3", "1e30")
    );
    assert_eq!(world.run(&line).status, Some(2));
    let row = world.run("watch run --json").row();
    assert_eq!(row["state"], json!({"is": "failed", "step": 2}));
    let text = world.run("watch run").success().stdout;
    assert!(text.contains("state          failed: loss or gradient not finite at step 2\n"), "{text}");
    let told = world.run("report run --out page").success().stdout;
    let sentence = "The training of `run` is not finished (loss or gradient not finite at step 2 of 9)";
    assert!(told.contains(sentence), "{told}");
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let world = World::new();
    world.run("watch nowhere").refused(&["cannot read `nowhere`", "hint: "]);
    world
        .run("watch model")
        .refused(&["`model` is neither the folder of a run nor that of a sweep", "hint: "]);
    world.run("watch run --once --serve").refused(&["cannot be used with", "hint: `--once` prints"]);
    world.run("watch run --port 8000").refused(&["--serve", "hint: only `--serve` opens a port"]);
}

#[cfg(unix)]
#[test]
fn the_page_is_served_until_ctrl_c() {
    let world = World::new();
    world
        .run(&format!(
            "train --model model --train train.txt --valid valid.txt --out run --max-steps 4 {SMALL}"
        ))
        .success();
    let before = world.snapshot();
    let (mut program, rows) = begin(&world, "watch run --serve --port 0 --json", 1);
    let address = rows[0]["address"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let ask = |path: &str, more: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{more}Connection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    let page = ask("/", "");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("Finished: step 4 of 4"), "{page}");
    let tag = page.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    assert!(ask("/", &format!("If-None-Match: {tag}\r\n")).starts_with("HTTP/1.1 304"));
    assert!(ask("/tables/cells.csv", "").contains("\r\n\r\nsystem,"));
    assert!(world.snapshot() == before, "serving wrote something");
    // A browser keeps its connection open.
    let _open = TcpStream::connect(&address).unwrap();
    let started = Instant::now();
    send("-INT", &program);
    assert_eq!(wait(&mut program), Some(0));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

/// A terminal of 90 columns and 30 rows, and what the program writes to it.
#[cfg(target_os = "linux")]
mod terminal {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::sync::{Arc, Mutex};

    use nix::pty::{Winsize, openpty};
    use nix::sys::termios::{LocalFlags, tcgetattr};

    use super::*;

    struct Terminal {
        keyboard: File,
        shown: Arc<Mutex<Vec<u8>>>,
        device: OwnedFd,
        program: Child,
    }

    impl Terminal {
        fn start(world: &World, line: &str) -> Self {
            let size = Winsize { ws_row: 30, ws_col: 90, ws_xpixel: 0, ws_ypixel: 0 };
            let pair = openpty(Some(&size), None).unwrap();
            let device = || Stdio::from(pair.slave.try_clone().unwrap());
            let mut command = world.command(line);
            command.env("TERM", "xterm-256color").stdin(device()).stdout(device()).stderr(device());
            let program = command.spawn().unwrap();
            let mut screen = File::from(pair.master.try_clone().unwrap());
            let shown = Arc::new(Mutex::new(Vec::new()));
            let kept = Arc::clone(&shown);
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = screen.read(&mut bytes) {
                    kept.lock().unwrap().extend_from_slice(&bytes[..count]);
                }
            });
            Self { keyboard: File::from(pair.master), shown, device: pair.slave, program }
        }

        fn shown(&self) -> String {
            String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
        }

        fn wait_for(&self, words: &str) {
            let started = Instant::now();
            while !self.shown().contains(words) {
                assert!(started.elapsed() < Duration::from_secs(60), "{words}: {:?}", self.shown());
                std::thread::sleep(Duration::from_millis(10));
            }
        }

        fn is_raw(&self) -> bool {
            !tcgetattr(&self.device).unwrap().local_flags.contains(LocalFlags::ICANON)
        }

        /// Ends it, and checks that the terminal is as it was.
        fn ends_by(mut self, how: impl FnOnce(&mut Self), status: Option<i32>) {
            self.wait_for("\u{1b}[?1049h");
            self.wait_for("q quit");
            assert!(self.is_raw());
            let started = Instant::now();
            how(&mut self);
            assert_eq!(wait(&mut self.program), status);
            assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
            assert!(!self.is_raw(), "lines cannot be typed");
            self.wait_for("\u{1b}[?1049l");
            self.wait_for("\u{1b}[?25h");
        }
    }

    /// Whether this process, and so a program that it starts, ignores signal 1.
    fn is_hangup_ignored() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 1
    }

    #[test]
    fn keys_and_signals_quit_and_give_the_terminal_back() {
        let world = World::new();
        world
            .run(&format!("train --model model --train train.txt --out run --max-steps 3 {SMALL}"))
            .success();
        for key in ["q", "\u{1b}", "\u{3}"] {
            Terminal::start(&world, "watch run")
                .ends_by(|it| it.keyboard.write_all(key.as_bytes()).unwrap(), Some(0));
        }
        // Programs started by `nohup` ignore SIGHUP, and so do those that they start.
        let signals = ["-INT", "-TERM"].into_iter().chain((!is_hangup_ignored()).then_some("-HUP"));
        for signal in signals {
            Terminal::start(&world, "watch run").ends_by(|it| send(signal, &it.program), Some(0));
        }
    }

    #[test]
    fn a_run_that_begins_and_grows_is_followed() {
        let world = World::new();
        std::fs::create_dir(world.path("run")).unwrap();
        let terminal = Terminal::start(&world, "watch run");
        terminal.wait_for("waiting for its first step");
        let (mut program, _) = begin(&world, &format!("{LONG} {SMALL}"), 3);
        terminal.wait_for("running (process ");
        terminal.wait_for("tokens/s");
        send("-KILL", &program);
        wait(&mut program);
        terminal.wait_for("interrupted");
        terminal.ends_by(|it| it.keyboard.write_all(b"q").unwrap(), Some(0));
    }
}
