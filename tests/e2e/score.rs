//! Scoring texts.

use std::fs;

use serde_json::{Value, json};

use crate::support::{World, corpus, number};

/// Human texts, and those of two systems of which one repeats itself.
fn texts(world: &World) {
    world.write("human.txt", corpus(40, 3));
    world.write("good.txt", corpus(40, 4));
    let looping: String = corpus(40, 5)
        .lines()
        .map(|line| format!("{line} on and on and on and on and on it goes\n"))
        .collect();
    world.write("looping.txt", looping);
}

/// A matrix of f32 as NumPy writes it.
fn npy(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    (0..rows * columns).for_each(|at| bytes.extend(value(at / columns, at % columns).to_le_bytes()));
    bytes
}

/// Numbers that look random.
fn noise(row: usize, column: usize, seed: usize) -> f32 {
    let mut state = (row * 7919 + column * 104_729 + seed * 1_299_709 + 1) as u64;
    for _ in 0..3 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state = state.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    (state >> 40) as f32 / (1 << 24) as f32 - 0.5
}

#[test]
fn texts_are_scored_without_any_model() {
    let world = World::new();
    texts(&world);
    let line = "score --human human.txt --model-text good.txt looping.txt";
    let row = world.run(&format!("{line} --json")).row();
    let (good, looping) = (&row["systems"][0], &row["systems"][1]);
    assert_eq!((&good["name"], &looping["name"]), (&json!("good"), &json!("looping")));
    assert_eq!(
        (&row["human"]["texts"], &good["texts"], &good["empty_texts"]),
        (&json!(40), &json!(40), &json!(0))
    );
    assert!(number(looping, "diversity") < number(good, "diversity"));
    // "on and" four times, as the rule counts, of 11 and the words before.
    assert_eq!(number(looping, "repeated_phrase_length"), 2.0);
    assert_eq!(number(looping, "repeating_texts"), 1.0);
    assert!(number(looping, "repetition_rate") > 0.4);
    assert_eq!(row["human"]["repeated_phrase_length"], Value::Null);
    assert_eq!(row["settings"]["unit"], "words");
    for key in ["self_bleu", "zipf", "pooled_diversity", "distinct_texts"] {
        assert!(number(good, key) > 0.0, "{key}");
    }
    assert!(good["rep_n"]["product"].as_f64().is_some() && good["distinct_n"]["2"].as_f64().is_some());
    let interval = &good["confidence"]["diversity"];
    assert!(interval[0].as_f64().unwrap() <= number(good, "diversity"));
    assert!(interval[1].as_f64().unwrap() >= number(good, "diversity"));
    let tests = row["comparisons"].as_array().unwrap();
    let repetition = tests.iter().find(|test| test["metric"] == "repetition_rate").unwrap();
    assert_eq!(
        (&repetition["first"], &repetition["second"], &repetition["pairs"]),
        (&json!("good"), &json!("looping"), &json!(40))
    );
    assert!(number(repetition, "p_value") < 0.001 && number(repetition, "difference") < -0.4);

    let again = world.run(&format!("{line} --json --threads 1")).row();
    assert_eq!(again, row, "threads change nothing");
    let text = world.run(line).success();
    for words in ["repetition_rate", "looping", "paired test", "settings"] {
        assert!(text.stdout.contains(words), "{words}: {}", text.stdout);
    }
    assert!(text.stderr.contains("whitespace words"), "{}", text.stderr);
}

#[test]
fn metrics_are_chosen_and_tokens_are_the_tokenizers() {
    let world = World::new();
    texts(&world);
    let line = "score --human human.txt --model-text good.txt --metrics diversity,length --tokenizer {tokenizer} --json";
    let row = world.run(line).row();
    assert_eq!(row["settings"]["metrics"], json!(["diversity", "length"]));
    assert_eq!(row["settings"]["unit"], "tokens");
    assert!(row["systems"][0].get("zipf").is_none());
    let (tokens, words) = (&row["human"]["tokens"], &row["human"]["words"]);
    assert!(number(tokens, "mean") > number(words, "mean"), "{row}");
}

#[test]
fn prompts_and_continuations_are_one_text() {
    let world = World::new();
    texts(&world);
    let split: String = world
        .text("good.txt")
        .lines()
        .map(|line| {
            let (prompt, rest) = line.split_at(line.find(' ').unwrap());
            format!("{}\n", json!({"prompt": prompt, "continuation": rest, "id": 7}))
        })
        .collect();
    world.write("good.jsonl", &split);
    world.write("sampled.jsonl", split.replace("continuation", "text"));
    let of = |file: &str| {
        let mut row = world.run(&format!("score --human human.txt --model-text {file} --json")).row();
        row["systems"][0].as_object_mut().unwrap().remove("name");
        row
    };
    assert_eq!(of("good.txt"), of("good.jsonl"));
    assert_eq!(of("good.txt"), of("sampled.jsonl"));
}

