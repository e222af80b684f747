//! Where files end up, and what is fetched again.

use mixce_base::Hint as _;
use std::{cell::RefCell, fs, path::Path};

use mixce_hub::{Error, FileProgress, FileState, NoProgress};

use crate::{
    server::{Fault, HubServer, Storage, etag},
    support::{COMMIT, MODEL, OTHER_COMMIT, World, id, weights},
};

#[test]
fn a_model_lands_in_the_cache_with_the_layout_of_the_python_tools() {
    let world = World::new();
    let snapshot = world.fetch().unwrap();
    assert_eq!(snapshot.path, world.cache().join("snapshots").join(COMMIT));
    assert_eq!(snapshot.commit, COMMIT);
    let wanted = ["config.json", "generation_config.json", "vocab.json", "merges.txt", "model.safetensors"];
    assert_eq!(snapshot.files, wanted);
    assert_eq!(fs::read_dir(&snapshot.path).unwrap().count(), wanted.len(), "nothing else was fetched");
    assert_eq!(fs::read(snapshot.path.join("model.safetensors")).unwrap(), weights(0));
    assert_eq!(fs::read_to_string(world.cache().join("refs/main")).unwrap(), COMMIT);
    let blob = etag(Storage::Large, &weights(0));
    assert_eq!(fs::read(world.cache().join("blobs").join(&blob)).unwrap(), weights(0));
    assert_eq!(world.blobs().len(), wanted.len());
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(snapshot.path.join("model.safetensors")).unwrap(),
        Path::new("../../blobs").join(blob)
    );
}

#[test]
fn a_tokenizer_is_fetched_without_the_weights() {
    let world = World::new();
    let files = ["config.json", "generation_config.json", "vocab.json", "merges.txt"];
    let snapshot = world.hub(&[]).fetch_tokenizer(&id(MODEL), &mut NoProgress).unwrap();
    assert_eq!(snapshot.files, files);
    assert_eq!(fs::read_dir(&snapshot.path).unwrap().count(), files.len());
    assert!(world.server.take_requests().iter().all(|request| !request.path.contains("safetensors")));
    let offline = world.hub(&[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(offline.fetch_tokenizer(&id(MODEL), &mut NoProgress).unwrap(), snapshot);
    let error = offline.fetch_model(&id(MODEL), &mut NoProgress).unwrap_err();
    assert!(matches!(&error, Error::NotCached { missing, .. } if missing.ends_with("model.safetensors")));
}

#[test]
fn a_repository_may_have_a_tokenizer_alone() {
    let world = World::new();
    world.server.put("owner/words", COMMIT, "tokenizer.json", Storage::Git, "{}");
    world.server.put("owner/words", COMMIT, "added_tokens.json", Storage::Git, "{}");
    world.server.point("owner/words", "main", COMMIT);
    world.server.put("owner/nothing", COMMIT, "vocab.json", Storage::Git, "{}");
    world.server.point("owner/nothing", "main", COMMIT);
    let hub = world.hub(&[]);
    let snapshot = hub.fetch_tokenizer(&id("owner/words"), &mut NoProgress).unwrap();
    assert_eq!(snapshot.files, ["tokenizer.json", "added_tokens.json"]);
    let error = hub.fetch_model(&id("owner/words"), &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("`config.json`"), "{error}");
    let error = hub.fetch_tokenizer(&id("owner/nothing"), &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("a tokenizer (`tokenizer.json`, `vocab.json` with `merges.txt`"), "{error}");
}

#[test]
fn a_second_fetch_transfers_nothing() {
    let world = World::new();
    let first = world.fetch().unwrap();
    world.server.take_requests();
    assert_eq!(world.fetch().unwrap(), first);
    let requests = world.server.take_requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].path.starts_with("/api/models/owner/tiny"));
}

#[test]
fn progress_names_files_and_bytes() {
    let world = World::new();
    let reports = RefCell::new(Vec::new());
    let mut progress = |file: &FileProgress<'_>| {
        reports.borrow_mut().push((file.name.to_owned(), file.bytes_done, file.bytes_total, file.state));
    };
    world.hub(&[]).fetch_model(&id(MODEL), &mut progress).unwrap();
    let mut seen = reports.take();
    seen.retain(|(name, ..)| name == "model.safetensors");
    let total = weights(0).len() as u64;
    assert_eq!(seen[0], ("model.safetensors".into(), 0, Some(total), FileState::Transferring));
    assert!(seen.len() > 3 && seen.is_sorted_by_key(|(_, done, ..)| *done));
    assert_eq!(seen.last().unwrap(), &("model.safetensors".into(), total, Some(total), FileState::Complete));
    let mut progress = |file: &FileProgress<'_>| assert_eq!(file.state, FileState::Cached);
    world.hub(&[]).fetch_model(&id(MODEL), &mut progress).unwrap();
}

