//! Data sets of the hub, served from loopback.

use std::fs;

use crate::server::{Fault, HubServer, Storage, etag};
use crate::support::{World, fixtures};

const KEY: &str = "datasets/Salesforce/wikitext";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join("data").join(name)).unwrap()
}

/// A hub with two configurations of a small WikiText.
fn serve() -> HubServer {
    let server = HubServer::start();
    for (name, file) in [
        ("train-00000-of-00002.parquet", "wiki-train-0.parquet"),
        ("train-00001-of-00002.parquet", "wiki-train-1.parquet"),
        ("validation-00000-of-00001.parquet", "wiki-valid.parquet"),
    ] {
        let name = format!("wikitext-103-raw-v1/{name}");
        server.put(KEY, COMMIT, &name, Storage::Large, fixture(file));
    }
    server.put(KEY, COMMIT, "wikitext-2-raw-v1/train-00000-of-00001.parquet", Storage::Large, "not wanted");
    server.put(KEY, COMMIT, "README.md", Storage::Git, "not wanted");
    server.point(KEY, "main", COMMIT);
    server
}

#[test]
fn wikitext_comes_from_the_hub_whatever_goes_wrong() {
    let (world, server) = (World::new(), serve());
    server.rename("Salesforce/wiki", "Salesforce/wikitext");
    let storage = etag(Storage::Large, &fixture("wiki-train-0.parquet"));
    server.fault("GET", &storage, Fault::Drop(1000), 1);
    server.fault("GET", "/revision/main", Fault::RateLimit(1), 1);
    let line = "data prepare wikitext --held-out 3 --json";
    let row = world.run_at(&server, &format!("{line} --out first"), &[]).row();
    // Two development paragraphs and one from the head of train; 40 paragraphs, 3 + 1 of them held out.
    assert_eq!((&row["valid"]["read"], &row["valid"]["topped_up"]), (&2.into(), &1.into()));
    assert_eq!((&row["train"]["documents"], &row["detokenized"]), (&36.into(), &true.into()));
    let test = world.text("first/test.txt");
    let first = "In 1900 the old harbour, which had stood for 1,000 years, was sold. \"It's only a harbour,\" the buyer said";
    assert!(test.starts_with(first), "{test}");
    assert!(test.lines().all(|line| !line.starts_with('=')));
    let requests = server.take_requests();
    assert!(requests.iter().any(|r| r.header("range") == Some("bytes=1000-")));
    assert!(
        requests.iter().all(|r| !r.path.contains("wikitext-2")),
        "other configurations stay where they are"
    );

    let moved = format!("{line} --dataset Salesforce/wiki --config wikitext-103-raw-v1 --out second");
    world.run_at(&server, &moved, &[]).success();
    server.take_requests();
    world.run_at(&server, &format!("{line} --out third"), &[("HF_HUB_OFFLINE", "1")]).success();
    assert_eq!(server.take_requests(), []);
    for name in ["train.txt", "valid.txt", "test.txt"] {
        for other in ["second", "third"] {
            assert!(
                world.read(&format!("first/{name}")) == world.read(&format!("{other}/{name}")),
                "{other}"
            );
        }
    }
}

#[test]
fn any_data_set_is_taken_by_configuration_split_and_column() {
    let (world, server) = (World::new(), serve());
    let key = "datasets/me/stories";
    server.put(key, COMMIT, "en/gold/0000.parquet", Storage::Large, fixture("stories.parquet"));
    server.point(key, "refs/convert/parquet", COMMIT);
    server.put(key, "89abcdef0123456789abcdef0123456789abcdef", "stories.py", Storage::Git, "a script");
    server.point(key, "main", "89abcdef0123456789abcdef0123456789abcdef");
    let line =
        "data prepare text --dataset me/stories --config en --split gold --text-column story --held-out 2";
    world.run_at(&server, &format!("{line} --out out"), &[]).success();
    assert_eq!(world.text("out/train.txt").lines().count(), 8);
    world.run_at(&server, &line.replace("gold", "silver"), &[]).refused(&["expected `--out`"]);
    let silver = format!("{} --out x", line.replace("gold", "silver"));
    world
        .run_at(&server, &silver, &[])
        .refused(&["no data files of configuration `en` of split `silver`", "--split"]);
    let two = "data prepare wikitext --dataset Salesforce/wikitext --out x";
    world.run_at(&server, two, &[]).refused(&["in several folders", "`--config`"]);
    world
        .run_at(&server, "data prepare text --dataset a/none --out x", &[])
        .refused(&["has no data set `a/none`"]);
    assert!(!world.path("x").exists());
}