#[test]
fn mauve_comes_from_a_model_and_its_features_are_kept() {
    let world = World::new();
    texts(&world);
    let line = "score --human human.txt --model-text good.txt looping.txt --featurizer model --metrics mauve --json --mauve-seeds 3";
    let first = world.run(line);
    assert!(first.stderr.contains("40 samples says little"), "{}", first.stderr);
    let row = first.row();
    let (good, looping) = (&row["systems"][0]["mauve"], &row["systems"][1]["mauve"]);
    assert!(number(good, "mean") > number(looping, "mean"), "{row}");
    assert_eq!(good["values"].as_array().unwrap().len(), 3);
    assert_eq!(row["settings"]["mauve"]["seeds"], json!([42, 43, 44]));
    assert_eq!(
        (&row["systems"][0]["mauve_facts"]["buckets"], &row["settings"]["featurizer"]["max_length"]),
        (&json!(4), &json!(64))
    );

    let cache = world.path("home/.cache/mixce/features");
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "one file a set of texts");
    assert_eq!(world.run(line).row(), row);
    for file in &files {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::write(file, bytes).unwrap();
    }
    let mended = world.run(line);
    assert!(mended.stderr.contains("damaged: computing them again"), "{}", mended.stderr);
    assert_eq!(mended.row(), row);
    // Another batch rounds differently, and the clusters hardly notice.
    let small = world.run(&format!("{line} --no-cache --batch-tokens 5")).row();
    assert!((number(&small["systems"][0]["mauve"], "mean") - number(good, "mean")).abs() < 1e-3);
    let other = world.run(&format!("{line} --seed 7")).row();
    assert_ne!(other["systems"][0]["mauve"]["values"], good["values"]);
}

#[test]
fn features_may_come_from_files() {
    let world = World::new();
    world.write("p.npy", npy(300, 6, |i, j| noise(i, j, 1)));
    world.write("q.npy", npy(280, 6, |i, j| noise(i, j, 2)));
    world.write("far.npy", npy(280, 6, |i, j| noise(i, j, 3) + if j == 0 { 2.0 } else { 0.0 }));
    let line = "score --human-features p.npy --model-features p.npy q.npy far.npy --json";
    let row = world.run(line).row();
    let mean = |i: usize| number(&row["systems"][i]["mauve"], "mean");
    assert!(mean(0) > 0.999 && mean(1) > 0.7 && mean(2) < 0.2, "{row}");
    assert!(row["human"].is_null());
    assert_eq!(row["systems"][2]["name"], "far");
    assert!(number(&row["systems"][2]["frontier_integral"], "mean") > 0.5);
    assert_eq!(world.run(&format!("{line} --threads 1")).row()["systems"], row["systems"]);
}

#[test]
fn bad_input_is_named() {
    let world = World::new();
    texts(&world);
    world.write("empty.txt", "");
    world.write("blank.txt", "\n \n\n");
    world.write("bad.txt", b"fine\nwat\xe9r\n");
    world.write("bad.jsonl", "{\"text\":\"a\"}\n{\"prompt\":\"a\"}\n");
    world.write("p.npy", npy(30, 6, |i, j| noise(i, j, 1)));
    world.write("wide.npy", npy(30, 7, |i, j| noise(i, j, 1)));
    world.write("nan.npy", npy(30, 6, |i, _| if i == 3 { f32::NAN } else { 1.0 }));
    let mut huge = npy(1, 6, |_, _| 0.0);
    let at = huge.windows(2).position(|w| w == b"(1").unwrap();
    huge.splice(at + 1..at + 2, *b"9999999999999");
    let length = u16::from_le_bytes([huge[8], huge[9]]) + 12;
    huge[8..10].copy_from_slice(&length.to_le_bytes());
    world.write("huge.npy", huge);
    let before = world.snapshot();
    for (flags, words) in [
        ("--human empty.txt --model-text good.txt", ["`empty.txt` is empty", ""]),
        ("--human human.txt --model-text blank.txt", ["`blank.txt` holds no text", ""]),
        ("--human human.txt --model-text bad.txt", ["`bad.txt` line 2, byte 4", "UTF-8"]),
        ("--human human.txt --model-text bad.jsonl", ["`bad.jsonl` line 2", "hint: a row is an object"]),
        ("--human human.txt --model-text nowhere.txt", ["nowhere.txt", ""]),
        ("--human human.txt", ["--model-text", ""]),
        ("--model-text good.txt", ["--human", ""]),
        ("--human human.txt --model-text good.txt --metrics beauty", ["beauty", "diversity"]),
        ("--human human.txt --model-text good.txt --mauve-seeds 0", ["`--mauve-seeds`", "got `0`"]),
        ("--human human.txt --model-text good.txt --resamples 999999999999", ["`--resamples`", "at most"]),
        ("--human human.txt --model-text good.txt --confidence 95", ["`--confidence`", "between 0 and 1"]),
        ("--human-features p.npy --model-features wide.npy", ["MAUVE of `wide`", "6 columns"]),
        ("--human-features p.npy --model-features nan.npy", ["row 3, column 0", "`NaN`"]),
        ("--human-features p.npy --model-features huge.npy", ["huge.npy", "9999999999999 x 6"]),
        ("--human-features p.npy --model-features human.txt", ["human.txt", "`.npy` or `.safetensors`"]),
        (
            "--human-features p.npy --model-features p.npy --metrics diversity",
            ["`diversity` needs texts", ""],
        ),
        (
            "--human-features p.npy --model-features p.npy --mauve-buckets 100",
            ["100 buckets", "hint: score more"],
        ),
    ] {
        world.run(&format!("score {flags}")).refused(&words);
    }
    assert!(world.snapshot() == before, "something was written");
}
