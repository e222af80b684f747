//! A small Hugging Face hub on loopback, for tests: enough of the protocol to serve models, and faults on demand.
//!
//! It listens on two ports, the hub and its storage, since the real hub redirects large files to another host. Every
//! connection carries one request. It ends with the value.

use std::{
    collections::BTreeMap,
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use mixce_base::digest::{Digest, Sha256, hex};
use sha1::Sha1;

use crate::{
    http::{Answer, Request, read_request, send, write_answer},
    uploads::{self, Uploads},
};

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This status, with an `X-Error-Code` unless it is empty.
    Status(u16, &'static str),
    /// Status 429 with this `Retry-After`.
    RateLimit(u64),
    /// The connection ends after so many bytes of the body.
    Drop(usize),
    /// The first byte of the body is another one.
    WrongBytes,
    /// The body is longer than announced, and says so.
    TooLong,
    /// `Range` is ignored.
    NoRange,
    /// No answer for as long as the server lives.
    Silence,
}

/// How a file is stored, which decides its etag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// In git: the etag is git's SHA-1, and the hub sends the bytes itself.
    Git,
    /// As a large file: the etag is the SHA-256, and the hub redirects to its storage.
    Large,
}

/// The files of one commit by name.
pub(crate) type Files = BTreeMap<String, (Storage, Vec<u8>)>;

/// What the hub holds.
#[derive(Default)]
pub(crate) struct State {
    /// By repository (of a data set: `datasets/owner/name`) and commit, by name.
    pub(crate) files: BTreeMap<(String, String), Files>,
    /// From old to new names of repositories.
    moved: BTreeMap<String, String>,
    /// What has been sent to it.
    pub(crate) uploads: Uploads,
    /// From repository and branch to commit.
    pub(crate) branches: BTreeMap<(String, String), String>,
    /// Method, end of the path, fault, how often it still strikes.
    faults: Vec<(&'static str, String, Fault, u32)>,
    requests: Vec<Request>,
    token: Option<String>,
    stop: bool,
}

/// A hub that lives as long as this value.
pub(crate) struct HubServer {
    state: Arc<Mutex<State>>,
    ports: [u16; 2],
    threads: Vec<JoinHandle<()>>,
}

impl HubServer {
    /// Starts an empty hub.
    #[expect(clippy::expect_used, reason = "a test without a port is over")]
    pub(crate) fn start() -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = [0, 1].map(|i: usize| listeners[i].local_addr().expect("an address").port());
        let state = Arc::new(Mutex::new(State::default()));
        let threads = listeners.into_iter().enumerate().map(|(i, listener)| {
            let state = Arc::clone(&state);
            thread::spawn(move || accept(&listener, &state, i == 1, ports))
        });
        Self { threads: threads.collect(), state, ports }
    }

    /// The address for `HF_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Adds a file to a commit of a model.
    pub(crate) fn put(
        &self,
        repository: &str,
        commit: &str,
        name: &str,
        storage: Storage,
        bytes: impl Into<Vec<u8>>,
    ) {
        let key = (repository.to_owned(), commit.to_owned());
        lock(&self.state).files.entry(key).or_default().insert(name.to_owned(), (storage, bytes.into()));
    }

    /// Makes a branch or tag mean a commit.
    pub(crate) fn point(&self, repository: &str, branch: &str, commit: &str) {
        lock(&self.state).branches.insert((repository.to_owned(), branch.to_owned()), commit.to_owned());
    }

    /// Gives a repository another name; what is requested under the old one is redirected.
    pub(crate) fn rename(&self, old: &str, new: &str) {
        lock(&self.state).moved.insert(old.to_owned(), new.to_owned());
    }

    /// Wants large files in parts of so many bytes from now on.
    pub(crate) fn want_parts(&self, part_bytes: usize) {
        lock(&self.state).uploads.part_bytes = part_bytes;
    }

    /// The files of a branch, by name; empty if there is none.
    pub(crate) fn branch(&self, repository: &str, branch: &str) -> BTreeMap<String, (Storage, Vec<u8>)> {
        let state = lock(&self.state);
        find(&state, repository, branch).map(|(_, files)| files.clone()).unwrap_or_default()
    }

    /// Whether a repository that was made here is private; `None` if it was not made here.
    pub(crate) fn is_private(&self, repository: &str) -> Option<bool> {
        lock(&self.state).uploads.repositories.get(repository).copied()
    }

    /// The summaries of the commits that were made here.
    pub(crate) fn commits(&self) -> Vec<String> {
        lock(&self.state).uploads.commits.clone()
    }

    /// Asks for this token from now on.
    pub(crate) fn require_token(&self, token: &str) {
        lock(&self.state).token = Some(token.to_owned());
    }

    /// Lets the next `times` requests with this method and end of path go wrong.
    pub(crate) fn fault(&self, method: &'static str, path_end: &str, fault: Fault, times: u32) {
        lock(&self.state).faults.push((method, path_end.to_owned(), fault, times));
    }