#[test]
fn offline_uses_the_cache_and_sends_nothing() {
    let world = World::new();
    let first = world.fetch().unwrap();
    world.server.take_requests();
    for model in [MODEL.to_owned(), format!("{MODEL}@{COMMIT}")] {
        let hub = world.hub(&[("HF_HUB_OFFLINE", "1")]);
        assert_eq!(hub.fetch_model(&id(&model), &mut NoProgress).unwrap(), first);
    }
    assert!(world.server.take_requests().is_empty());
}

#[test]
fn offline_says_what_is_missing() {
    let world = World::new();
    let offline = |model: &str| {
        let error =
            world.hub(&[("HF_HUB_OFFLINE", "1")]).fetch_model(&id(model), &mut NoProgress).unwrap_err();
        let Error::NotCached { missing, .. } = &error else { panic!("{error}") };
        assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
        assert!(error.hint().unwrap().contains("mixce download"), "{error}");
        missing.clone()
    };
    assert_eq!(offline(MODEL), world.cache().join("refs/main"));
    let snapshot = world.fetch().unwrap();
    assert_eq!(offline("owner/tiny@v2"), world.cache().join("refs/v2"));
    assert_eq!(
        offline(&format!("{MODEL}@{OTHER_COMMIT}")),
        world.cache().join("snapshots").join(OTHER_COMMIT)
    );
    fs::remove_file(snapshot.path.join("model.safetensors")).unwrap();
    assert_eq!(offline(MODEL), snapshot.path.join("model.safetensors"));
    fs::remove_file(snapshot.path.join("config.json")).unwrap();
    assert_eq!(offline(MODEL), snapshot.path.join("config.json"));
}

#[test]
fn without_a_network_the_cache_is_used_and_an_empty_cache_is_an_error() {
    let mut world = World::new();
    let first = world.fetch().unwrap();
    world.server.fault("GET", "/revision/main", Fault::Status(503, ""), 100);
    assert_eq!(world.fetch().unwrap(), first, "the hub is out of order");
    world.server = HubServer::start();
    let gone = world.server.endpoint();
    world.server = HubServer::start();
    let hub = world.hub(&[("HF_ENDPOINT", gone.as_str())]);
    assert_eq!(hub.fetch_model(&id(MODEL), &mut NoProgress).unwrap(), first, "the hub is gone");
    let error = hub.fetch_model(&id("owner/other"), &mut NoProgress).unwrap_err();
    assert!(matches!(error, Error::Connection { .. }) && error.to_string().contains(&gone), "{error}");
    assert!(world.server.take_requests().is_empty());
}

#[test]
fn a_revision_is_pinned() {
    let world = World::new();
    for (name, bytes) in [("config.json", b"other config".to_vec()), ("model.safetensors", weights(7))] {
        world.server.put(MODEL, OTHER_COMMIT, name, Storage::Large, bytes);
    }
    world.server.point(MODEL, "refs/pr/1", OTHER_COMMIT);
    let fetch = |model: &str| world.hub(&[]).fetch_model(&id(model), &mut NoProgress).unwrap();
    let pinned = fetch(&format!("{MODEL}@{OTHER_COMMIT}"));
    assert_eq!(fs::read(pinned.path.join("model.safetensors")).unwrap(), weights(7));
    assert!(!world.cache().join("refs").exists(), "a commit needs no reference");
    assert_eq!(fetch("owner/tiny@refs/pr/1"), pinned);
    assert_eq!(fs::read_to_string(world.cache().join("refs/refs/pr/1")).unwrap(), OTHER_COMMIT);
    let main = fetch(MODEL);
    assert_eq!((main.commit.as_str(), pinned.commit.as_str()), (COMMIT, OTHER_COMMIT));
    assert_eq!(fs::read(main.path.join("model.safetensors")).unwrap(), weights(0));
    world.server.point(MODEL, "main", OTHER_COMMIT);
    assert_eq!(fetch(MODEL), pinned, "a branch that has moved is followed");
    assert_eq!(fs::read_to_string(world.cache().join("refs/main")).unwrap(), OTHER_COMMIT);
}

