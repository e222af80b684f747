//! Exporting a model.

use std::collections::BTreeMap;

use crate::support::{SMALL, World, number};

/// Metadata and, by name, the dtypes of a safetensors file.
fn header(bytes: &[u8]) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (_, metadata) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
    let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, format!("{:?}", info.dtype)));
    (metadata.metadata().clone().unwrap_or_default().into_iter().collect(), tensors.collect())
}

#[test]
fn a_checkpoint_becomes_a_folder_that_hugging_face_tools_load() {
    let world = World::new();
    world
        .run(&format!("train --model model --train train.txt --out run --max-steps 4 --save-every 2 {SMALL}"))
        .success();
    let row = world.run("export --model run/checkpoints/step-00000002 --out hf --json").row();
    assert_eq!(row["parameters"], 13_648);
    let (metadata, tensors) = header(&world.read("hf/model.safetensors"));
    assert_eq!(metadata.get("format").map(String::as_str), Some("pt"));
    assert!(tensors.contains_key("transformer.wte.weight") && !tensors.contains_key("lm_head.weight"));
    for file in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
    ] {
        assert!(world.path("hf").join(file).is_file(), "{file}");
    }
    let card = world.text("hf/README.md");
    assert!(card.contains("| optimizer steps | 2 |") && card.contains("| eta | 0.1 |"), "{card}");

    // The newest checkpoint, the final model and its export are the same model.
    let nll = |model: &str| {
        number(&world.run(&format!("evaluate --model {model} --data valid.txt --json")).row(), "nll")
    };
    world.run("export --model run --out last").success();
    assert_eq!(nll("last").to_bits(), nll("run/checkpoints/step-00000004").to_bits());
    assert_ne!(nll("last").to_bits(), nll("hf").to_bits());
}

#[test]
fn names_and_element_types_can_be_chosen() {
    let world = World::new();
    world.run("export --model model --out plain --format pytorch-names --dtype bf16").success();
    let (_, tensors) = header(&world.read("plain/model.safetensors"));
    assert!(
        tensors.contains_key("wte.weight") && tensors.values().all(|dtype| dtype == "BF16"),
        "{tensors:?}"
    );
    let nll = |model: &str| {
        number(&world.run(&format!("evaluate --model {model} --data valid.txt --json")).row(), "nll")
    };
    assert!((nll("plain") - nll("model")).abs() < 0.05);
}

#[test]
fn a_folder_in_use_is_refused() {
    let world = World::new();
    world.write("mine/thesis.tex", "dear");
    let before = world.snapshot();
    world.run("export --model model --out mine").refused(&["`mine`", "not empty", "hint: "]);
    assert!(world.snapshot() == before);
}
