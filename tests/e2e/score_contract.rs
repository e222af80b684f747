//! The complete output of `score --json`: names, structure and values of every metric on texts generated here.
//!
//! `MIXCE_BLESS=1 cargo test -p mixce-tests --test e2e score_contract` regenerates the files of `fixtures/score`; say in the
//! commit why they changed.

use std::fs;

use serde_json::{Value, json};

use crate::support::{World, corpus, fixtures};

/// Scores that go through a network, k-means or principal components, whose rounding differs between processors.
const COMPUTED_BY_MODELS: [&str; 5] =
    ["mauve", "mauve_star", "frontier_integral", "controlled_mauve", "explained_variance"];

/// Human texts and those of two systems, one of which repeats itself; some are empty or of one word.
fn texts(world: &World) {
    let edges = "\nmill\nwater wheel\n";
    world.write("human.txt", corpus(150, 3) + edges);
    world.write("good.txt", corpus(150, 4) + edges);
    let looping: String = corpus(150, 5)
        .lines()
        .map(|line| format!("{line} on and on and on and on and on it goes\n"))
        .collect();
    world.write("looping.txt", looping + edges);
    let row = |(i, line): (usize, &str)| {
        let (prompt, rest) = line.split_at(line.find(' ').unwrap_or(line.len()));
        match i % 3 {
            0 => format!("{}\n", json!({"prompt": prompt, "continuation": rest})),
            1 => format!("{}\n", json!({"prompt": prompt, "text": rest, "seed": 7})),
            _ => format!("{}\n", json!({"text": line})),
        }
    };
    world.write("rows.jsonl", world.text("good.txt").lines().enumerate().map(row).collect::<String>());
}

/// Compares a run with its file. Numbers may differ by rounding; versions and fingerprints of random weights are not compared.
fn keeps(world: &World, name: &str, line: &str) {
    let mut got = world.run(&format!("score {line} --json")).row();
    let settings = got["settings"].as_object_mut().unwrap();
    for (object, key) in [("", "version"), ("featurizer", "fingerprint")] {
        let object = if object.is_empty() {
            Some(&mut *settings)
        } else {
            settings.get_mut(object).and_then(Value::as_object_mut)
        };
        if let Some(value) = object.and_then(|object| object.get_mut(key)) {
            assert!(value.as_str().is_some_and(|text| !text.is_empty()), "{key}: {value}");
            *value = json!("not compared");
        }
    }
    for object in settings.values_mut().filter_map(Value::as_object_mut) {
        if let Some(Value::String(model)) = object.get_mut("model") {
            *model = model.replace(&fixtures().display().to_string(), "{fixtures}");
        }
    }
    let path = fixtures().join("score").join(format!("{name}.json"));
    if std::env::var_os("MIXCE_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string_pretty(&got).unwrap() + "\n").unwrap();
    }
    let want: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut differences = Vec::new();
    compare(name, &got, &want, 1e-6, &mut differences);
    assert!(differences.is_empty(), "mixce score {line}\n{}", differences.join("\n"));
}

fn compare(path: &str, got: &Value, want: &Value, tolerance: f64, differences: &mut Vec<String>) {
    match (got, want) {
        (Value::Object(got), Value::Object(want)) => {
            let keys: std::collections::BTreeSet<_> = got.keys().chain(want.keys()).collect();
            for key in keys {
                let tolerance = if COMPUTED_BY_MODELS.contains(&key.as_str()) { 1e-2 } else { tolerance };
                match (got.get(key), want.get(key)) {
                    (Some(got), Some(want)) => {
                        compare(&format!("{path}.{key}"), got, want, tolerance, differences)
                    }
                    (Some(got), None) => differences.push(format!("{path}.{key}: new, {got}")),
                    (_, want) => differences.push(format!("{path}.{key}: missing, {want:?}")),
                }
            }
        }
        (Value::Array(got), Value::Array(want)) if got.len() == want.len() => {
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                compare(&format!("{path}[{i}]"), got, want, tolerance, differences);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            if (a - b).abs() > tolerance * (1.0 + b.abs()) {
                differences.push(format!("{path}: got {got}, expected {want}"));
            }
        }
        _ if got == want => {}
        _ => differences.push(format!("{path}: got {got}, expected {want}")),
    }
}

#[test]
fn of_every_metric() {
    let world = World::new();
    texts(&world);
    keeps(
        &world,
        "all",
        "--human human.txt --model-text good.txt looping.txt --metrics controlled-coherence,controlled-mauve,coherence,mauve,zipf,\
         self-bleu,rep-n,distinct,length,repetition,diversity --featurizer model --embedder {fixtures}/encoder --prompt-length 3 \
         --window-tokens 7,40 --windows 200 --mauve-seeds 2 --resamples 200 --self-bleu-texts 60",
    );
}

#[test]
fn of_the_default_metrics() {
    let world = World::new();
    texts(&world);
    keeps(
        &world,
        "default",
        "--human human.txt --model-text good.txt looping.txt --resamples 200 --confidence 0.8 --seed 7",
    );
    let models = "--featurizer model --embedder {fixtures}/encoder --prompt-length 4 --mauve-buckets 6 --mauve-scaling 3 --mauve-seeds 1";
    keeps(
        &world,
        "default-with-models",
        &format!("--human human.txt --model-text rows.jsonl {models} --resamples 0"),
    );
}

#[test]
fn of_metrics_by_themselves() {
    let world = World::new();
    texts(&world);
    let line = "--human human.txt --model-text rows.jsonl good.txt --resamples 50";
    keeps(&world, "diversity", &format!("{line} --metrics diversity --tokenizer {{tokenizer}}"));
    let coherence = "--embedder {fixtures}/encoder --prompt-length 4 --metrics coherence";
    keeps(&world, "coherence", &format!("{line} {coherence}"));
    keeps(&world, "coherence-authors", &format!("{line} {coherence} --compat authors"));
    keeps(
        &world,
        "windows",
        &format!(
            "{line} --embedder {{fixtures}}/encoder --prompt-length 3 --window-tokens 7 --windows 100 --metrics controlled-coherence"
        ),
    );
}

#[test]
fn of_features_from_files() {
    let world = World::new();
    texts(&world);
    for name in ["human.npy", "model.npy"] {
        world.write(name, fs::read(fixtures().join("metrics").join(name)).unwrap());
    }
    let features = "--human-features human.npy --model-features model.npy human.npy --mauve-seeds 2";
    keeps(&world, "features", features);
    let line = "--human human.txt --model-text good.txt looping.txt --metrics length,mauve --resamples 50";
    keeps(&world, "features-and-texts", &format!("{features} {line}"));
}
