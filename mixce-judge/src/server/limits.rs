//! What every request passes: a rate limit, a time limit, a check of the host name, and security headers.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use mixce_web::{is_local_name, protect};

use super::handlers::App;
use super::pages;

/// Largest body of a request: a note of 2 000 characters of four bytes, percent-encoded, fits.
pub(super) const MAX_BODY_BYTES: usize = 32 * 1024;
/// Requests at once, and per second, of one judge or (without a judge's link) one address.
const BURST: f64 = 120.0;
const PER_SECOND: f64 = 10.0;
/// Most judges and addresses remembered.
const MAX_CLIENTS: usize = 10_000;
/// Longest time for a request.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// No script and no style but the server's own files; nothing from elsewhere; in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Who a request is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    Judge(usize),
    Address(IpAddr),
}

/// Token buckets: each client may make [`BURST`] requests at once and [`PER_SECOND`] in the long run.
#[derive(Debug, Default)]
pub(super) struct Buckets(Mutex<HashMap<Client, (f64, Instant)>>);

impl Buckets {
    fn take(&self, client: Client, now: Instant) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refilled = |(left, at): (f64, Instant)| {
            (left + PER_SECOND * now.saturating_duration_since(at).as_secs_f64()).min(BURST)
        };
        if buckets.len() >= MAX_CLIENTS {
            buckets.retain(|_, bucket| refilled(*bucket) < BURST);
            if buckets.len() >= MAX_CLIENTS && !buckets.contains_key(&client) {
                return false;
            }
        }
        let left = buckets.get(&client).map_or(BURST, |bucket| refilled(*bucket));
        let allowed = left >= 1.0;
        buckets.insert(client, (if allowed { left - 1.0 } else { left }, now));
        allowed
    }
}

/// The middleware.
pub(super) async fn guard(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let judge = path.strip_prefix("/j/").and_then(|rest| app.judge_of(rest.split('/').next().unwrap_or("")));
    let client = judge.map_or(Client::Address(peer.ip()), Client::Judge);
    let mut response = if !app.buckets.take(client, Instant::now()) {
        let mut response =
            pages::problem(StatusCode::TOO_MANY_REQUESTS, "Too many requests. Wait a few seconds.", None);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        response
    } else if app.is_local && !is_local_name(request.headers().get(header::HOST)) {
        // Another website may point its own name at this machine, and would then read the list of links.
        pages::problem(StatusCode::MISDIRECTED_REQUEST, "This server answers to local names only.", None)
    } else {
        let late = |_| pages::problem(StatusCode::REQUEST_TIMEOUT, "The request took too long.", None);
        tokio::time::timeout(TIME_LIMIT, next.run(request)).await.unwrap_or_else(late)
    };
    protect(response.headers_mut(), POLICY);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_empty_and_refill() {
        let buckets = Buckets::default();
        let start = Instant::now();
        let (a, b) = (Client::Judge(1), Client::Address([10, 0, 0, 1].into()));
        assert_eq!((0..200).filter(|_| buckets.take(a, start)).count(), 120);
        assert!(buckets.take(b, start));
        let later = start + Duration::from_secs(2);
        assert_eq!((0..200).filter(|_| buckets.take(a, later)).count(), 20);
    }

    #[test]
    fn memory_is_bounded() {
        let buckets = Buckets::default();
        let start = Instant::now();
        let client = |i: u32| Client::Address(std::net::Ipv4Addr::from(i).into());
        for i in 0..MAX_CLIENTS as u32 {
            assert!(buckets.take(client(i), start));
        }
        assert!(!buckets.take(client(u32::MAX), start) && buckets.take(client(0), start));
        assert!(buckets.take(client(u32::MAX), start + Duration::from_secs(1)));
    }
}
