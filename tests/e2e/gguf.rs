//! A GGUF file in the place of a model's folder.

use std::fs;

use crate::server::{HubServer, Storage};
use crate::support::{SMALL, World, fixtures, number};

/// A user's folder with `m.gguf`, a GPT-2 in eight element types.
fn world() -> World {
    let world = World::new();
    world.write("m.gguf", fs::read(fixtures().join("gguf/gpt2.gguf")).unwrap());
    world
}

#[test]
fn a_gguf_file_is_trained_resumed_evaluated_and_exported() {
    let world = world();
    let train = |flags: &str| {
        let line = format!(
            "train --model m.gguf --train train.txt --valid valid.txt --save-every 2 {SMALL} {flags}"
        );
        world.run(&line).success()
    };
    let outcome = train("--out run --max-steps 4");
    assert!(outcome.stderr.contains("are dequantised to f32"), "{}", outcome.stderr);
    assert!(world.text("run/run.toml").contains("model = \"m.gguf\""), "{}", world.text("run/run.toml"));
    train("--out run --max-steps 6 --resume auto");
    // A training checkpoint has no tokenizer: it is the one of the file that the run began with.
    world.run("evaluate --model run/checkpoints/step-00000006 --data valid.txt --json").success();
    assert_eq!(world.run("inspect run --json").row()["config"]["model"], "m.gguf");

    let perplexity = |model: &str| {
        number(&world.run(&format!("evaluate --model {model} --data valid.txt --json")).row(), "perplexity")
    };
    world.run("export --model m.gguf --out exported").success();
    assert_eq!(perplexity("m.gguf"), perplexity("exported"));
    assert!(perplexity("run") < perplexity("m.gguf"));
    assert!(world.text("exported/README.md").contains("m.gguf"));
    let again = world.run("inspect exported --json").row();
    assert_eq!((&again["tokenizer"]["eos"], &again["vocabulary"]), (&0.into(), &352.into()));
    assert_eq!(again["types"]["f32"], again["tensors"].as_array().unwrap().len());
}

#[test]
fn a_folder_with_one_gguf_file_is_that_model() {
    let world = world();
    world.write("folder/m-q8.gguf", world.read("m.gguf"));
    let sample = |model: &str| {
        let line = format!("generate --model {model} --prompt river --max-new-tokens 8 --seed 1 --json");
        world.run(&line).success().stdout
    };
    assert_eq!(sample("folder"), sample("m.gguf"));
    world.write("folder/m-q4.gguf", world.read("m.gguf"));
    world
        .run("generate --model folder --prompt river")
        .refused(&["`m-q4.gguf`, `m-q8.gguf`", "name one of the GGUF files"]);
}

#[test]
fn a_gguf_file_stands_where_a_configuration_or_a_tokenizer_is_asked_for() {
    let world = world();
    let plan = world.run("plan --model m.gguf --gflops 100 --json").row();
    assert_eq!(plan["parameters"], world.run("inspect m.gguf --json").row()["parameters"]);
    world.run("inspect train.txt --tokenizer m.gguf --json").success();
    world.run(&format!("train --from-config config.json --tokenizer m.gguf --train train.txt --out run --max-steps 1 {SMALL}")).success();
    // The file's weights with another tokenizer, which counts: it has ids that the model has not.
    world
        .run("evaluate --model m.gguf --tokenizer {tokenizer} --data valid.txt")
        .refused(&["vocabulary of 352 tokens"]);
}

#[test]
fn a_repository_with_one_gguf_file_is_fetched_and_used() {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let world = world();
    let server = HubServer::start();
    let bytes = world.read("m.gguf");
    server.put("owner/one", COMMIT, "m-q8.gguf", Storage::Large, bytes.clone());
    server.put("owner/two", COMMIT, "m-q4.gguf", Storage::Large, bytes.clone());
    server.put("owner/two", COMMIT, "m-q8.gguf", Storage::Large, bytes);
    for name in ["owner/one", "owner/two"] {
        server.point(name, "main", COMMIT);
    }
    let nll = |model: &str| {
        number(
            &world.run_at(&server, &format!("evaluate --model {model} --data valid.txt --json"), &[]).row(),
            "nll",
        )
    };
    assert_eq!(nll("owner/one"), nll("m.gguf"));
    let line = format!("train --model owner/one --train train.txt --out run --max-steps 1 {SMALL}");
    world.run_at(&server, &line, &[("HF_HUB_OFFLINE", "1")]).success();
    assert!(world.text("run/run.toml").contains(&format!("model = \"owner/one@{COMMIT}\"")));
    world.run_at(&server, "download owner/two", &[]).refused(&[
        "2 GGUF files, expected one",
        "m-q4.gguf",
        "fetch one yourself",
    ]);
}

#[test]
fn inspect_shows_architecture_types_and_tokenizer() {
    let world = world();
    let row = world.run("inspect m.gguf --json").row();
    assert_eq!((&row["kind"], &row["architecture"]), (&"checkpoint".into(), &"gpt2".into()));
    assert_eq!((&row["types"]["Q4_0"], &row["reading"]["dequantised"]["Q4_0"]), (&2.into(), &2.into()));
    assert_eq!((&row["tokenizer"]["bos"], &row["vocabulary"]), (&1.into(), &352.into()));
    assert!(row["problem"].is_null() && row["tokenizer_problem"].is_null(), "{row}");
    let text = world.run("inspect m.gguf").success().stdout;
    for words in ["GGUF file, architecture gpt2", "GPT-2: 2 layers", "2 Q4_0", "tokenizer: 352 tokens"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let other = world.run("inspect {fixtures}/gguf/types.gguf --json").row();
    assert_eq!(other["types"].as_object().unwrap().len(), 14);
    assert!(other["problem"].as_str().unwrap().contains("`general.architecture` = `test`"), "{other}");
}

#[test]
fn damaged_files_are_refused_by_name() {
    let world = world();
    let whole = world.read("m.gguf");
    world.write("cut.gguf", &whole[..whole.len() / 2]);
    world.write("text.gguf", "no model");
    world.run("evaluate --model cut.gguf --data valid.txt").refused(&["cut.gguf", "cut short or damaged"]);
    world
        .run("evaluate --model text.gguf --data valid.txt")
        .refused(&["text.gguf", "does not begin with `GGUF`"]);
    world.run("evaluate --model absent.gguf/x --data valid.txt").refused(&["absent.gguf/x"]);
    world.run("inspect cut.gguf").refused(&["cut.gguf", "cut short or damaged"]);
}
