//! Forged, repeated, oversized and too frequent requests.

use std::net::{IpAddr, Ipv4Addr};

use mixce_judge::{ServeSettings, Study, answers, make};

use super::client::{Running, get, post, send};
use super::studies::{attentive, files};

fn study(folder: &std::path::Path) -> std::path::PathBuf {
    let out = folder.join("study");
    make(&files(folder, 4), &out).unwrap();
    out
}

#[test]
fn forged_answers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = study(folder.path());
    let server = Running::start(&out);
    let (address, home) = (server.address, server.home(1));
    let answer = |path: &str, form: &str| post(address, &format!("{home}/task/{path}"), form).status;
    assert_eq!(answer("1", "choice=1"), 409, "before the instructions");
    server.work(1, 1, &attentive);
    for (path, form, status) in [
        ("3", "choice=1", 409),
        ("0", "choice=1", 403),
        ("7", "choice=1", 403),
        ("-1", "choice=1", 403),
        ("x", "choice=1", 403),
        ("18446744073709551616", "choice=1", 403),
        ("2", "choice=2", 400),
        ("2", "choice=1&judge=2", 400),
        ("2", "", 422),
    ] {
        assert_eq!(answer(path, form), status, "{path} {form}");
    }
    let token = home.trim_start_matches("/j/");
    for stranger in ["0".repeat(32), token.to_uppercase(), token[1..].to_owned(), format!("{token}%00")] {
        for path in ["", "/task"] {
            let got = get(address, &format!("/j/{stranger}{path}")).status;
            assert_eq!(got, if stranger == token { 200 } else { 403 });
        }
        assert_eq!(post(address, &format!("/j/{stranger}/task/2"), "choice=1").status, 403);
        assert_eq!(post(address, &format!("/j/{stranger}/begin"), "").status, 403);
    }
    assert_eq!(answers(&Study::open(&out).unwrap()).unwrap().len(), 1);
}

#[test]
fn a_double_submit_is_one_answer_and_a_change_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = study(folder.path());
    let server = Running::start(&out);
    let home = server.home(1);
    let path = format!("{home}/task/1");
    post(server.address, &format!("{home}/begin"), "");
    let statuses = |form: &str| (0..2).map(|_| post(server.address, &path, form).status).collect::<Vec<_>>();
    assert_eq!(statuses("choice=0&note=n"), [303, 303]);
    assert_eq!(statuses("choice=1&note=n"), [409, 409]);
    assert_eq!(statuses("choice=0"), [409, 409]);
    let judged = answers(&Study::open(&out).unwrap()).unwrap();
    assert_eq!((judged.len(), judged[0].preference, &*judged[0].note), (1, 0, "n"));
}

#[test]
fn every_response_has_the_security_headers() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(&study(folder.path()));
    let address = server.address;
    let home = server.home(1);
    let large = format!("choice=0&note={}", "x".repeat(40_000));
    let wrong_host = "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    let json = format!(
        "POST {home}/task/1 HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    );
    for (page, status) in [
        (get(address, "/"), 200),
        (get(address, &home), 200),
        (get(address, "/style.css"), 200),
        (get(address, "/keys.js"), 200),
        (get(address, "/favicon.ico"), 204),
        (get(address, "/study.json"), 404),
        (get(address, "/j/../study.json"), 404),
        (get(address, &format!("{home}/begin")), 405),
        (post(address, &format!("{home}/task/1"), &large), 413),
        (send(address, &json), 415),
        (send(address, wrong_host), 421),
    ] {
        assert_eq!(page.status, status, "{}", page.head);
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "deny"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(page.header(name), Some(value));
        }
        let is_asset = page.head.contains("text/css") || page.head.contains("javascript");
        assert_eq!(page.header("cache-control"), Some(if is_asset { "max-age=600" } else { "no-store" }));
    }
}

#[test]
fn too_many_requests_are_slowed_down_per_judge() {
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(&study(folder.path()));
    let refused =
        (0..400).map(|_| get(server.address, &server.home(1))).find(|page| page.status == 429).unwrap();
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(get(server.address, &server.home(2)).status, 200);
}

#[test]
fn beyond_loopback_links_are_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ServeSettings { host: IpAddr::V4(Ipv4Addr::UNSPECIFIED), ..ServeSettings::default() };
    let server = Running::with(&study(folder.path()), &settings);
    let address = (Ipv4Addr::LOCALHOST, server.address.port()).into();
    let page = send(address, "GET / HTTP/1.1\r\nHost: judge.example\r\nConnection: close\r\n\r\n");
    assert!(page.status == 200 && page.body.contains("Open the link") && !page.body.contains("/j/"));
    assert_eq!(get(address, &server.home(1)).status, 200);
}
