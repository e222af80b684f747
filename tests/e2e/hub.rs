//! Models of the hub, served from loopback.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::thread;

use crate::server::{Fault, HubServer, Storage, etag};
use crate::support::{SMALL, World};

const MODEL: &str = "owner/tiny";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub that serves the small model.
pub(crate) fn serve(world: &World) -> HubServer {
    let server = HubServer::start();
    for entry in fs::read_dir(world.path("model")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let storage = if name == "model.safetensors" { Storage::Large } else { Storage::Git };
        server.put(MODEL, COMMIT, &name, storage, fs::read(&path).unwrap());
    }
    server.point(MODEL, "main", COMMIT);
    server
}

#[test]
fn a_model_is_downloaded_once_and_then_used_offline() {
    let world = World::new();
    let server = serve(&world);
    let row = world.run_at(&server, "download owner/tiny --json", &[]).row();
    assert_eq!((&row["model"], &row["commit"]), (&MODEL.into(), &COMMIT.into()));
    let cached = fs::read(format!("{}/model.safetensors", row["path"].as_str().unwrap())).unwrap();
    assert!(cached == world.read("model/model.safetensors"));

    server.take_requests();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let line = format!("train --model owner/tiny --train train.txt --out run --max-steps 2 {SMALL}");
    world.run_at(&server, &line, &offline).success();
    assert!(world.text("run/run.toml").contains(&format!("model_commit = \"{COMMIT}\"")));
    assert!(world.text("run/final/README.md").contains("base_model: owner/tiny"));
    assert_eq!(server.take_requests(), [], "offline means no request at all");
}

#[test]
fn a_tokenizer_is_fetched_alone() {
    let world = World::new();
    let server = serve(&world);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        server.put("owner/words", COMMIT, name, Storage::Git, world.read(&format!("model/{name}")));
    }
    server.point("owner/words", "main", COMMIT);
    let count = |tokenizer: &str| {
        world.run_at(&server, &format!("inspect train.txt --tokenizer {tokenizer} --json"), &[]).row()["tokens"].clone()
    };
    assert_eq!(count("owner/words"), count("model"));
    assert_eq!(count("owner/tiny"), count("model"));
    world.run_at(&server, "evaluate --model model --tokenizer owner/words --data valid.txt", &[]).success();
    let line = format!(
        "train --model model --tokenizer owner/words --train train.txt --out run --max-steps 1 {SMALL}"
    );
    world.run_at(&server, &line, &[]).success();
    assert!(world.text("run/run.toml").contains(&format!("tokenizer = \"owner/words@{COMMIT}\"")));
    let requests = server.take_requests();
    assert!(!requests.is_empty() && requests.iter().all(|r| !r.path.contains("safetensors") && !r.storage));
    world.run_at(&server, "inspect train.txt --tokenizer owner/none", &[]).refused(&["owner/none", "hint: "]);
}

#[test]
fn a_run_is_pinned_to_the_commit_it_began_with() {
    const NEWER: &str = "89abcdef0123456789abcdef0123456789abcdef";
    let world = World::new();
    let server = serve(&world);
    let line =
        format!("train --model owner/tiny --tokenizer owner/tiny --train train.txt --save-every 1 {SMALL}");
    world.run_at(&server, &format!("{line} --out run --max-steps 2"), &[]).success();
    let pinned = format!("\"owner/tiny@{COMMIT}\"");
    for key in ["model", "tokenizer"] {
        assert!(
            world.text("run/run.toml").contains(&format!("{key} = {pinned}")),
            "{}",
            world.text("run/run.toml")
        );
    }
    // The branch moves on to a model of another shape.
    server.put(MODEL, NEWER, "config.json", Storage::Git, "{}");
    server.point(MODEL, "main", NEWER);
    world.run_at(&server, &line.replace("--train", "--out other --train"), &[]).refused(&["owner/tiny"]);
    server.take_requests();
    world.run_at(&server, "train --config run/run.toml --out again", &[]).success();
    assert!(world.read("again/final/model.safetensors") == world.read("run/final/model.safetensors"));
    let resumed = format!("{line} --out run --max-steps 3 --resume auto");
    world.run_at(&server, &resumed, &[]).success();
    assert!(world.text("run/run.toml").contains(&format!("model = {pinned}")));
    assert!(server.take_requests().iter().all(|r| !r.path.ends_with("/main") && !r.path.contains(NEWER)));
}

