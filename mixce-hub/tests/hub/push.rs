//! Folders to the hub.

use mixce_base::Hint as _;
use std::fs;
use std::path::Path;

use mixce_hub::{Error, NoProgress, PushRequest, Pushed};

use crate::{
    server::{Fault, Storage, etag},
    support::{World, id, weights},
};

const TOKEN: [(&str, &str); 1] = [("HF_TOKEN", "hf_right")];

#[expect(clippy::unwrap_used, reason = "a helper of tests fails the test")]
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    fs::write(folder.path().join(".hidden"), "stays").unwrap();
    fs::write(folder.path().join("model.safetensors"), weights(3)).unwrap();
    fs::create_dir(folder.path().join("more")).unwrap();
    fs::write(folder.path().join("more/notes.txt"), "ü").unwrap();
    folder
}

fn push(world: &World, folder: &Path, to: &str, variables: &[(&str, &str)]) -> Result<Pushed, Error> {
    let id = id(to);
    let extra = vec![("README.md".to_owned(), b"# Card".to_vec())];
    let request = PushRequest { folder, extra, id: &id, private: true, message: "words" };
    world.hub(variables).push(&request, &mut NoProgress)
}

#[test]
fn every_file_arrives_in_one_commit_of_a_private_repository() {
    let (world, folder) = (World::new(), folder());
    world.server.require_token("hf_right");
    let pushed = push(&world, folder.path(), "me/model", &TOKEN).unwrap();
    assert!(pushed.created && pushed.url.ends_with("/me/model"), "{pushed:?}");
    assert_eq!(pushed.uploaded_bytes, 3_000_000);
    assert_eq!(world.server.is_private("me/model"), Some(true));
    assert_eq!(world.server.commits(), ["words"]);
    let files = world.server.branch("me/model", "main");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["README.md", "config.json", "model.safetensors", "more/notes.txt"]);
    assert_eq!(files["model.safetensors"], (Storage::Large, weights(3)));
    assert_eq!(files["more/notes.txt"], (Storage::Git, "ü".into()));
    assert_eq!(files["README.md"].1, b"# Card");
    for request in world.server.take_requests() {
        let expected = if request.storage { None } else { Some("Bearer hf_right") };
        assert_eq!(request.header("authorization"), expected, "{} {}", request.method, request.path);
    }
}

#[test]
fn what_the_storage_has_is_not_sent_again_and_visibility_stays() {
    let (world, folder) = (World::new(), folder());
    push(&world, folder.path(), "me/model", &TOKEN).unwrap();
    world.server.take_requests();
    fs::write(folder.path().join("config.json"), "{\"n\":1}").unwrap();
    let again = push(&world, folder.path(), "me/model", &TOKEN).unwrap();
    assert_eq!((again.created, again.uploaded_bytes), (false, 0));
    assert!(world.server.take_requests().iter().all(|request| request.method != "PUT"));
    assert_eq!(world.server.branch("me/model", "main")["config.json"].1, b"{\"n\":1}");
}

#[test]
fn large_files_go_in_parts_where_the_storage_wants_that() {
    let (world, folder) = (World::new(), folder());
    world.server.want_parts(1_300_000);
    let storage = etag(Storage::Large, &weights(3));
    world.server.fault("PUT", &format!("{storage}/2"), Fault::Status(503, ""), 2);
    push(&world, folder.path(), "me/model", &TOKEN).unwrap();
    assert_eq!(world.server.branch("me/model", "main")["model.safetensors"].1, weights(3));
    let requests = world.server.take_requests();
    let puts: Vec<usize> = requests.iter().filter(|r| r.method == "PUT").map(|r| r.body.len()).collect();
    assert_eq!(puts, [1_300_000, 1_300_000, 1_300_000, 1_300_000, 400_000]);
}

#[test]
fn passing_troubles_and_a_new_name_are_sat_out() {
    let (world, folder) = (World::new(), folder());
    world.server.fault("POST", "/api/repos/create", Fault::RateLimit(1), 1);
    world.server.fault("POST", "/preupload/main", Fault::Status(502, ""), 2);
    world.server.fault("POST", "/objects/batch", Fault::Status(500, ""), 1);
    world.server.fault("POST", "/commit/main", Fault::Status(503, ""), 1);
    push(&world, folder.path(), "me/old", &TOKEN).unwrap();
    push(&world, folder.path(), "me/new", &TOKEN).unwrap();
    world.server.rename("me/old", "me/new");
    fs::write(folder.path().join("config.json"), "{\"moved\":1}").unwrap();
    push(&world, folder.path(), "me/old", &TOKEN).unwrap();
    assert_eq!(world.server.branch("me/new", "main")["config.json"].1, b"{\"moved\":1}");
}

#[test]
fn refusals_leave_nothing_and_show_no_secret() {
    let (world, folder) = (World::new(), folder());
    let error = push(&world, folder.path(), "me/model", &[]).unwrap_err();
    assert!(matches!(error, Error::NoToken { .. }) && error.hint().unwrap().contains("HF_TOKEN"));
    let offline = [("HF_HUB_OFFLINE", "1"), TOKEN[0]];
    assert!(matches!(push(&world, folder.path(), "me/model", &offline), Err(Error::NoNetwork)));
    assert_eq!(world.server.take_requests(), []);

    world.server.require_token("hf_right");
    let error = push(&world, folder.path(), "me/model", &[("HF_TOKEN", "hf_wrong")]).unwrap_err();
    assert!(error.to_string().contains("asks for a login to write to `me/model`"), "{error}");
    assert!(!format!("{error}{error:?}{:?}", error.hint()).contains("hf_wrong"));
    world.server.fault("POST", "/api/repos/create", Fault::Status(403, ""), 1);
    let error = push(&world, folder.path(), "them/model", &TOKEN).unwrap_err();
    assert!(error.to_string().contains("does not let this account write to `them/model`"), "{error}");
    assert!(error.hint().unwrap().contains("write permission"));

    world.server.fault("PUT", &etag(Storage::Large, &weights(3)), Fault::Status(403, ""), 9);
    let error = push(&world, folder.path(), "me/model", &TOKEN).unwrap_err();
    assert!(matches!(error, Error::Status { status: 403, .. }), "{error}");
    assert!(!format!("{error}{error:?}").contains("secret"), "a signed address is a secret: {error}");
    assert!(world.server.commits().is_empty());
    let empty = tempfile::tempdir().unwrap();
    let id = id("me/model");
    let request =
        PushRequest { folder: empty.path(), extra: Vec::new(), id: &id, private: true, message: "x" };
    let error = world.hub(&TOKEN).push(&request, &mut NoProgress).unwrap_err();
    assert!(matches!(error, Error::NothingToPush { .. }), "{error}");
}
