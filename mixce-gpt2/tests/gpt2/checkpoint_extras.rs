//! Checkpoints that hold more than a language model, and wrappers' names: what is read, and what is said about the rest.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mixce_base::Hint as _;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{assert_same, fixture, named, random, tiny, values, write_model};
use candle_core::{DType, Device, Tensor};
use mixce_gpt2::{FAMILY, Gpt2Config};
use mixce_lm::Error;
use mixce_lm::checkpoint::{self, Reading, load};

fn folder(
    config: &Gpt2Config,
    rename: impl Fn(&str) -> String,
    change: impl FnOnce(&mut BTreeMap<String, Tensor>),
) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors: BTreeMap<String, Tensor> =
        named(&random(config)).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
    change(&mut tensors);
    write_model(dir.path(), config, &tensors);
    dir
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

/// Loads a folder; `read` must say of it beforehand what loading says.
fn reading_of(dir: &Path) -> Reading {
    let loaded = load(dir, &[&FAMILY], &Device::Cpu).unwrap();
    assert_eq!(checkpoint::read(dir, &*loaded.config).unwrap(), loaded.reading);
    loaded.reading
}

fn error_of(dir: &Path) -> Error {
    load(dir, &[&FAMILY], &Device::Cpu).unwrap_err()
}

#[test]
fn wrappers_are_taken_off_in_any_nesting() {
    for (prefix, removed) in [
        ("_orig_mod.", vec!["_orig_mod"]),
        ("module.", vec!["module"]),
        ("_module.", vec!["_module"]),
        ("model.", vec!["model"]),
        ("base_model.model.", vec!["base_model", "model"]),
        ("_orig_mod.transformer.", vec!["_orig_mod", "transformer"]),
        ("module._orig_mod.lm.transformer.", vec!["_orig_mod", "lm", "module", "transformer"]),
        (
            "_orig_mod.module.base_model.model.transformer.",
            vec!["_orig_mod", "base_model", "model", "module", "transformer"],
        ),
    ] {
        let dir = folder(&tiny(), |name| format!("{prefix}{name}"), |_| {});
        assert_same(&load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap().parameters, &random(&tiny()));
        let reading = reading_of(dir.path());
        assert_eq!(reading.prefixes, removed, "{prefix}");
        let usual = removed.iter().all(|name| ["transformer", "lm"].contains(name));
        assert_eq!(reading.notes().iter().any(|note| note.starts_with("names are read without")), !usual);
    }
    // Blocks that were compiled one by one.
    let inner = |name: &str| format!("transformer.{}", name.replace("h.1.", "h.1._orig_mod."));
    let dir = folder(&tiny(), inner, |_| {});
    assert_same(&load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap().parameters, &random(&tiny()));
}

#[test]
fn heads_of_other_tasks_are_left_out_and_named() {
    let heads = [
        "score.weight",
        "multiple_choice_head.summary.weight",
        "multiple_choice_head.summary.bias",
        "classifier.bias",
        "v_head.summary.weight",
        "module.step",
    ];
    let dir = folder(
        &tiny(),
        |name| format!("transformer.{name}"),
        |tensors| {
            for name in heads {
                tensors.insert(name.to_owned(), zeros(&[2, 8]));
            }
            tensors.insert("transformer.h.0.attn.bias".to_owned(), zeros(&[1, 1, 8, 8]));
        },
    );
    assert_same(&load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap().parameters, &random(&tiny()));
    let reading = reading_of(dir.path());
    let mut expected = heads.to_vec();
    expected.sort_unstable();
    assert_eq!(
        (reading.left_out.iter().map(String::as_str).collect::<Vec<_>>(), reading.buffers),
        (expected, 1)
    );
    let notes = reading.notes();
    assert!(
        notes[0]
            .starts_with("6 tensors are no part of the language model and are left out: `classifier.bias`")
    );
}

#[test]
fn the_body_must_be_whole_whatever_else_is_there() {
    let without = folder(&tiny(), str::to_owned, |tensors| {
        tensors.insert("score.weight".to_owned(), zeros(&[2, 8]));
        tensors.remove("h.0.mlp.c_fc.bias");
    });
    let error = error_of(without.path()).to_string();
    assert!(error.ends_with("1 missing: `h.0.mlp.c_fc.bias` [32]"), "{error}");
    let deeper = folder(&tiny(), str::to_owned, |tensors| {
        tensors.insert("h.2.ln_1.weight".to_owned(), zeros(&[8]));
    });
    assert!(error_of(deeper.path()).to_string().contains("1 unexpected: `h.2.ln_1.weight` [8]"));
}

#[test]
fn one_parameter_under_two_names_is_refused_with_both() {
    let dir = folder(
        &tiny(),
        |name| format!("transformer.{name}"),
        |tensors| {
            tensors.insert("module.ln_f.bias".to_owned(), tensors["transformer.ln_f.bias"].clone());
        },
    );
    let error = error_of(dir.path()).to_string();
    let both = "1 ambiguous: `ln_f.bias` stored as `module.ln_f.bias` and as `transformer.ln_f.bias`";
    assert!(error.contains(both), "{error}");
}

