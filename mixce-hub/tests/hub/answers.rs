//! Answers that no hub gives: an error for each, with bounded memory and time.

#![expect(clippy::expect_used, reason = "helpers of tests fail the test")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use mixce_hub::{Hub, HubEnvironment, NoProgress};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::support::{MODEL, id};

/// What a server sends to every request.
#[derive(Clone)]
enum Answer {
    Bytes(Vec<u8>),
    /// The same bytes for ever, without a length.
    Endless(&'static [u8]),
}

fn serve(answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| send(stream, &answer)));
    format!("http://{address}")
}

fn send(mut stream: TcpStream, answer: &Answer) {
    // Whatever was asked; a client may leave in the middle of the answer.
    let _ = stream.read(&mut [0; 4096]);
    match answer {
        Answer::Bytes(bytes) => drop(stream.write_all(bytes)),
        Answer::Endless(bytes) => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
            let chunk = bytes.repeat((1 << 20) / bytes.len());
            while stream.write_all(&chunk).is_ok() {}
        }
    }
}

fn error_of(answer: Answer) -> String {
    let home = tempfile::tempdir().expect("a temporary folder");
    let endpoint = serve(answer);
    let lookup = |name: &str| match name {
        "HF_HOME" => home.path().to_str().map(str::to_owned),
        "HF_ENDPOINT" => Some(endpoint.clone()),
        _ => None,
    };
    let mut environment = HubEnvironment::from_lookup(lookup).expect("an environment");
    environment.retries.attempts = 1;
    environment.retries.first_delay = Duration::ZERO;
    let hub = Hub::new(environment).expect("a client");
    hub.fetch_model(&id(MODEL), &mut NoProgress).expect_err("no hub answers like this").to_string()
}

fn ok(body: &[u8]) -> Vec<u8> {
    [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes(),
        body,
    ]
    .concat()
}

#[test]
fn garbage_is_an_error() {
    let deep = "[".repeat(100_000);
    let long_name = format!("{{\"siblings\":[{{\"rfilename\":\"{}\"}}]}}", "x".repeat(100_000));
    let bodies: [&[u8]; 10] = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        br#"{"sha": 5, "siblings": "x"}"#,
        br#"{"sha": "../../x", "siblings": [{"rfilename": "config.json"}]}"#,
        br#"{"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{"rfilename": "../../etc/passwd"}, {"rfilename": "config.json"}]}"#,
        deep.as_bytes(),
        long_name.as_bytes(),
    ];
    for body in bodies {
        let error = error_of(Answer::Bytes(ok(body)));
        assert!(error.len() < 2000, "{} bytes", error.len());
    }
    for bytes in [
        &b""[..],
        b"\0\0\0\0",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{",
        b"HTTP/1.1 302 Found\r\nlocation: /\r\nconnection: close\r\n\r\n",
    ] {
        error_of(Answer::Bytes(bytes.to_vec()));
    }
}

#[test]
fn an_endless_answer_is_given_up() {
    let error = error_of(Answer::Endless(b"[[],"));
    assert!(error.contains("invalid response"), "{error}");
}

const INFO: &[u8] =
    br#"{"id":"owner/tiny","sha":"0123456789abcdef0123456789abcdef01234567","siblings":[{"rfilename":"config.json"}]}"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// A body with other bytes in one place, and the same bytes without the headers of an answer.
    #[test]
    fn damaged_answers_are_errors(at in any::<Index>(), cut in 0usize..20, bytes in vec(any::<u8>(), 0..20), is_body in any::<bool>()) {
        let mut answer = if is_body { INFO.to_vec() } else { ok(INFO) };
        let at = at.index(answer.len());
        answer.splice(at..answer.len().min(at + cut), bytes);
        let error = error_of(Answer::Bytes(if is_body { ok(&answer) } else { answer }));
        prop_assert!(error.len() < 2000, "{} bytes", error.len());
    }
}
