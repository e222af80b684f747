//! Headers of requests and responses that keep other websites out.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Sent with every response, beside a content security policy: nothing is guessed, framed, or shared with other sites.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // The address of a page may hold a secret.
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// Adds the security headers and the content security policy to a response, which is not cached unless it says otherwise.
pub fn protect(headers: &mut HeaderMap, policy: &'static str) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// Whether a `Host` header names this machine: `localhost` or a loopback address, with or without a port. Another website may point its own
/// name at this machine, and could then read what a local server shows; the name gives it away.
#[must_use]
pub fn is_local_name(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else { return false };
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return address.is_loopback();
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart() {
        let is_local = |host: &'static str| is_local_name(Some(&HeaderValue::from_static(host)));
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80", "::1"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "10.0.0.1:80", "127.0.0.1.evil.example:80"]
        {
            assert!(!is_local(host), "{host}");
        }
        assert!(!is_local_name(None));
    }

    #[test]
    fn a_response_may_be_cached_only_if_it_says_so() {
        let mut headers = HeaderMap::new();
        protect(&mut headers, "default-src 'none'");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(headers[header::CONTENT_SECURITY_POLICY], "default-src 'none'");
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=600"));
        protect(&mut headers, "default-src 'none'");
        assert_eq!(headers[header::CACHE_CONTROL], "max-age=600");
    }
}
