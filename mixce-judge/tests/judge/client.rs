//! A browser of fifty lines, and a server on a thread.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use mixce_judge::{Link, ServeSettings, Server};
use tokio::sync::oneshot;

/// A response.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Path and texts of the pair on this page.
    pub(crate) fn pair(&self) -> Option<(String, String, String)> {
        let action = between(&self.body, "class=\"answer\" method=\"post\" action=\"", "\"")?;
        Some((action, self.text("a")?, self.text("b")?))
    }

    /// The content of a text, still escaped.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        between(&self.body, &format!("aria-labelledby=\"texts-{name}\">"), "</div>")
    }
}

fn between(text: &str, start: &str, end: &str) -> Option<String> {
    let from = text.find(start)? + start.len();
    let to = from + text[from..].find(end)?;
    Some(text[from..to].to_owned())
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Page {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"))
}

pub(crate) fn post(address: SocketAddr, path: &str, form: &str) -> Page {
    let head = "Content-Type: application/x-www-form-urlencoded\r\nConnection: close";
    let length = form.len();
    send(
        address,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{form}"
        ),
    )
}

pub(crate) fn send(address: SocketAddr, request: &str) -> Page {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Page { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// A server that ends when it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) links: Vec<Link>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(study: &Path) -> Self {
        Self::with(study, &ServeSettings::default())
    }

    pub(crate) fn with(study: &Path, settings: &ServeSettings) -> Self {
        let server = Server::bind(study, settings).unwrap();
        let (address, links) = (server.address(), server.links().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let until = async {
            let _ = stopped.await;
            Ok(())
        };
        let thread = std::thread::spawn(move || server.run_until(until).unwrap());
        Self { address, links, stop: Some(stop), thread: Some(thread) }
    }

    /// The path of a judge's pages.
    pub(crate) fn home(&self, judge: usize) -> String {
        path_of(&self.links[judge - 1])
    }

    /// Confirms the instructions and answers up to `most` tasks by a rule; returns their number.
    pub(crate) fn work(&self, judge: usize, most: usize, rule: &dyn Fn(&str, &str) -> i8) -> usize {
        work(self.address, &self.home(judge), most, rule)
    }
}

pub(crate) fn path_of(link: &Link) -> String {
    link.url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned())).unwrap()
}

pub(crate) fn work(address: SocketAddr, home: &str, most: usize, rule: &dyn Fn(&str, &str) -> i8) -> usize {
    assert_eq!(post(address, &format!("{home}/begin"), "").status, 303);
    for done in 0..most {
        let Some((action, a, b)) = get(address, &format!("{home}/task")).pair() else { return done };
        let page = post(address, &action, &format!("choice={}", rule(a.trim(), b.trim())));
        assert_eq!(
            (page.status, page.header("location")),
            (303, Some(&*format!("{home}/task"))),
            "{}",
            page.body
        );
    }
    most
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}