#[test]
fn a_failed_update_leaves_the_old_commit_usable() {
    let world = World::new();
    let first = world.fetch().unwrap();
    world.server.put(MODEL, OTHER_COMMIT, "config.json", Storage::Git, "new");
    world.server.put(MODEL, OTHER_COMMIT, "model.safetensors", Storage::Large, weights(9));
    world.server.point(MODEL, "main", OTHER_COMMIT);
    world.server.fault("GET", &etag(Storage::Large, &weights(9)), Fault::Drop(0), 100);
    assert_eq!(world.fetch().unwrap(), first, "with a warning, what is complete");
    assert_eq!(
        world.hub(&[("HF_HUB_OFFLINE", "1")]).fetch_model(&id(MODEL), &mut NoProgress).unwrap(),
        first
    );
}

#[test]
fn shards_are_fetched_by_their_index() {
    let world = World::without_weights();
    let index = r#"{"metadata":{},"weight_map":{"a":"model-1.safetensors","b":"deep/model-2.safetensors","c":"model-1.safetensors"}}"#;
    world.server.put(MODEL, COMMIT, "model.safetensors.index.json", Storage::Git, index);
    world.server.put(MODEL, COMMIT, "model-1.safetensors", Storage::Large, weights(1));
    world.server.put(MODEL, COMMIT, "deep/model-2.safetensors", Storage::Large, weights(2));
    world.server.put(MODEL, COMMIT, "pytorch_model.bin", Storage::Large, "not wanted");
    let snapshot = world.fetch().unwrap();
    let weight_files = &snapshot.files[snapshot.files.len() - 3..];
    assert_eq!(
        weight_files,
        ["model.safetensors.index.json", "deep/model-2.safetensors", "model-1.safetensors"]
    );
    assert_eq!(fs::read(snapshot.path.join("deep/model-2.safetensors")).unwrap(), weights(2));
    assert!(!snapshot.path.join("pytorch_model.bin").exists());
    let offline = world.hub(&[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(offline.fetch_model(&id(MODEL), &mut NoProgress).unwrap(), snapshot);
    fs::remove_file(snapshot.path.join("deep/model-2.safetensors")).unwrap();
    assert!(matches!(offline.fetch_model(&id(MODEL), &mut NoProgress), Err(Error::NotCached { .. })));
}

#[test]
fn a_missing_shard_is_noticed_before_the_others_are_fetched() {
    let world = World::without_weights();
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    world.server.put(MODEL, COMMIT, "model.safetensors.index.json", Storage::Git, index);
    world.server.put(MODEL, COMMIT, "model-1.safetensors", Storage::Large, weights(1));
    let error = world.fetch().unwrap_err();
    assert!(error.to_string().contains("shard `model-2.safetensors`"), "{error}");
    assert!(!world.blobs().contains(&etag(Storage::Large, &weights(1))));
}

#[test]
fn pytorch_weights_are_taken_where_there_is_nothing_else() {
    let world = World::without_weights();
    world.server.put(MODEL, COMMIT, "pytorch_model.bin", Storage::Large, weights(3));
    let snapshot = world.fetch().unwrap();
    assert_eq!(snapshot.files.last().unwrap(), "pytorch_model.bin");
    assert_eq!(fs::read(snapshot.path.join("pytorch_model.bin")).unwrap(), weights(3));
}

#[test]
fn a_model_is_copied_to_a_folder() {
    let world = World::new();
    let folder = world.home.path().join("out/model");
    let copied = world.hub(&[]).download_to(&id(MODEL), &folder, &mut NoProgress).unwrap();
    assert_eq!((copied.path.as_path(), copied.commit.as_str()), (folder.as_path(), COMMIT));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 5);
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights(0));
    assert!(fs::symlink_metadata(folder.join("config.json")).unwrap().is_file(), "no link");
    world.server.take_requests();
    let error = world.hub(&[]).download_to(&id(MODEL), &folder, &mut NoProgress).unwrap_err();
    assert!(matches!(&error, Error::FolderNotEmpty { path } if *path == folder), "{error}");
    assert!(world.server.take_requests().is_empty(), "refused before anything was asked");
    let empty = tempfile::tempdir().unwrap();
    world.hub(&[]).download_to(&id(MODEL), empty.path(), &mut NoProgress).unwrap();
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 5);
}
