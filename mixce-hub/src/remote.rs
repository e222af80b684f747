//! Queries to the hub: a repository's files (through hf-hub), a file's metadata, and its bytes.

use hf_hub::{
    Cache, Repo,
    api::{
        RepoInfo,
        sync::{Api, ApiBuilder},
    },
};
use ureq::{
    Agent, RequestBuilder,
    http::{
        StatusCode,
        header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, RANGE},
    },
};

use crate::{
    address::{Address, escape_path},
    environment::{HubEnvironment, Retries},
    error::{Error, Result},
    files::{check_name, check_word},
    http::{Answer, agent, connection_error, follow, malformed, read_all, text_header},
    refusal::{Question, Refusal},
    retry::with_retries,
    source::RepositoryId,
};

/// A repository at one commit, as the hub describes it.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

/// A file at one commit, as the hub describes it.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    pub(crate) name: String,
    pub(crate) url: Address,
    /// The file's name in the cache and, for the hub's own etags, its checksum.
    pub(crate) etag: String,
    pub(crate) bytes_total: Option<u64>,
}

/// A connection to one hub.
#[derive(Debug)]
pub(crate) struct Remote {
    /// hf-hub's client. It is not given the token, which its `Debug` would show.
    info: Api,
    pub(crate) questions: Agent,
    pub(crate) transfers: Agent,
    pub(crate) environment: HubEnvironment,
    pub(crate) endpoint: Address,
}

impl Remote {
    pub(crate) fn new(environment: HubEnvironment) -> Result<Self> {
        let endpoint = checked_endpoint(&environment.endpoint)?;
        let connect = environment.metadata_timeout;
        // The builder reads the token file beside the cache; `with_token` drops what it found.
        let info = ApiBuilder::from_cache(Cache::new(environment.cache_dir.clone()))
            .with_token(None)
            .with_endpoint(environment.endpoint.clone())
            .with_user_agent("mixce", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| Error::Client { reason: error.to_string() })?;
        Ok(Self {
            info,
            questions: agent(&endpoint, connect, environment.metadata_timeout),
            transfers: agent(&endpoint, connect, environment.transfer_timeout),
            environment,
            endpoint,
        })
    }

    /// The current commit of the repository's revision, and its files.
    pub(crate) fn listing(&self, id: &RepositoryId) -> Result<Listing> {
        let repo = id.repo();
        let url = self.url(&format!("api/{}", repo.api_url()))?;
        let info = with_retries(&self.environment.retries, || {
            let ask =
                |target: &Address| self.info(&repo, target).map_err(|error| connection_error(&url, error));
            let answer = follow(&url, ask, |_| false)?;
            if !answer.status().is_success() {
                return Err(Refusal::read(answer, &url.to_string()).explain(&self.question(id, None)));
            }
            let body = read_all(answer, &url)?;
            serde_json::from_slice::<RepoInfo>(&body).map_err(|error| malformed(&url, &error.to_string()))
        })?;
        check_word("commit", &info.sha, id.repository())?;
        let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        for file in &files {
            check_name("file", file, id.repository())?;
        }
        Ok(Listing { commit: info.sha, files })
    }

    /// hf-hub's query about a repository, sent to `target`, with our timeouts.
    fn info(&self, repo: &Repo, target: &Address) -> std::result::Result<Answer, ureq::Error> {
        let request = self.info.repo(repo.clone()).info_request().uri(target.uri().clone());
        let ours = self.questions.config();
        let (times, tls) = (ours.timeouts(), ours.tls_config().clone());
        self.authorized(request, target)
            .config()
            .http_status_as_error(ours.http_status_as_error())
            .max_redirects(ours.max_redirects())
            .max_redirects_will_error(ours.max_redirects_will_error())
            .timeout_resolve(times.resolve)
            .timeout_connect(times.connect)
            .timeout_per_read(ours.timeout_per_read())
            .timeout_per_write(ours.timeout_per_write())
            .proxy(ours.proxy().cloned())
            .tls_config(tls)
            .build()
            .call()
    }

