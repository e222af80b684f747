//! Questions to the hub: what a model is made of (through hf-hub), what a file is, and its bytes (through reqwest).

use std::{error::Error as _, thread, time::Duration};

use hf_hub::{HFClient, HFClientSync, HFError};
use reqwest::{
    Method, StatusCode, Url,
    blocking::{Client, Response},
    header::{ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, LOCATION, RANGE},
    redirect,
};

use crate::{
    environment::{HubEnvironment, Retries},
    error::{Error, Result},
    files::{check_name, check_word},
    refusal::{Question, Refusal, text_header},
    source::{RepositoryId, RepositoryKind},
};

/// A chain of redirects that is longer is a loop.
pub(crate) const MAX_REDIRECTS: usize = 10;
/// Given to hf-hub when there is no token. hf-hub would otherwise look for one in the process environment by itself; a
/// line break cannot stand in a header, so it sends none.
const NO_TOKEN: &str = "\n";

/// A model at one commit, as the hub describes it.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

/// A file at one commit, as the hub describes it.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    pub(crate) name: String,
    pub(crate) url: Url,
    /// The file's name in the cache and, for the hub's own etags, its checksum.
    pub(crate) etag: String,
    pub(crate) bytes_total: Option<u64>,
}

/// A connection to one hub.
#[derive(Debug)]
pub(crate) struct Remote {
    metadata: HFClientSync,
    pub(crate) questions: Client,
    pub(crate) transfers: Client,
    pub(crate) environment: HubEnvironment,
}

impl Remote {
    pub(crate) fn new(environment: HubEnvironment) -> Result<Self> {
        let invalid = |reason: &str| Error::InvalidEndpoint {
            endpoint: environment.endpoint.clone(),
            reason: reason.to_owned(),
        };
        let endpoint = Url::parse(&environment.endpoint).map_err(|error| invalid(&error.to_string()))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err(invalid("it must begin with `https://` or `http://`"));
        }
        if endpoint.password().is_some() || !endpoint.username().is_empty() {
            // An address ends up in messages, a password must not.
            return Err(Error::InvalidEndpoint {
                endpoint: endpoint.host_str().unwrap_or_default().to_owned(),
                reason: "it holds a user name or password; use `HF_TOKEN`".to_owned(),
            });
        }
        // A hub on this machine is not reached through a proxy.
        let loopback = matches!(endpoint.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let blocking = |silence: Duration| {
            let builder = Client::builder()
                .user_agent(USER_AGENT)
                .redirect(redirect::Policy::none())
                .connect_timeout(environment.metadata_timeout)
                .timeout(silence);
            if loopback { builder.no_proxy() } else { builder }.build().map_err(client_error)
        };
        Ok(Self {
            metadata: metadata_client(&environment, loopback)?,
            questions: blocking(environment.metadata_timeout)?,
            transfers: blocking(environment.transfer_timeout)?,
            environment,
        })
    }

    /// The commit that the model's revision means now, and the files it has.
    pub(crate) fn listing(&self, id: &RepositoryId) -> Result<Listing> {
        let url = format!("{}/api/{}/{}", self.environment.endpoint, id.kind().plural(), id.repository());
        let (owner, name) = id.owner_and_name();
        let (sha, siblings) = with_retries(&self.environment.retries, || {
            let answer = match id.kind() {
                RepositoryKind::Model => {
                    let info = self.metadata.model(owner, name).info().revision(id.revision()).send();
                    info.map(|info| (info.sha, info.siblings))
                }
                RepositoryKind::Dataset => {
                    let info = self.metadata.dataset(owner, name).info().revision(id.revision()).send();
                    info.map(|info| (info.sha, info.siblings))
                }
            };
            answer.map_err(|error| explain(error, &url, &self.question(id, None)))
        })?;
        let missing = |what: &str| Error::Malformed { url: url.clone(), reason: format!("no `{what}`") };
        let commit = sha.ok_or_else(|| missing("sha"))?;
        check_word("commit", &commit, id.repository())?;
        let siblings = siblings.ok_or_else(|| missing("siblings"))?;
        let files: Vec<String> = siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        for file in &files {
            check_name("file", file, id.repository())?;
        }
        Ok(Listing { commit, files })
    }