fn expected() -> std::collections::HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture("gpt2/formats/expected.safetensors"), &Device::Cpu).unwrap()
}

#[test]
fn the_dictionary_that_fits_is_found() {
    for (name, prefixes, left_out, transposed) in [
        ("pt_nested", vec!["module", "transformer"], vec!["loss", "history.0", "history.1.deep"], false),
        (
            "pt_nanogpt",
            vec!["_orig_mod", "transformer"],
            vec![
                "best_val_loss",
                "optimizer.state.0.exp_avg",
                "optimizer.state.0.exp_avg_sq",
                "optimizer.state.0.step",
            ],
            true,
        ),
    ] {
        let dir = fixture(&format!("gpt2/formats/{name}"));
        let loaded = load(&dir, &[&FAMILY], &Device::Cpu).unwrap();
        for (parameter, tensor) in loaded.parameters.iter() {
            assert_eq!(
                values(tensor),
                values(&expected()[&format!("parameters/{parameter}")]),
                "{name} {parameter}"
            );
        }
        let reading = reading_of(&dir);
        assert_eq!((reading.dictionary.as_str(), reading.transposed), ("model", transposed), "{name}");
        // The same model under a second name: 16 parameters and the head.
        let (again, others): (Vec<&str>, Vec<&str>) =
            reading.left_out.iter().map(String::as_str).partition(|name| {
                name.starts_with("module.state_dict.module.transformer.") || name.ends_with("lm_head.weight")
            });
        assert_eq!(again.len(), if name == "pt_nested" { 17 } else { 0 });
        assert_eq!((others, reading.prefixes), (left_out, prefixes.into_iter().map(str::to_owned).collect()));
        let listed = checkpoint::list(&dir).unwrap();
        assert!(
            listed.iter().any(|tensor| tensor.dictionary == "model" && tensor.name.ends_with("wte.weight"))
        );
        assert!(listed.iter().any(|tensor| tensor.dictionary.is_empty()), "{name}");
    }
}

#[test]
fn two_dictionaries_that_fit_are_refused_by_name() {
    let error = error_of(&fixture("gpt2/formats/pt_two_models"));
    assert!(
        matches!(&error, Error::TwoModels { candidates, .. } if candidates == &["ema.shadow", "model"]),
        "{error}"
    );
    assert!(
        error.to_string().ends_with("contains 2 models that match the configuration: `ema.shadow`, `model`")
    );
    assert!(error.hint().is_some());
}

#[test]
fn the_only_weight_file_is_taken_and_two_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("gpt2/formats/pt_nested");
    for name in ["config.json", "last.pt"] {
        fs::copy(source.join(name), dir.path().join(name)).unwrap();
    }
    // What transformers' trainer leaves beside a model.
    for name in ["optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state_0.pth"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    assert_eq!(load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap().weights_path, dir.path().join("last.pt"));
    fs::copy(source.join("last.pt"), dir.path().join("first.pt")).unwrap();
    let error = error_of(dir.path()).to_string();
    assert!(
        error.starts_with("no weights in `") && error.ends_with("found `first.pt`, `last.pt`"),
        "{error}"
    );
    // A file of a known name comes first; the other known ones are named.
    fs::copy(source.join("last.pt"), dir.path().join("pytorch_model.bin")).unwrap();
    assert_eq!(
        load(dir.path(), &[&FAMILY], &Device::Cpu).unwrap().weights_path,
        dir.path().join("pytorch_model.bin")
    );
    fs::copy(
        fixture("gpt2/formats/safetensors_bare/model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    assert_eq!(reading_of(dir.path()).unused_files, ["pytorch_model.bin"]);
}

#[test]
fn an_index_may_list_a_tied_head_that_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("gpt2/formats/sharded")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join("model.safetensors.index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let shard = index["weight_map"]["transformer.ln_f.bias"].clone();
    index["weight_map"]["lm_head.weight"] = shard.clone();
    fs::write(&path, index.to_string()).unwrap();
    let reading = reading_of(dir.path());
    assert_eq!(reading.absent, ["lm_head.weight"]);
    assert!(
        reading.notes()[0].contains("the index lists 1 tensors that no shard holds"),
        "{:?}",
        reading.notes()
    );
    // A tensor that the model needs, or that nobody knows, must be there.
    index["weight_map"]["score.weight"] = shard;
    fs::write(&path, index.to_string()).unwrap();
    assert!(error_of(dir.path()).to_string().contains("tensor `score.weight` should be in `model-0000"));
    let config = fs::read_to_string(dir.path().join("config.json")).unwrap();
    let untied = config.replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    assert_ne!(untied, config);
    fs::write(dir.path().join("config.json"), untied).unwrap();
    index["weight_map"].as_object_mut().unwrap().remove("score.weight");
    fs::write(&path, index.to_string()).unwrap();
    assert!(error_of(dir.path()).to_string().contains("tensor `lm_head.weight` should be in"));
}