    /// The requests so far, which are then forgotten.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut lock(&self.state).requests)
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        lock(&self.state).stop = true;
        for port in self.ports {
            // Wakes the thread that waits for a connection.
            let _ = TcpStream::connect(("127.0.0.1", port));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The etag that the hub gives to a file.
pub(crate) fn etag(storage: Storage, bytes: &[u8]) -> String {
    let digest: Vec<u8> = match storage {
        Storage::Large => Sha256::digest(bytes).to_vec(),
        Storage::Git => {
            Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize().to_vec()
        }
    };
    hex(&digest)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, state: &Arc<Mutex<State>>, storage: bool, ports: [u16; 2]) {
    for stream in listener.incoming() {
        if lock(state).stop {
            return;
        }
        let (Ok(stream), state) = (stream, Arc::clone(state)) else { continue };
        thread::spawn(move || {
            // A client that goes away in the middle is what some tests are about.
            let _ = serve(stream, &state, storage, ports);
        });
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>, storage: bool, ports: [u16; 2]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let Some(request) = read_request(&stream, storage)? else { return Ok(()) };
    let (answer, fault) = {
        let mut state = lock(state);
        state.requests.push(request.clone());
        let fault = state.faults.iter_mut().find(|(method, end, _, times)| {
            *times > 0
                && *method == request.method
                && request.path.split('?').next().is_some_and(|path| path.ends_with(end.as_str()))
        });
        let fault = fault.map(|(_, _, fault, times)| {
            *times -= 1;
            fault.clone()
        });
        let answer = match &fault {
            Some(Fault::Status(status, code)) => Answer::refusal(*status, code),
            Some(Fault::RateLimit(seconds)) => {
                let mut answer = Answer::refusal(429, "");
                answer.headers.push(("Retry-After", seconds.to_string()));
                answer
            }
            _ => answer(&mut state, &request, ports, fault == Some(Fault::NoRange)),
        };
        (answer, fault)
    };
    while fault == Some(Fault::Silence) && !lock(state).stop {
        thread::sleep(Duration::from_millis(20));
    }
    write_answer(stream, answer, &request, fault.as_ref())
}

fn answer(
    state: &mut State,
    request: &Request,
    [hub_port, storage_port]: [u16; 2],
    no_range: bool,
) -> Answer {
    if request.storage && request.method != "GET" {
        return uploads::store(state, request).unwrap_or_else(|| Answer::refusal(400, ""));
    }
    if let Some(key) = request.path.strip_prefix("/storage/").filter(|_| request.storage) {
        let all = state.files.values().flat_map(|files| files.values());
        return match all.into_iter().find(|(storage, bytes)| etag(*storage, bytes) == key) {
            Some((_, bytes)) => send(bytes, Vec::new(), request, no_range),
            None => Answer::refusal(403, ""),
        };
    }
    if state
        .token
        .as_ref()
        .is_some_and(|token| request.header("authorization") != Some(&format!("Bearer {token}")))
    {
        return Answer::refusal(401, "");
    }
    if let Some(location) = new_address(state, &request.path) {
        return Answer { status: 307, headers: vec![("Location", location)], body: b"moved".to_vec() };
    }
    if request.method == "POST" {
        return uploads::post(state, request, hub_port, storage_port)
            .unwrap_or_else(|| Answer::refusal(400, ""));
    }
    if let Some(rest) = request.path.strip_prefix("/api/models/") {
        return info(state, rest);
    }
    if let Some(rest) = request.path.strip_prefix("/api/") {
        return info(state, rest);
    }
    let Some((repository, rest)) = request.path.trim_start_matches('/').split_once("/resolve/") else {
        return Answer::refusal(404, "");
    };
    let Some((revision, name)) = rest.split_once('/') else { return Answer::refusal(404, "") };
    let Some((commit, files)) = find(state, repository, revision) else {
        return Answer::refusal(404, "RevisionNotFound");
    };
    let Some((storage, bytes)) = files.get(name) else { return Answer::refusal(404, "EntryNotFound") };
    let tag = etag(*storage, bytes);
    let mut headers = vec![("X-Repo-Commit", commit)];
    match storage {
        Storage::Git => {
            headers.push(("ETag", format!("\"{tag}\"")));
            send(bytes, headers, request, no_range)
        }
        Storage::Large => {
            headers.push(("X-Linked-Etag", format!("\"{tag}\"")));
            headers.push(("X-Linked-Size", bytes.len().to_string()));
            headers.push(("Location", format!("http://127.0.0.1:{storage_port}/storage/{tag}")));
            Answer { status: 302, headers, body: b"moved".to_vec() }
        }
    }
}

/// The address under which a repository that has moved is to be asked for.
fn new_address(state: &State, path: &str) -> Option<String> {
    state.moved.iter().find_map(|(old, new)| {
        let at = path.find(&format!("/{old}/")).or_else(|| path.find(&format!("/{old}.git/")))?;
        Some(format!("{}/{new}{}", &path[..at], &path[at + 1 + old.len()..]))
    })
}

fn find<'a>(state: &'a State, repository: &str, revision: &str) -> Option<(String, &'a Files)> {
    let branch = state.branches.get(&(repository.to_owned(), revision.to_owned()));
    let commit = branch.map_or(revision, String::as_str).to_owned();
    let files = state.files.get(&(repository.to_owned(), commit.clone()))?;
    Some((commit, files))
}

fn info(state: &State, rest: &str) -> Answer {
    let (repository, revision) = rest.split_once("/revision/").unwrap_or((rest, "main"));
    if !state.files.keys().any(|(known, _)| known == repository) {
        return Answer::refusal(404, "RepoNotFound");
    }
    let Some((commit, files)) = find(state, repository, &revision.replace("%2F", "/")) else {
        return Answer::refusal(404, "RevisionNotFound");
    };
    let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
    let body = serde_json::json!({ "id": repository, "sha": commit, "siblings": siblings }).to_string();
    Answer {
        status: 200,
        headers: vec![("Content-Type", "application/json".to_owned())],
        body: body.into_bytes(),
    }
}