    /// What the hub says about a file, without its bytes.
    pub(crate) fn describe(&self, id: &RepositoryId, commit: &str, file: &str) -> Result<RemoteFile> {
        let url = self.file_url(id, commit, file)?;
        with_retries(&self.environment.retries, || {
            let response = self.send(&self.questions, Method::HEAD, &url, None, has_etag)?;
            if !response.status().is_success() && !response.status().is_redirection() {
                return Err(Refusal::read(response, url.as_str()).explain(&self.question(id, Some(file))));
            }
            let header = |name: &str| text_header(response.headers(), name);
            let etag = header("x-linked-etag").or_else(|| header(ETAG.as_str())).ok_or_else(|| {
                Error::Malformed { url: url.to_string(), reason: "no `ETag` header".to_owned() }
            })?;
            let etag = etag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
            check_word("etag", &etag, id.repository())?;
            let length = || header(CONTENT_LENGTH.as_str()).filter(|_| response.status().is_success());
            let bytes_total =
                header("x-linked-size").or_else(length).and_then(|text| text.trim().parse().ok());
            Ok(RemoteFile { name: file.to_owned(), url: url.clone(), etag, bytes_total })
        })
    }

    /// The file's bytes from `offset` on: a response with status 200 (all bytes), 206 (from `offset`) or 416 (none left).
    ///
    /// One attempt; the caller knows what it has got and repeats.
    pub(crate) fn open(&self, id: &RepositoryId, file: &RemoteFile, offset: u64) -> Result<Response> {
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let response = self.send(&self.transfers, Method::GET, &file.url, range.as_deref(), |_| false)?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => Ok(response),
            _ => {
                Err(Refusal::read(response, file.url.as_str()).explain(&self.question(id, Some(&file.name))))
            }
        }
    }

    pub(crate) fn retries(&self) -> &Retries {
        &self.environment.retries
    }

    /// Sends a request and follows redirects until `enough` says that a redirect itself is the answer.
    ///
    /// The token goes to the hub's own origin alone: the hub redirects large files to storage elsewhere.
    fn send(
        &self,
        client: &Client,
        method: Method,
        url: &Url,
        range: Option<&str>,
        enough: impl Fn(&Response) -> bool,
    ) -> Result<Response> {
        let mut target = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request =
                client.request(method.clone(), target.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            let response = self
                .authorized(request, &target, url)
                .send()
                .map_err(|error| connection_error(url.as_str(), error))?;
            if !response.status().is_redirection() || enough(&response) {
                return Ok(response);
            }
            target = redirect_target(&response, url, &target)?;
        }
        Err(malformed_redirect(url, &format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// An answer of the hub that is not what its protocol says.
    pub(crate) fn malformed(&self, path: &str, reason: &str) -> Error {
        Error::Malformed { url: format!("{}/{path}", self.environment.endpoint), reason: reason.to_owned() }
    }

    fn question<'a>(&'a self, id: &'a RepositoryId, file: Option<&'a str>) -> Question<'a> {
        let token_sent = self.environment.token.is_some();
        Question { endpoint: &self.environment.endpoint, token_sent, id, action: "read", file }
    }

    fn file_url(&self, id: &RepositoryId, commit: &str, file: &str) -> Result<Url> {
        let invalid =
            |reason: String| Error::InvalidEndpoint { endpoint: self.environment.endpoint.clone(), reason };
        let mut url = Url::parse(&self.environment.endpoint).map_err(|error| invalid(error.to_string()))?;
        url.path_segments_mut()
            .map_err(|()| invalid("it cannot hold a path".to_owned()))?
            .pop_if_empty()
            .extend((id.kind() == RepositoryKind::Dataset).then_some("datasets"))
            .extend(id.repository().split('/'))
            .extend(["resolve", commit])
            .extend(file.split('/'));
        Ok(url)
    }
}

