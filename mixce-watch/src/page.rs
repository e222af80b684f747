//! The report on a folder as a page on this machine, which is made anew when the files change and then reloads itself.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use mixce_report::{Live, Report, Settings, Study, live_message};
use mixce_web::{is_local_name, protect, until_set};

use crate::error::Error;
use crate::files::entries;
use crate::run::Run;
use crate::text::{duration, run_state, sweep_state};
use crate::watch::{Snapshot, Watch};

/// Beside the policy in the page itself, which names its script and style by their digests; both hold.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// How long open requests may take to finish after a signal.
const GRACE: Duration = Duration::from_millis(300);
/// The files are looked at again after this time at the earliest.
const LEAST_AGE: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 1000 });
/// And a page is kept for at least this many times of what it took to make.
const TIMES: u32 = 4;
/// Folders of weights, whose files are not part of a report.
const WEIGHTS: [&str; 3] = ["checkpoints", "best", "final"];

/// How a folder is served.
#[derive(Clone, Debug)]
pub struct PageSettings {
    /// Port on the loopback address; 0 takes a free one.
    pub port: u16,
    /// Settings of the report.
    pub report: Settings,
}

/// The page of a folder on an open port, not yet served.
#[derive(Debug)]
pub struct Page {
    server: mixce_web::Server,
    maker: Arc<Maker>,
}

impl Page {
    /// Opens the port.
    ///
    /// # Errors
    /// When the folder is not that of a run or sweep, or the port cannot be opened.
    pub fn bind(folder: &Path, settings: PageSettings) -> Result<Self, Error> {
        let watch = Watch::open(folder)?;
        let wanted = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), settings.port);
        let server = mixce_web::Server::bind(wanted)
            .map_err(|source| Error::Listen { address: wanted.to_string(), source })?;
        let made =
            Mutex::new(Made { watch, of: None, at: None, took: Duration::ZERO, current: Arc::default() });
        let maker = Arc::new(Maker { folder: folder.to_owned(), settings: settings.report, made });
        Ok(Self { server, maker })
    }

    /// The address that was opened.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Serves on this thread until the flag is set.
    ///
    /// # Errors
    /// When the server cannot be set up.
    pub fn run_until_set(self, stop: &AtomicBool) -> Result<(), Error> {
        let router = Router::new()
            .route("/", get(page))
            .route("/{folder}/{file}", get(file))
            .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
            .layer(from_fn(guard))
            .with_state(self.maker);
        let served = self.server.run_until(router, until_set(stop), GRACE);
        served.map_err(|source| Error::Serve { source })
    }
}

/// Makes the page, and keeps it while the files stay as they are.
#[derive(Debug)]
struct Maker {
    folder: PathBuf,
    settings: Settings,
    made: Mutex<Made>,
}

#[derive(Debug)]
struct Made {
    watch: Watch,
    /// Fingerprint of the files that the page is of; none if it could not be made.
    of: Option<u64>,
    at: Option<Instant>,
    took: Duration,
    current: Arc<Files>,
}

/// The files of a report.
#[derive(Debug, Default)]
struct Files {
    version: String,
    page: String,
    others: BTreeMap<String, String>,
}

impl Maker {
    fn current(&self) -> Arc<Files> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let least = LEAST_AGE.max(made.took * TIMES);
        if made.at.is_some_and(|at| at.elapsed() < least) {
            return Arc::clone(&made.current);
        }
        let began = Instant::now();
        let snapshot = made.watch.poll();
        let status = status(&snapshot);
        let found = fingerprint(&self.folder, &status);
        if made.of != Some(found) {
            let version = format!("{found:016x}");
            match self.make(&version, &status) {
                Ok(files) => (made.of, made.current) = (Some(found), Arc::new(files)),
                // A file is half-written: the last page stays.
                Err(problem) if made.current.page.is_empty() || made.current.others.is_empty() => {
                    let page = live_message(&Live { version: &version, status: &status }, &problem);
                    made.current = Arc::new(Files { version, page, others: BTreeMap::new() });
                }
                Err(_) => {}
            }
        }
        (made.at, made.took) = (Some(Instant::now()), began.elapsed());
        Arc::clone(&made.current)
    }

    fn make(&self, version: &str, status: &str) -> Result<Files, String> {
        let report = Study::read(std::slice::from_ref(&self.folder))
            .and_then(|study| Report::new(study, self.settings.clone()))
            .map_err(|error| error.to_string())?;
        let page = report.live_page(&Live { version, status });
        let others = report.tables_and_figures().into_iter().collect();
        Ok(Files { version: version.to_owned(), page, others })
    }
}

/// How the run or sweep stands, in a sentence.
fn status(snapshot: &Snapshot) -> String {
    let left = |seconds: Option<f64>| {
        seconds.map_or_else(String::new, |seconds| format!(", about {} left", duration(seconds)))
    };
    match snapshot {
        Snapshot::Run(run) => format!("{}{}{}", capital(&run_state(run)), steps(run), left(run.seconds_left)),
        Snapshot::Sweep(sweep) => {
            let (done, all) = sweep.progress();
            let state = capital(sweep_state(sweep.state));
            format!("{state}: {done} of {all} cells{}", left(sweep.seconds_left))
        }
    }
}

