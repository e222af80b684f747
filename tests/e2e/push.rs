//! Uploads a model to the hub and downloads it again.

use crate::server::{HubServer, Storage};
use crate::support::{Outcome, SMALL, World};

fn run(world: &World, server: &HubServer, line: &str) -> Outcome {
    let outcome = world.run_at(server, line, &[("HF_TOKEN", "hf_right")]);
    assert!(!format!("{outcome:?}").contains("hf_right"), "the token is shown: {outcome:?}");
    outcome
}

#[test]
fn a_run_is_pushed_private_with_its_card_and_loads_again() {
    let (world, server) = (World::new(), HubServer::start());
    server.require_token("hf_right");
    world
        .run(&format!(
            "train --model model --train train.txt --valid valid.txt --out run --max-steps 2 {SMALL}"
        ))
        .success();
    let row = run(&world, &server, "push run me/mine --json").row();
    assert_eq!((&row["created"], &row["private"]), (&true.into(), &true.into()));
    assert_eq!(server.is_private("me/mine"), Some(true));
    let files = server.branch("me/mine", "main");
    for (name, (storage, bytes)) in &files {
        assert!(*bytes == world.read(&format!("run/best/{name}")), "{name}");
        assert_eq!(*storage == Storage::Large, name.ends_with(".safetensors"), "{name}");
    }
    let card = String::from_utf8(files["README.md"].1.clone()).unwrap();
    assert!(card.contains("| development NLL") && card.contains("| objective | mixce |"), "{card}");
    run(&world, &server, "evaluate --model me/mine --data valid.txt --json").row();

    let again = run(&world, &server, "push run me/mine").success();
    assert!(again.stdout.contains("/me/mine\ncommit "), "{}", again.stdout);
    assert_eq!(server.commits().len(), 2);
}

#[test]
fn a_folder_without_a_card_gets_one_and_what_is_no_model_is_refused() {
    let (world, server) = (World::new(), HubServer::start());
    std::fs::remove_file(world.path("model/README.md")).unwrap();
    run(&world, &server, "push model me/public --public --message First").success();
    assert_eq!(server.is_private("me/public"), Some(false));
    assert_eq!(server.commits(), ["First"]);
    let card = String::from_utf8(server.branch("me/public", "main")["README.md"].1.clone()).unwrap();
    assert!(card.contains("pipeline_tag: text-generation") && !card.contains("base_model"), "{card}");
    world.write("empty/notes.txt", "x");
    run(&world, &server, "push empty me/x").refused(&["has no `config.json`", "mixce export"]);
    run(&world, &server, "push nowhere me/x").refused(&["`nowhere` is not a folder"]);
    run(&world, &server, "push model me/../x").refused(&["me/../x"]);
    world.run_at(&server, "push model me/x", &[]).refused(&["needs an access token", "HF_TOKEN"]);
    assert_eq!(server.is_private("me/x"), None);
}