/// hf-hub's error in our words.
fn explain(error: HFError, url: &str, question: &Question<'_>) -> Error {
    match (Refusal::from_hf(&error), error) {
        (Some(refusal), _) => refusal.explain(question),
        (None, HFError::Request { source, .. }) => connection_error(url, source),
        (None, other) => Error::Malformed { url: url.to_owned(), reason: other.to_string() },
    }
}

const USER_AGENT: &str = concat!("mixce/", env!("CARGO_PKG_VERSION"));

fn metadata_client(environment: &HubEnvironment, loopback: bool) -> Result<HFClientSync> {
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(environment.metadata_timeout)
        .timeout(environment.metadata_timeout);
    let client = if loopback { builder.no_proxy() } else { builder }.build().map_err(client_error)?;
    HFClient::builder()
        .endpoint(&environment.endpoint)
        .token(environment.token.as_ref().map_or(NO_TOKEN, |token| token.secret()))
        .cache_dir(&environment.cache_dir)
        .client(client)
        // We repeat requests ourselves: hf-hub neither heeds `Retry-After` nor repeats after a loss within an answer.
        .retry_max_attempts(0)
        .build_sync()
        .map_err(|error| Error::Client { reason: error.to_string() })
}

fn has_etag(response: &Response) -> bool {
    response.headers().contains_key("x-linked-etag") || response.headers().contains_key(ETAG)
}

fn client_error(error: reqwest::Error) -> Error {
    Error::Client { reason: reasons(&error.without_url()) }
}

/// A lost, refused or silent connection; or an answer that is no JSON.
pub(crate) fn connection_error(url: &str, error: reqwest::Error) -> Error {
    let (timeout, error) = (error.is_timeout(), error.without_url());
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<serde_json::Error>() {
            return Error::Malformed { url: url.to_owned(), reason: cause.to_string() };
        }
        source = cause.source();
    }
    let reason = if timeout { "no answer within the time limit".to_owned() } else { reasons(&error) };
    Error::Connection { url: url.to_owned(), reason }
}

/// An error and its causes in one line, without repetition.
pub(crate) fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Repeats a request while it fails for reasons that may pass.
pub(crate) fn with_retries<T>(retries: &Retries, mut request: impl FnMut() -> Result<T>) -> Result<T> {
    let mut failures = 0;
    loop {
        match request() {
            Ok(value) => return Ok(value),
            Err(error) => {
                failures += 1;
                pause(retries, failures, error)?;
            }
        }
    }
}

/// Waits after the `failures`-th failure in a row, or gives the error back if repeating is no use.
pub(crate) fn pause(retries: &Retries, failures: u32, error: Error) -> Result<()> {
    let asked = error.retry_after().unwrap_or_default();
    if !error.is_transient() || failures >= retries.attempts || asked > retries.longest_wait {
        return Err(error);
    }
    let delay =
        retries.first_delay.saturating_mul(1 << (failures - 1).min(10)).max(asked).min(retries.longest_wait);
    tracing::info!(%error, delay_s = delay.as_secs_f64(), "trying again");
    thread::sleep(delay);
    Ok(())
}

/// Where a redirect of a request to `url` leads, which has come as far as `at`.
pub(crate) fn redirect_target(response: &Response, url: &Url, at: &Url) -> Result<Url> {
    let location = text_header(response.headers(), LOCATION.as_str());
    let location = location.ok_or_else(|| malformed_redirect(url, "a redirect without `Location`"))?;
    let target = at.join(&location).map_err(|_| malformed_redirect(url, "a redirect to no address"))?;
    if !matches!(target.scheme(), "http" | "https") {
        return Err(malformed_redirect(url, "a redirect to something that is not http(s)"));
    }
    Ok(target)
}

pub(crate) fn malformed_redirect(url: &Url, reason: &str) -> Error {
    Error::Malformed { url: url.to_string(), reason: reason.to_owned() }
}