fn steps(run: &Run) -> String {
    run.progress().map_or_else(String::new, |(done, total)| format!(": step {done} of {total}"))
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// A number that changes when a file of the folder does: of names, lengths and times.
fn fingerprint(folder: &Path, status: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    status.hash(&mut hasher);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for (name, path) in entries(&folder) {
            let Ok(found) = path.symlink_metadata() else { continue };
            if found.is_dir() && !WEIGHTS.contains(&name.as_str()) {
                folders.push(path.clone());
            } else if found.is_file() && !name.starts_with('.') {
                (&path, found.len(), found.modified().ok()).hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

/// Makes the page on a thread that may block.
async fn current(maker: Arc<Maker>) -> Option<Arc<Files>> {
    tokio::task::spawn_blocking(move || maker.current()).await.ok()
}

async fn page(State(maker): State<Arc<Maker>>, headers: HeaderMap) -> Response {
    let Some(files) = current(maker).await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let tag = format!("\"{}\"", files.version);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let status = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let body = if known { String::new() } else { files.page.clone() };
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    let tag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""));
    (status, [(header::CONTENT_TYPE, kind), (header::ETAG, tag)], body).into_response()
}

async fn file(State(maker): State<Arc<Maker>>, request: Request) -> Response {
    let name = request.uri().path().trim_start_matches('/').to_owned();
    let files = current(maker).await;
    let Some(text) = files.as_ref().and_then(|files| files.others.get(&name)) else {
        return (StatusCode::NOT_FOUND, "There is no such file.\n").into_response();
    };
    let kind = match name.rsplit('.').next() {
        Some("svg") => "image/svg+xml",
        Some("csv") => "text/csv; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    };
    ([(header::CONTENT_TYPE, kind)], text.clone()).into_response()
}

async fn guard(request: Request, next: Next) -> Response {
    let mut response = match is_local_name(request.headers().get(header::HOST)) {
        true => next.run(request).await,
        // Another website may point its own name at this machine.
        false => {
            (StatusCode::MISDIRECTED_REQUEST, "This server answers to local names only.\n").into_response()
        }
    };
    protect(response.headers_mut(), POLICY);
    response
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::sync::atomic::Ordering;

    use mixce_report::Resampling;

    use super::*;

    fn ask(address: SocketAddr, path: &str, more: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        let host = if more.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
        write!(stream, "GET {path} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    #[test]
    fn the_page_follows_the_files_and_ends_at_once() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().to_owned();
        let resampling = Resampling { resamples: 10, level: 0.95, seed: 1 };
        let report = Settings { title: None, samples: 3, resampling, version: "0.1.0".into() };
        let page = Page::bind(&folder, PageSettings { port: 0, report }).unwrap();
        let (address, stop) = (page.address(), AtomicBool::new(false));
        let maker = Arc::clone(&page.maker);
        // Asks until the files are looked at again.
        let look_again = || {
            let began = Instant::now();
            while maker.made.lock().unwrap().at <= Some(began) {
                assert!(began.elapsed() < Duration::from_secs(30), "nobody looks at the files");
                std::thread::sleep(LEAST_AGE / 4);
                ask(address, "/", "");
            }
        };
        std::thread::scope(|scope| {
            let served = scope.spawn(|| page.run_until_set(&stop));
            let (head, body) = ask(address, "/", "");
            assert!(
                head.starts_with("http/1.1 200")
                    && head.contains("content-security-policy: default-src 'none'"),
                "{head}"
            );
            assert!(
                body.contains("There is nothing to report yet")
                    && body.contains("Waiting for its first step"),
                "{body}"
            );

            fs::write(folder.join("run.toml"), "objective = \"mle\"\n[provenance]\ntotal_steps = 4\n")
                .unwrap();
            fs::write(folder.join("metrics.jsonl"), "{\"step\":1,\"nll\":3.0}\n{\"step\":2,\"nll\":2.0}\n")
                .unwrap();
            look_again();
            let (head, body) = ask(address, "/", "");
            assert!(
                body.contains("<h1>")
                    && body.contains("step 2 of 4")
                    && body.contains("http-equiv=\"refresh\""),
                "{body}"
            );
            let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
            let known = format!("If-None-Match: {tag}\r\n");
            assert!(ask(address, "/", &known).0.starts_with("http/1.1 304"));
            assert!(ask(address, "/tables/cells.csv", "").1.starts_with("system,"));
            assert!(ask(address, "/figures/none.svg", "").0.starts_with("http/1.1 404"));
            assert!(ask(address, "/..%2f..%2fetc/passwd", "").0.starts_with("http/1.1 404"));
            assert!(ask(address, "/", "Host: evil.example\r\n").0.starts_with("http/1.1 421"));

            fs::write(folder.join("metrics.jsonl"), "{\"step\":3,\"nll\":1.0}\n").unwrap();
            look_again();
            let (head, body) = ask(address, "/", &known);
            assert!(head.starts_with("http/1.1 200") && body.contains("step 3 of 4"), "{head}");
            // Half-written settings leave the last page.
            fs::write(folder.join("run.toml"), "objective = ").unwrap();
            look_again();
            assert!(ask(address, "/", "").1.contains("<h1>"));

            let _open = TcpStream::connect(address).unwrap();
            let told = Instant::now();
            stop.store(true, Ordering::Relaxed);
            served.join().unwrap().unwrap();
            assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
        });
    }
}
