//! A server in a process of its own, killed and stopped.
#![cfg(unix)]

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use mixce_judge::{ServeSettings, Server, Study, answers, make};

use super::client::{get, path_of, post, work};
use super::studies::{attentive, files};

const STUDY: &str = "MIXCE_JUDGE_TEST_STUDY";

/// The child process of the tests below.
#[test]
#[ignore = "only run by the tests below, which set the variable"]
fn child() {
    let study = std::env::var_os(STUDY).unwrap();
    let server = Server::bind(Path::new(&study), &ServeSettings::default()).unwrap();
    println!("\nlistening {} {}", server.address(), path_of(&server.links().unwrap()[0]));
    server.run().unwrap();
}

struct Serving {
    child: Child,
    /// Kept open, because the child's test harness writes a summary at its end.
    _stdout: BufReader<ChildStdout>,
    address: SocketAddr,
    home: String,
}

impl Serving {
    fn start(study: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child", "--exact", "--ignored", "--nocapture"])
            .env(STUDY, study)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("listening ") {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the child ended");
        }
        let mut words = line.split_whitespace().skip(1);
        let address = words.next().unwrap().parse().unwrap();
        Self { child, address, home: words.next().unwrap().to_owned(), _stdout: stdout }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_killed_server_loses_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&files(folder.path(), 8), &out).unwrap();
    let study = Study::open(&out).unwrap();
    let mut accepted = Vec::new();
    for round in 0..5 {
        let mut serving = Serving::start(&out);
        work(serving.address, &serving.home, 1, &attentive);
        let action = get(serving.address, &format!("{}/task", serving.home)).pair().unwrap().0;
        let note = format!("round {round}");
        assert_eq!(post(serving.address, &action, &format!("choice=0&note={note}")).status, 303);
        // SIGKILL, as soon as the answer is accepted.
        serving.child.kill().unwrap();
        serving.child.wait().unwrap();
        accepted.extend([String::new(), note]); // the first from `work`
        let notes: Vec<String> = answers(&study).unwrap().into_iter().map(|answer| answer.note).collect();
        assert_eq!(notes, accepted);
    }
    let serving = Serving::start(&out);
    assert!(get(serving.address, &format!("{}/task", serving.home)).body.contains("Thank you!"));
}

#[test]
fn signals_end_the_server_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&files(folder.path(), 3), &out).unwrap();
    for signal in ["INT", "TERM"] {
        let mut serving = Serving::start(&out);
        // Neither an idle connection nor half a request holds it up for long.
        let _idle = TcpStream::connect(serving.address).unwrap();
        let mut half = TcpStream::connect(serving.address).unwrap();
        std::io::Write::write_all(&mut half, b"GET / HTTP/1.1\r\nHo").unwrap();
        assert_eq!(get(serving.address, &serving.home).status, 200);
        let sent = Instant::now();
        let kill =
            Command::new("kill").args(["-s", signal, &serving.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let status = serving.child.wait().unwrap();
        assert!(status.success(), "{signal}: {status}");
        assert!(sent.elapsed() < Duration::from_secs(20));
    }
}
