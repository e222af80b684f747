//! Requests that change something: questions with a body to the hub, and bytes to its storage.

use std::{collections::BTreeMap, ops::Range};

use reqwest::{
    Method, Url,
    blocking::{Body, Client, RequestBuilder, Response},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG},
};
use serde::de::DeserializeOwned;

use crate::{
    error::{Error, Result},
    refusal::{Question, Refusal, text_header},
    remote::{MAX_REDIRECTS, Remote, connection_error, malformed_redirect, redirect_target, with_retries},
    source::RepositoryId,
    upload::{LocalFile, without_query},
};

/// The media type of the git LFS protocol.
pub(crate) const LFS_JSON: &str = "application/vnd.git-lfs+json";

impl Remote {
    /// An address below the hub's.
    pub(crate) fn url(&self, path: &str) -> Result<Url> {
        let text = format!("{}/{path}", self.environment.endpoint);
        Url::parse(&text).map_err(|error| Error::InvalidEndpoint {
            endpoint: self.environment.endpoint.clone(),
            reason: error.to_string(),
        })
    }

    /// Posts to the hub and gives the answer's body; repeated while it fails for reasons that may pass.
    pub(crate) fn post(&self, id: &RepositoryId, path: &str, media: &str, body: &[u8]) -> Result<Vec<u8>> {
        let url = self.url(path)?;
        let token_sent = self.environment.token.is_some();
        let endpoint = self.environment.endpoint.as_str();
        let question = Question { endpoint, token_sent, id, action: "write to", file: None };
        with_retries(&self.environment.retries, || {
            let response = self.post_following(&url, media, body)?;
            if response.status().is_success() {
                let body = response.bytes().map_err(|error| connection_error(url.as_str(), error))?;
                return Ok(body.to_vec());
            }
            Err(Refusal::read(response, url.as_str()).explain(&question))
        })
    }

    /// [`Self::post`], and what the answer says.
    pub(crate) fn post_for<T: DeserializeOwned>(
        &self,
        id: &RepositoryId,
        path: &str,
        media: &str,
        body: &[u8],
    ) -> Result<T> {
        let bytes = self.post(id, path, media, body)?;
        serde_json::from_slice(&bytes).map_err(|error| self.malformed(path, &error.to_string()))
    }

    /// A repository that has moved answers with its new address, to which the same is posted. The token stays with the hub's own origin.
    fn post_following(&self, url: &Url, media: &str, body: &[u8]) -> Result<Response> {
        let mut target = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let request = self
                .questions
                .post(target.clone())
                .header(CONTENT_TYPE, media)
                .header(ACCEPT, accepted(media));
            let response = self.authorized(request, &target, url).body(body.to_vec()).send();
            let response = response.map_err(|error| connection_error(url.as_str(), error))?;
            // After 303 and the like another method would be meant; the hub does not use them here.
            if !matches!(response.status().as_u16(), 307 | 308) {
                return Ok(response);
            }
            target = redirect_target(&response, url, &target)?;
            if target.origin() != url.origin() {
                return Err(malformed_redirect(url, "a redirect of an upload to another server"));
            }
        }
        Err(malformed_redirect(url, &format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// With the token where `target` is the hub's own.
    pub(crate) fn authorized(&self, request: RequestBuilder, target: &Url, hub: &Url) -> RequestBuilder {
        match &self.environment.token {
            Some(token) if target.origin() == hub.origin() => {
                request.header(AUTHORIZATION, format!("Bearer {}", token.secret()))
            }
            _ => request,
        }
    }

    /// Posts JSON to an address that the storage protocol has given; it gets the token only if it is the hub's own.
    pub(crate) fn post_action(
        &self,
        href: &str,
        headers: &BTreeMap<String, String>,
        body: &[u8],
    ) -> Result<()> {
        with_retries(&self.environment.retries, || {
            let request = self.action(&self.questions, Method::POST, href, headers)?;
            let request = request.header(CONTENT_TYPE, LFS_JSON).header(ACCEPT, LFS_JSON);
            self.finish(request.body(body.to_vec()), href).map(|_| ())
        })
    }

    /// Puts some bytes of a file to an address that the storage protocol has given; gives the `ETag` of the answer.
    pub(crate) fn put(
        &self,
        href: &str,
        headers: &BTreeMap<String, String>,
        file: &LocalFile,
        range: Range<u64>,
    ) -> Result<Option<String>> {
        let length = range.end - range.start;
        with_retries(&self.environment.retries, || {
            let body = Body::sized(file.open(range.start, length)?, length);
            let request = self.action(&self.transfers, Method::PUT, href, headers)?;
            let response = self.finish(request.body(body), href)?;
            Ok(text_header(response.headers(), ETAG.as_str()))
        })
    }

    fn action(
        &self,
        client: &Client,
        method: Method,
        href: &str,
        headers: &BTreeMap<String, String>,
    ) -> Result<RequestBuilder> {
        let url = Url::parse(href).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| Error::Malformed {
            url: without_query(href),
            reason: "the storage gave no http(s) address".to_owned(),
        })?;
        let hub = self.url("")?;
        let mut request = client.request(method, url.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // What the protocol gives as `Authorization` goes before our own.
        let own = headers.keys().any(|name| name.eq_ignore_ascii_case(AUTHORIZATION.as_str()));
        Ok(if own { request } else { self.authorized(request, &url, &hub) })
    }

    fn finish(&self, request: RequestBuilder, href: &str) -> Result<Response> {
        let shown = without_query(href);
        let response = request.send().map_err(|error| connection_error(&shown, error))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(Refusal::read(response, &shown).plain(&self.environment.endpoint))
        }
    }
}

fn accepted(media: &str) -> &str {
    if media == LFS_JSON { LFS_JSON } else { "application/json" }
}