    /// A file's metadata.
    pub(crate) fn describe(&self, id: &RepositoryId, commit: &str, file: &str) -> Result<RemoteFile> {
        let url = self.url(&format!("{}/resolve/{commit}/{}", id.repo().url(), escape_path(file)))?;
        with_retries(&self.environment.retries, || {
            let ask = |target: &Address| {
                let request = self.plain(self.questions.head(target.uri()), target);
                request.call().map_err(|error| connection_error(&url, error))
            };
            let answer = follow(&url, ask, has_etag)?;
            if !answer.status().is_success() && !answer.status().is_redirection() {
                return Err(Refusal::read(answer, &url.to_string()).explain(&self.question(id, Some(file))));
            }
            let header = |name: &str| text_header(answer.headers(), name);
            let etag = header("x-linked-etag").or_else(|| header(ETAG.as_str()));
            let etag = etag.ok_or_else(|| malformed(&url, "no `ETag` header"))?;
            let etag = etag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
            check_word("etag", &etag, id.repository())?;
            let length = || header(CONTENT_LENGTH.as_str()).filter(|_| answer.status().is_success());
            let bytes_total =
                header("x-linked-size").or_else(length).and_then(|text| text.trim().parse().ok());
            Ok(RemoteFile { name: file.to_owned(), url: url.clone(), etag, bytes_total })
        })
    }

    /// The file's bytes from `offset` on: a response with status 200 (all bytes), 206 (from `offset`) or 416 (none left).
    ///
    /// One attempt; the caller tracks progress and retries.
    pub(crate) fn open(&self, id: &RepositoryId, file: &RemoteFile, offset: u64) -> Result<Answer> {
        let ask = |target: &Address| {
            let mut request = self.plain(self.transfers.get(target.uri()), target);
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            request.call().map_err(|error| connection_error(&file.url, error))
        };
        let answer = follow(&file.url, ask, |_| false)?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => Ok(answer),
            _ => {
                let question = self.question(id, Some(&file.name));
                Err(Refusal::read(answer, &file.url.to_string()).explain(&question))
            }
        }
    }

    pub(crate) fn retries(&self) -> &Retries {
        &self.environment.retries
    }

    /// An address below the hub's.
    pub(crate) fn url(&self, path: &str) -> Result<Address> {
        let text = format!("{}/{path}", self.environment.endpoint);
        Address::parse(&text).ok_or_else(|| Error::InvalidEndpoint {
            endpoint: self.environment.endpoint.clone(),
            reason: format!("`{text}` is no address"),
        })
    }

    /// Adds the token if `target` is the hub's own.
    pub(crate) fn authorized<B>(&self, request: RequestBuilder<B>, target: &Address) -> RequestBuilder<B> {
        match &self.environment.token {
            Some(token) if target.same_origin(&self.endpoint) => {
                request.header(AUTHORIZATION, format!("Bearer {}", token.secret()))
            }
            _ => request,
        }
    }

    /// For a file as it is stored: a compressed answer would have neither its length nor its ranges.
    fn plain<B>(&self, request: RequestBuilder<B>, target: &Address) -> RequestBuilder<B> {
        self.authorized(request, target).header(ACCEPT_ENCODING, "identity")
    }

    fn question<'a>(&'a self, id: &'a RepositoryId, file: Option<&'a str>) -> Question<'a> {
        let token_sent = self.environment.token.is_some();
        Question { endpoint: &self.environment.endpoint, token_sent, id, action: "read", file }
    }
}

/// The hub's address, without a password: addresses end up in messages.
fn checked_endpoint(endpoint: &str) -> Result<Address> {
    let invalid = |endpoint: &str, reason: &str| Error::InvalidEndpoint {
        endpoint: endpoint.to_owned(),
        reason: reason.to_owned(),
    };
    if let Some((_, host)) = endpoint.rsplit_once('@') {
        return Err(invalid(host, "it holds a user name or password; use `HF_TOKEN`"));
    }
    Address::parse(endpoint).ok_or_else(|| invalid(endpoint, "it must be `https://` or `http://` and a host"))
}

fn has_etag(answer: &Answer) -> bool {
    answer.headers().contains_key("x-linked-etag") || answer.headers().contains_key(ETAG)
}
