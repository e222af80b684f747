//! A hub that says no, and a hub that means harm.

use mixce_base::Hint as _;
use mixce_hub::{Error, Hub, NoProgress};

use crate::{
    server::{Fault, Storage},
    support::{COMMIT, MODEL, World, id},
};

#[expect(clippy::expect_used, reason = "a helper of tests fails the test")]
fn refusal(world: &World, variables: &[(&str, &str)], model: &str) -> (String, String) {
    let error = world.hub(variables).fetch_model(&id(model), &mut NoProgress).expect_err("a refusal");
    (error.to_string(), error.hint().unwrap_or_default())
}

#[test]
fn a_login_is_asked_for() {
    let world = World::new();
    let hub = world.server.endpoint();
    world.server.require_token("hf_right");
    let (message, hint) = refusal(&world, &[], MODEL);
    assert_eq!(message, format!("{hub} asks for a login to read `owner/tiny`: words for status 401"));
    assert!(hint.contains("`HF_TOKEN`") && hint.contains("spelling"), "{hint}");
    assert!(world.server.take_requests().iter().all(|request| request.header("authorization").is_none()));
    let (message, hint) = refusal(&world, &[("HF_TOKEN", "hf_wrong")], MODEL);
    assert!(message.contains("refuses the access token that was sent"), "{message}");
    assert!(hint.contains("revoked"), "{hint}");
    assert!(!message.contains("hf_wrong") && !hint.contains("hf_wrong"));
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let world = World::new();
    world.server.require_token("hf_right");
    let hub = world.hub(&[("HF_TOKEN", "hf_right")]);
    hub.fetch_model(&id(MODEL), &mut NoProgress).unwrap();
    let requests = world.server.take_requests();
    assert!(requests.iter().any(|request| request.storage));
    for request in &requests {
        let expected = if request.storage { None } else { Some("Bearer hf_right") };
        assert_eq!(request.header("authorization"), expected, "{request:?}");
    }
    assert!(!format!("{hub:?}").contains("hf_right"));
}

#[test]
fn missing_models_and_revisions_are_told_apart() {
    let world = World::new();
    let hub = world.server.endpoint();
    let (message, hint) = refusal(&world, &[], "owner/tyni");
    assert_eq!(message, format!("{hub} has no model `owner/tyni`, or it is private"));
    assert!(hint.contains("spelling") && hint.contains("`HF_TOKEN`"), "{hint}");
    let (message, hint) = refusal(&world, &[], "owner/tiny@v9");
    assert_eq!(message, format!("{hub} has no revision `v9` of a model `owner/tiny`"));
    assert!(hint.contains("after `@`"), "{hint}");
    let (_, hint) = refusal(&world, &[], "gpt3");
    assert!(hint.contains("openai-community/gpt2") && hint.contains("local folder named `gpt3`"), "{hint}");
}

#[test]
fn the_hubs_401_for_an_unknown_model_is_not_taken_for_a_login() {
    let world = World::new();
    world.server.fault("GET", "/revision/main", Fault::Status(401, "RepoNotFound"), 1);
    let (message, _) = refusal(&world, &[], MODEL);
    assert!(message.ends_with("has no model `owner/tiny`, or it is private"), "{message}");
}

#[test]
fn gated_models_and_forbidden_ones() {
    let world = World::new();
    let hub = world.server.endpoint();
    world.server.fault("HEAD", "/config.json", Fault::Status(403, "GatedRepo"), 1);
    let (message, hint) = refusal(&world, &[("HF_TOKEN", "hf_x")], MODEL);
    assert_eq!(
        message,
        format!("{hub} does not let this account read `owner/tiny`, which is gated: words for status 403")
    );
    assert!(hint.contains(&format!("{hub}/owner/tiny")), "{hint}");
    world.server.fault("GET", "/revision/main", Fault::Status(403, ""), 1);
    let (message, hint) = refusal(&world, &[], MODEL);
    assert!(message.contains("does not let an anonymous user read `owner/tiny`: words"), "{message}");
    assert!(hint.contains("`HF_TOKEN`"), "{hint}");
}

#[test]
fn lasting_troubles_are_reported() {
    let world = World::new();
    world.server.fault("GET", "/revision/main", Fault::Status(503, ""), 4);
    let (message, hint) = refusal(&world, &[], MODEL);
    assert!(message.contains("responded with HTTP status 503: words for status 503"), "{message}");
    assert!(hint.contains("HF_HUB_OFFLINE"), "{hint}");
    world.server.take_requests();
    world.server.fault("GET", "/revision/main", Fault::RateLimit(3600), 1);
    let (message, _) = refusal(&world, &[], MODEL);
    assert!(message.ends_with("limits the rate of requests and asks to wait 3600 s"), "{message}");
    assert_eq!(world.server.take_requests().len(), 1, "an hour is not waited");
}

#[test]
fn a_file_that_vanished_is_named() {
    let world = World::new();
    world.server.fault("HEAD", "/vocab.json", Fault::Status(404, "EntryNotFound"), 1);
    let (message, _) = refusal(&world, &[], MODEL);
    assert!(
        message.starts_with("the model `owner/tiny` has no file `vocab.json` at revision `main`"),
        "{message}"
    );
}

#[test]
fn a_model_without_weights_or_configuration_is_no_checkpoint() {
    let world = World::without_weights();
    let (message, hint) = refusal(&world, &[], MODEL);
    assert!(message.contains("has no weights (`model.safetensors`"), "{message}");
    assert!(
        message.ends_with("its files: `config.json`, `generation_config.json`, `merges.txt`, `vocab.json`"),
        "{message}"
    );
    assert!(hint.contains("pytorch_model.bin"), "{hint}");
    world.server.put("owner/bare", COMMIT, "model.safetensors", Storage::Large, "x");
    world.server.point("owner/bare", "main", COMMIT);
    assert!(refusal(&world, &[], "owner/bare").0.contains("has no `config.json`"));
    assert_eq!(world.blobs(), [] as [&str; 0], "nothing was fetched");
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    let listed = World::new();
    listed.server.put(MODEL, COMMIT, "../../evil", Storage::Git, "x");
    let (message, hint) = refusal(&listed, &[], MODEL);
    assert!(message.starts_with("refused the file `../../evil` of the model `owner/tiny`"), "{message}");
    assert!(hint.contains("do not use"), "{hint}");

    let sharded = World::without_weights();
    let index = r#"{"weight_map":{"a":"../../../evil"}}"#;
    sharded.server.put(MODEL, COMMIT, "model.safetensors.index.json", Storage::Git, index);
    assert!(refusal(&sharded, &[], MODEL).0.starts_with("refused the shard `../../../evil`"));

    let commit = World::new();
    commit.server.put("owner/bad", "../../evil", "config.json", Storage::Git, "x");
    commit.server.point("owner/bad", "main", "../../evil");
    assert!(refusal(&commit, &[], "owner/bad").0.starts_with("refused the commit `../../evil`"));
    for world in [listed, sharded, commit] {
        assert!(!world.home.path().join("evil").exists() && !world.home.path().join("hub/evil").exists());
    }
}

#[test]
fn an_endpoint_that_is_none_is_refused() {
    let world = World::new();
    for endpoint in ["huggingface.co", "ftp://hub", "http://", "https://user:secret@hub"] {
        let error = Hub::new(world.environment(&[("HF_ENDPOINT", endpoint)])).unwrap_err();
        assert!(matches!(error, Error::InvalidEndpoint { .. }), "{endpoint}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.hint().unwrap().contains("HF_ENDPOINT"));
    }
}
