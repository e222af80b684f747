//! Requests through ureq: timeouts, proxies, redirects, and mapping of failures.

use std::{fmt, time::Duration};

use ureq::{
    Agent, Body, Proxy,
    http::{HeaderMap, Response, header::LOCATION},
    tls::{RootCerts, TlsConfig},
};

use crate::{
    address::Address,
    error::{Error, Result},
};

/// Maximum number of redirects.
const MAX_REDIRECTS: usize = 10;
/// Maximum response size in memory: the listing of a data set with a million files is smaller.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// A response whose body has not been read.
pub(crate) type Answer = Response<Body>;

/// A client with the timeouts `connect` for connecting and `silence` for a stalled connection.
///
/// Statuses are not errors and redirects are not followed: see [`follow`]. Uses the system's trusted certificates.
pub(crate) fn agent(endpoint: &Address, connect: Duration, silence: Duration) -> Agent {
    // A hub on localhost is not reached through a proxy.
    let proxy = if endpoint.is_loopback() { None } else { Proxy::try_from_env() };
    let certificates = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    Agent::config_builder()
        .user_agent(concat!("mixce/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(connect))
        .timeout_connect(Some(connect))
        .timeout_per_read(Some(silence))
        .timeout_per_write(Some(silence))
        .proxy(proxy)
        .tls_config(certificates)
        .build()
        .into()
}

/// Asks `url`, and follows redirects until `enough` says that a redirect itself is the answer.
///
/// `ask` is given each address in turn and decides what it may be sent: the hub redirects large files to storage elsewhere.
pub(crate) fn follow(
    url: &Address,
    ask: impl Fn(&Address) -> Result<Answer>,
    enough: impl Fn(&Answer) -> bool,
) -> Result<Answer> {
    let mut target = url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let answer = ask(&target)?;
        if !answer.status().is_redirection() || enough(&answer) {
            return Ok(answer);
        }
        let location = text_header(answer.headers(), LOCATION.as_str());
        let location = location.ok_or_else(|| malformed(url, "a redirect without `Location`"))?;
        target = target
            .join(&location)
            .ok_or_else(|| malformed(url, "a redirect to something other than an http(s) address"))?;
    }
    Err(malformed(url, &format!("more than {MAX_REDIRECTS} redirects")))
}

/// The whole body of an answer of the hub.
pub(crate) fn read_all(answer: Answer, url: &Address) -> Result<Vec<u8>> {
    let body = answer.into_body().into_with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
    body.map_err(|error| connection_error(url, error))
}

/// The value of a header, if it is text.
pub(crate) fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// A lost, refused or stalled connection, or an invalid HTTP response.
pub(crate) fn connection_error(url: impl fmt::Display, error: ureq::Error) -> Error {
    let reason = match error {
        ureq::Error::Timeout(_) => "timed out".to_owned(),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Http(_)
        | ureq::Error::Protocol(_)
        | ureq::Error::LargeResponseHeader(..)
        | ureq::Error::BodyExceedsLimit(_)
        | ureq::Error::Decompress(..) => {
            return Error::Malformed { url: url.to_string(), reason: error.to_string() };
        }
        error => error.to_string(),
    };
    Error::Connection { url: url.to_string(), reason }
}

pub(crate) fn malformed(url: &Address, reason: &str) -> Error {
    Error::Malformed { url: url.to_string(), reason: reason.to_owned() }
}