#[test]
fn finetuning_fetches_the_model_and_a_dry_run_does_not() {
    let world = World::new();
    let server = serve(&world);
    let line = format!("train --model owner/tiny@main --train train.txt --out run --max-steps 2 {SMALL}");
    world.run_at(&server, &format!("{line} --dry-run"), &[]).refused(&[
        "owner/tiny",
        "hint: ",
        "mixce download",
    ]);
    assert_eq!(server.take_requests(), []);
    world.run_at(&server, &line, &[]).success();
    world.run_at(&server, &format!("{line} --dry-run").replace("--out run", "--out other"), &[]).success();
}

#[test]
fn a_copy_goes_into_a_folder_of_its_own() {
    let world = World::new();
    let server = serve(&world);
    world.run_at(&server, "download owner/tiny --out copy", &[]).success();
    assert!(world.read("copy/model.safetensors") == world.read("model/model.safetensors"));
    assert!(!fs::symlink_metadata(world.path("copy/model.safetensors")).unwrap().is_symlink());
    let before = world.snapshot();
    world.run_at(&server, "download owner/tiny --out copy", &[]).refused(&["`copy`", "hint: "]);
    assert!(world.snapshot() == before);
}

#[test]
fn an_interrupted_transfer_is_resumed() {
    let world = World::new();
    let server = serve(&world);
    let weights = etag(Storage::Large, &world.read("model/model.safetensors"));
    server.fault("GET", &weights, Fault::Drop(20_000), 1);
    world.run_at(&server, "download owner/tiny", &[]).success();
    let ranges: Vec<_> = server
        .take_requests()
        .iter()
        .filter(|r| r.storage)
        .map(|r| r.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=20000-".to_owned())]);
}

#[test]
fn troubles_are_told_in_words() {
    let world = World::new();
    let server = serve(&world);
    world.run_at(&server, "download owner/none", &[]).refused(&["no model `owner/none`", "hint: "]);
    world.run_at(&server, "download owner/tiny@v9", &[]).refused(&["no revision `v9`", "hint: "]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    world.run_at(&server, "download owner/tiny", &offline).refused(&["owner/tiny", "HF_HUB_OFFLINE"]);
    world.run_at(&server, "download model", &[]).refused(&["`model` is a folder"]);
    server.fault("GET", &etag(Storage::Large, &world.read("model/model.safetensors")), Fault::WrongBytes, 1);
    world
        .run_at(&server, "download owner/tiny", &[])
        .refused(&["`model.safetensors` of `owner/tiny` arrived damaged", "SHA-256"]);
    server.require_token("hf_right");
    world.run_at(&server, "download owner/tiny", &[]).refused(&["asks for a login", "HF_TOKEN"]);
    let wrong = world.run_at(&server, "download owner/tiny", &[("HF_TOKEN", "hf_wrong")]);
    wrong.refused(&["refuses the access token"]);
    assert!(!wrong.stderr.contains("hf_wrong"));
    world.run_at(&server, "download owner/tiny", &[("HF_TOKEN", "hf_right")]).success();
}

#[test]
fn the_proxy_of_the_environment_is_asked_for_a_tunnel() {
    let (world, server) = (World::new(), HubServer::start());
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    let asked = thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(proxy.accept().unwrap().0).read_line(&mut line).unwrap();
        line
    });
    let beyond = [("HF_ENDPOINT", "https://hub.invalid"), ("HTTPS_PROXY", address.as_str())];
    let refused = world.run_at(&server, "download owner/tiny", &beyond);
    refused.refused(&["no complete response from https://hub.invalid/api/models/owner/tiny"]);
    assert_eq!(asked.join().unwrap().trim(), "CONNECT hub.invalid:443 HTTP/1.1");
    assert_eq!(server.take_requests(), []);
}
