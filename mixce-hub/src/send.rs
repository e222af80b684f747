//! Requests with a body: `POST` to the hub, and `PUT` to its storage.

use std::{collections::BTreeMap, ops::Range};

use serde::de::DeserializeOwned;
use ureq::{
    RequestBuilder, SendBody,
    http::{
        Uri,
        header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG},
    },
    typestate::WithBody,
};

use crate::{
    address::Address,
    error::{Error, Result},
    http::{Answer, connection_error, follow, malformed, read_all, text_header},
    refusal::{Question, Refusal},
    remote::Remote,
    retry::with_retries,
    source::RepositoryId,
    upload::{LocalFile, without_query},
};

/// The media type of the git LFS protocol.
pub(crate) const LFS_JSON: &str = "application/vnd.git-lfs+json";

impl Remote {
    /// Posts to the hub and returns the response body; transient failures are retried.
    ///
    /// A repository that has moved answers with its new address, to which the same is posted if it is the hub's own.
    pub(crate) fn post(&self, id: &RepositoryId, path: &str, media: &str, body: &[u8]) -> Result<Vec<u8>> {
        let url = self.url(path)?;
        let token_sent = self.environment.token.is_some();
        let endpoint = self.environment.endpoint.as_str();
        let question = Question { endpoint, token_sent, id, action: "write to", file: None };
        let ask = |target: &Address| {
            if !target.same_origin(&self.endpoint) {
                return Err(malformed(&url, "a redirect of an upload to another server"));
            }
            let request = self.questions.post(target.uri());
            let request = request.header(CONTENT_TYPE, media).header(ACCEPT, accepted(media));
            self.authorized(request, target).send(body).map_err(|error| connection_error(&url, error))
        };
        // After 303 and the like another method would be meant; the hub does not use them here.
        let is_answer = |answer: &Answer| !matches!(answer.status().as_u16(), 307 | 308);
        with_retries(&self.environment.retries, || {
            let answer = follow(&url, ask, is_answer)?;
            if answer.status().is_success() {
                return read_all(answer, &url);
            }
            Err(Refusal::read(answer, &url.to_string()).explain(&question))
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

    /// A response that violates the hub's protocol.
    pub(crate) fn malformed(&self, path: &str, reason: &str) -> Error {
        Error::Malformed { url: format!("{}/{path}", self.environment.endpoint), reason: reason.to_owned() }
    }

    /// Posts JSON to an address that the storage protocol has given; it gets the token only if it is the hub's own.
    pub(crate) fn post_action(
        &self,
        href: &str,
        headers: &BTreeMap<String, String>,
        body: &[u8],
    ) -> Result<()> {
        with_retries(&self.environment.retries, || {
            let request = self.action(href, headers, |uri| self.questions.post(uri))?;
            let request = request.header(CONTENT_TYPE, LFS_JSON).header(ACCEPT, LFS_JSON);
            self.finish(request.send(body), href).map(|_| ())
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
            let request = self.action(href, headers, |uri| self.transfers.put(uri))?;
            // With its length: storage takes no chunks.
            let request = request.header(CONTENT_LENGTH, length);
            let body = SendBody::from_owned_reader(file.open(range.start, length)?);
            let answer = self.finish(request.send(body), href)?;
            Ok(text_header(answer.headers(), ETAG.as_str()))
        })
    }

    fn action(
        &self,
        href: &str,
        headers: &BTreeMap<String, String>,
        method: impl Fn(&Uri) -> RequestBuilder<WithBody>,
    ) -> Result<RequestBuilder<WithBody>> {
        let target = Address::parse(href).ok_or_else(|| Error::Malformed {
            url: without_query(href),
            reason: "the storage gave no http(s) address".to_owned(),
        })?;
        let mut request = method(target.uri());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // What the protocol gives as `Authorization` goes before our own.
        let own = headers.keys().any(|name| name.eq_ignore_ascii_case(AUTHORIZATION.as_str()));
        Ok(if own { request } else { self.authorized(request, &target) })
    }

    fn finish(&self, sent: std::result::Result<Answer, ureq::Error>, href: &str) -> Result<Answer> {
        let shown = without_query(href);
        let answer = sent.map_err(|error| connection_error(&shown, error))?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(Refusal::read(answer, &shown).plain(&self.environment.endpoint))
        }
    }
}

fn accepted(media: &str) -> &str {
    if media == LFS_JSON { LFS_JSON } else { "application/json" }
}
