//! What judges see, and that their answers arrive.

use std::fs;

use mixce_judge::{Kind, MakeSettings, Scale, ServeSettings, Study, answers, make};
use serde_json::json;

use super::client::{Running, get, post};
use super::studies::{SYSTEMS, attentive, files};

#[test]
fn two_judges_at_once_finish_the_study() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&files(folder.path(), 10), &out).unwrap();
    let server = Running::start(&out);
    std::thread::scope(|scope| {
        for judge in [1, 2] {
            let server = &server;
            scope.spawn(move || assert_eq!(server.work(judge, usize::MAX, &attentive), 12));
        }
    });
    assert!(get(server.address, &format!("{}/task", server.home(1))).body.contains("Thank you!"));
    let study = Study::open(&out).unwrap();
    let judged = answers(&study).unwrap();
    assert_eq!(judged.len(), 24);
    for answer in &judged {
        let better = if answer.kind == Kind::Check { "human" } else { SYSTEMS[0] };
        assert_eq!((answer.better.as_deref(), answer.preference), (Some(better), 1), "{answer:?}");
        assert!(answer.seconds.is_some_and(|s| (0.0..60.0).contains(&s)));
    }
    // Both sides occur, so the rule above shows that sides are mapped back.
    let shown_first = judged.iter().filter(|answer| answer.shown_as_a == SYSTEMS[0]).count();
    assert_eq!(shown_first, 10);
}

#[test]
fn pages_are_blind() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&files(folder.path(), 3), &out).unwrap();
    let server = Running::start(&out);
    let home = server.home(1);
    let mut pages = vec![get(server.address, "/"), get(server.address, &home)];
    for _ in 0..6 {
        pages.push(get(server.address, &format!("{home}/task")));
        server.work(1, 1, &attentive);
    }
    for page in pages {
        let all = format!("{}{}", page.head, page.body).to_lowercase();
        for secret in [SYSTEMS[0], SYSTEMS[1], "human", "people", "shuffled", "swapped", "item"] {
            assert!(!all.contains(secret), "`{secret}` in {all}");
        }
    }
}

#[test]
fn a_judge_goes_on_where_they_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&files(folder.path(), 5), &out).unwrap();
    let server = Running::start(&out);
    let (home, address) = (server.home(1), server.address);
    let task = format!("{home}/task");
    // The instructions come first.
    let page = get(address, &task);
    assert_eq!((page.status, page.header("location")), (303, Some(&*home)));
    assert!(get(address, &home).body.contains("An example"));
    assert_eq!(server.work(1, 3, &attentive), 3);
    let due = get(address, &task).pair();
    drop(server);
    let server = Running::start(&out);
    assert_eq!((server.home(1), server.links[0].answered, server.links[0].tasks), (home.clone(), 3, 7));
    let page = get(server.address, &task);
    assert!(page.pair() == due && page.body.contains("3 of 7 answered"));
    assert!(get(server.address, &home).body.contains(&format!("href=\"{task}\">Go on")));
    assert_eq!(server.work(1, usize::MAX, &attentive), 4);
}

#[test]
fn reasons_and_notes_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&MakeSettings { scale: Scale::Five, ..files(folder.path(), 3) }, &out).unwrap();
    let server = Running::start(&out);
    let home = server.home(2);
    post(server.address, &format!("{home}/begin"), "");
    let action = get(server.address, &format!("{home}/task")).pair().unwrap().0;
    let without = post(server.address, &action, "reason=sense&note=%3C%2Ftextarea%3E%26");
    assert_eq!(without.status, 422);
    assert!(
        without.body.contains("Choose one of the answers")
            && without.body.contains("&lt;/textarea&gt;&amp;</textarea>")
    );
    assert!(
        without.body.contains("value=\"sense\" checked") && !without.body.contains("value=\"fits\" checked")
    );
    let form = "choice=-2&reason=sense&reason=fluent&note=%F0%9F%98%80%0D%0Atwo";
    assert_eq!(post(server.address, &action, form).status, 303);
    let judged = answers(&Study::open(&out).unwrap()).unwrap();
    assert_eq!((judged[0].reasons.join(" "), &*judged[0].note), ("sense fluent".into(), "😀\ntwo"));
    assert_eq!((judged[0].preference.abs(), judged[0].judge), (2, 2));
    assert_eq!(judged[0].better.as_ref(), Some(&judged[0].shown_as_a));
}

#[test]
fn hostile_texts_stay_texts() {
    let folder = tempfile::tempdir().unwrap();
    let settings = files(folder.path(), 1);
    let prompt = "<script>alert(1)</script> \"'>&amp; \u{202e}עברית";
    let long = "x<b>😀\n\n  y\t".repeat(10_000);
    for (path, text) in [
        (&settings.systems[0].path, &*long),
        (&settings.systems[1].path, "</div></main><img src=x onerror=alert(1)>"),
    ] {
        fs::write(path, json!({"prompt": prompt, "text": text}).to_string()).unwrap();
    }
    fs::write(&settings.human, json!({"prompt": prompt, "text": ""}).to_string()).unwrap();
    let out = folder.path().join("study");
    make(&MakeSettings { checks: Some(0), ..settings }, &out).unwrap();
    let server = Running::start(&out);
    let home = server.home(1);
    post(server.address, &format!("{home}/begin"), "");
    let page = get(server.address, &format!("{home}/task"));
    let escaped = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('"', "&quot;").replace('\'', "&#39;")
    };
    assert_eq!(page.text("prompt").unwrap(), escaped(prompt));
    let (_, a, b) = page.pair().unwrap();
    let longer = if a.len() > b.len() { a } else { b };
    assert!(longer.len() > 100_000);
    assert_eq!(longer, escaped(&long));
    assert!(
        page.body.contains("dir=\"auto\"") && !page.body.contains("<img") && !page.body.contains("<script>")
    );
    assert!(
        get(server.address, "/style.css").body.contains("white-space: pre-wrap; unicode-bidi: plaintext")
    );
}

#[test]
fn judges_have_names_and_chosen_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&files(folder.path(), 3), &out).unwrap();
    let list = folder.path().join("judges.txt");
    let settings = ServeSettings {
        judges: Some(list.clone()),
        url: Some("https://judge.example/".into()),
        ..ServeSettings::default()
    };
    fs::write(&list, "Ann <&>\nBo\tbo-0123456789abcdef\n").unwrap();
    let links = Running::with(&out, &settings).links.clone();
    assert_eq!((&*links[0].name, &*links[1].url), ("Ann <&>", "https://judge.example/j/bo-0123456789abcdef"));
    // Links stay without the list, and Ann's when Bo's changes.
    let kept = Running::start(&out);
    assert_eq!(kept.home(1), super::client::path_of(&links[0]));
    assert!(get(kept.address, "/").body.contains("<bdi>Ann &lt;&amp;&gt;</bdi>"));
    fs::write(&list, "Ann\nBo\tbo-another-0123456789\n").unwrap();
    let changed = Running::with(&out, &settings).links.clone();
    assert_eq!(
        (&changed[0].url, &*changed[1].url),
        (&links[0].url, "https://judge.example/j/bo-another-0123456789")
    );
    fs::write(&list, "Ann\n").unwrap();
    let error = mixce_judge::Server::bind(&out, &settings).unwrap_err().to_string();
    assert!(
        error.contains("`settings.judges`: expected a list of the study's 2 judges, got `1 names`"),
        "{error}"
    );
}
