//! Scoring texts.

use std::fs;

use serde_json::{Value, json};

use crate::support::{World, corpus, number};

/// Human texts, and those of two systems of which one repeats itself.
pub(crate) fn texts(world: &World) {
    world.write("human.txt", corpus(40, 3));
    world.write("good.txt", corpus(40, 4));
    let looping: String = corpus(40, 5)
        .lines()
        .map(|line| format!("{line} on and on and on and on and on it goes\n"))
        .collect();
    world.write("looping.txt", looping);
}

/// A matrix of f32 as NumPy writes it.
pub(crate) fn npy(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    (0..rows * columns).for_each(|at| bytes.extend(value(at / columns, at % columns).to_le_bytes()));
    bytes
}

/// Numbers that look random.
pub(crate) fn noise(row: usize, column: usize, seed: usize) -> f32 {
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
fn the_values_of_texts_are_written() {
    let world = World::new();
    texts(&world);
    let line = "score --human human.txt --model-text good.txt looping.txt --metrics diversity,zipf --json --per-text values.json";
    let row = world.run(line).row();
    let values: Value = serde_json::from_str(&world.text("values.json")).unwrap();
    assert_eq!(values["systems"][1]["name"], "looping");
    assert!(values["human"].get("zipf").is_none(), "no mean over texts");
    for (values, means) in [(&values["human"], &row["human"]), (&values["systems"][0], &row["systems"][0])] {
        let of_texts: Vec<f64> =
            values["diversity"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(of_texts.len(), 40);
        assert!((of_texts.iter().sum::<f64>() / 40.0 - number(means, "diversity")).abs() < 1e-12);
    }
    world.run(line).refused(&["values.json", "exists", "--overwrite"]);
    world.run(&format!("{line} --overwrite")).success();
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
    assert!(first.stderr.contains("40 samples is unreliable"), "{}", first.stderr);
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
    assert!(mended.stderr.contains("damaged: recomputing them"), "{}", mended.stderr);
    assert_eq!(mended.row(), row);
    // Another batch rounds differently, and the clusters hardly notice.
    let small = world.run(&format!("{line} --no-cache --batch-tokens 5")).row();
    assert!((number(&small["systems"][0]["mauve"], "mean") - number(good, "mean")).abs() < 1e-3);
    let other = world.run(&format!("{line} --seed 7")).row();
    assert_ne!(other["systems"][0]["mauve"]["values"], good["values"]);
}

#[test]
fn texts_come_in_every_format() {
    let world = World::new();
    texts(&world);
    let good = world.text("good.txt");
    let quoted = |line: &str| format!("\"{}\"", line.replace('"', "\"\""));
    let table: String = good.lines().enumerate().map(|(i, line)| format!("{i},{}\n", quoted(line))).collect();
    world.write("good.csv", format!("id,text\n{table}"));
    let rows: String =
        good.lines().map(|line| format!("{}\n", json!({"prompt": "", "text": line}))).collect();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, rows.as_bytes()).unwrap();
    world.write("good.jsonl.gz", encoder.finish().unwrap());
    let (first, second) = good.split_at(good.match_indices('\n').nth(19).unwrap().0 + 1);
    world.write("part-1.txt", first);
    world.write("part-2.txt", second);
    let of = |flags: &str| {
        let mut row = world.run(&format!("score --human human.txt --model-text {flags} --json")).row();
        let name = row["systems"][0].as_object_mut().unwrap().remove("name").unwrap();
        (name, row)
    };
    let (_, expected) = of("good.txt");
    for (flags, name) in [
        ("good.csv", "good"),
        ("good.jsonl.gz", "good"),
        ("part-*.txt", "part-*.txt"),
        ("good.jsonl.gz --text-column text", "good"),
    ] {
        assert_eq!(of(flags), (json!(name), expected.clone()), "{flags}");
    }
}

#[test]
fn coherence_compares_prompts_with_continuations() {
    let world = World::new();
    let row = |prompt: &str, rest: &str| format!("{}\n", json!({"prompt": prompt, "continuation": rest}));
    let prompts = ["the cat sat", "a token is not", "don't stop now"];
    let echo: String = prompts.iter().map(|prompt| row(prompt, prompt)).collect();
    let other: String =
        prompts.iter().zip(["mat on", "", "sat the cat"]).map(|(prompt, rest)| row(prompt, rest)).collect();
    world.write("echo.jsonl", echo);
    world.write("other.jsonl", other);
    world.write("human.txt", "the cat sat on the mat\na token is not a mat\ndon't stop now cat\n");
    let line = "score --human human.txt --model-text echo.jsonl other.jsonl --metrics coherence --embedder {fixtures}/encoder \
                --prompt-length 4 --json";
    let first = world.run(line);
    assert!(
        first.stderr.contains("other: 1 of 3 texts have no prompt or no continuation"),
        "{}",
        first.stderr
    );
    let row = first.row();
    let (echo, other) = (&row["systems"][0], &row["systems"][1]);
    assert!((number(echo, "coherence") - 1.0).abs() < 1e-5, "{row}");
    assert!(number(other, "coherence") < 0.999 && number(&row["human"], "coherence") < 0.999, "{row}");
    assert_eq!((&other["coherence_texts"], &row["human"]["coherence_texts"]), (&json!(2), &json!(3)));
    assert_eq!(row["settings"]["embedder"]["pooling"], "cls-pooler");
    assert_eq!(row["settings"]["embedder"]["fingerprint"].as_str().unwrap().len(), 64);
    // 4 tokens stand for 2 words.
    assert_eq!(row["settings"]["prompts"], json!({"unit": "words", "length": 2}));
    assert!(row["comparisons"][0]["metric"] == "coherence" && row["comparisons"][0]["pairs"] == 2);

    let cache = world.path("home/.cache/mixce/features");
    assert!(fs::read_dir(&cache).unwrap().count() >= 4);
    assert_eq!(world.run(line).row(), row, "from the cache");
    let batches = world.run(&format!("{line} --no-cache --batch-tokens 1 --threads 1")).row();
    assert!((number(&batches["systems"][1], "coherence") - number(other, "coherence")).abs() < 1e-5);

    let authors = world.run(&format!("{line} --compat authors")).row();
    assert_eq!(authors["settings"]["prompts"]["length"], "common prefix");
    assert_eq!(authors["systems"][1]["coherence_texts"], 3);
}

#[test]
fn controlled_metrics_look_through_windows_of_one_length() {
    let world = World::new();
    world.write("human.txt", corpus(400, 3));
    world.write("good.txt", corpus(400, 4));
    let words = world.text("human.txt").lines().map(|line| line.split_whitespace().count()).max().unwrap();
    // Windows of 5 words with prompts of 2, and some that no text has.
    let long = (words + 1) * 2;
    let line = format!(
        "score --human human.txt --model-text good.txt --metrics controlled-mauve,controlled-coherence --featurizer model \
         --embedder {{fixtures}}/encoder --prompt-length 3 --window-tokens 7,{long} --windows 200 --mauve-seeds 2 --json"
    );
    let run = world.run(&line);
    assert!(run.stderr.contains("found 0, needed 200"), "{}", run.stderr);
    let row = run.row();
    for side in [&row["human"], &row["systems"][0]] {
        let mauve = &side["controlled_mauve"]["7"];
        assert!(number(mauve, "mean") > 0.3 && mauve["values"].as_array().unwrap().len() == 2, "{row}");
        assert!(side["controlled_coherence"]["7"].as_f64().unwrap().abs() <= 1.0);
        let none = long.to_string();
        assert!(
            side["controlled_mauve"][none.as_str()].is_null()
                && side["controlled_coherence"][none.as_str()].is_null()
        );
    }
    let windows = &row["settings"]["windows"];
    assert_eq!((&windows["prompt_words"], &windows["seed"]), (&json!(2), &json!(42)));
    let sets = windows["sets"].as_array().unwrap();
    assert_eq!(sets.len(), 4);
    assert_eq!(
        (&sets[0]["set"], &sets[0]["words"], &sets[0]["needed"]),
        (&json!("human"), &json!(5), &json!(200))
    );
    assert!(sets[0]["found"].as_u64().unwrap() >= 200 && sets[2]["found"] == 0);
    assert_eq!(world.run(&line).row(), row);
}

/// The names of the rows of a table in the output of `score`, head excluded.
fn row_names(text: &str, table: usize) -> Vec<&str> {
    let rows = text.split("\n\n").nth(table).unwrap().lines().skip(1);
    rows.map(|row| row.split_whitespace().next().unwrap()).collect()
}

#[test]
fn the_table_of_results_holds_results_only() {
    let world = World::new();
    texts(&world);
    world.write("p.npy", npy(40, 6, |i, j| noise(i, j, 1)));
    world.write("q.npy", npy(40, 6, |i, j| noise(i, j, 2)));
    let line = "score --human human.txt --model-text good.txt --human-features p.npy --model-features q.npy --metrics mauve,rep-n,length \
                --mauve-seeds 2";
    let text = world.run(line).success().stdout;
    let lengths = |name: &str| ["mean", "std", "min", "median", "max"].map(|part| format!("{name}.{part}"));
    let rep_n = ["rep_2", "rep_3", "rep_4", "product"].map(|part| format!("rep_n.{part}"));
    let mauve = ["mauve", "mauve_star", "frontier_integral"].map(str::to_owned);
    let results = [lengths("tokens").as_slice(), &lengths("words"), &rep_n, &mauve].concat();
    assert_eq!(row_names(&text, 0), results, "{text}");
    let facts = ["buckets", "components", "explained_variance", "human_samples", "model_samples"];
    let facts = facts.map(|fact| format!("mauve_facts.{fact}"));
    let details = [["texts", "empty_texts"].map(str::to_owned).as_slice(), &facts].concat();
    assert_eq!(row_names(&text, 1), details, "{text}");
    let head = text.lines().next().unwrap();
    assert_eq!(head.split_whitespace().collect::<Vec<_>>(), ["human", "good"]);
    let mauve = text.lines().find(|line| line.starts_with("mauve ")).unwrap();
    assert_eq!(mauve.split_whitespace().nth(1), Some("-"), "the human texts have no MAUVE: {text}");
    let settings = text.lines().find_map(|line| line.strip_prefix("settings  ")).unwrap();
    let settings: Value = serde_json::from_str(settings).unwrap();
    assert_eq!(settings, world.run(&format!("{line} --json")).row()["settings"]);
}

#[test]
fn metrics_are_listed_and_a_slip_is_named() {
    let world = World::new();
    texts(&world);
    let help = world.run("score --help").success().stdout;
    for words in [
        "- diversity:",
        "- controlled-coherence:",
        "Similarity of the texts to each other",
        "--self-bleu-texts <N>",
        "--mauve-buckets <K>",
    ] {
        assert!(help.contains(words), "{words}: {help}");
    }
    let line = "score --human human.txt --model-text good.txt";
    world.run(&format!("{line} --metrics zipf,divrsity")).refused(&[
        "divrsity",
        "possible values: diversity, repetition, length",
        "similar value exists: 'diversity'",
    ]);
    world.run(&format!("{line} --self-bleu-texts many")).refused(&["`--self-bleu-texts`", "got `many`"]);
    world
        .run(&format!("{line} --mauve-scaling 0"))
        .refused(&["`--mauve-scaling`: expected a number above 0, got `0`"]);
    world.run(&format!("{line} --mauve-buckets 0")).refused(&["`--mauve-buckets`", "at least 1", "got `0`"]);
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
    // Texts beside the features are those of the systems.
    world.write("a.txt", "one\n\n");
    let line = "score --human-features p.npy --model-features q.npy --model-text a.txt --json";
    let row = world.run(line).row();
    assert!(row["human"].is_null() && row["systems"][0]["name"] == "a", "{row}");
    assert_eq!((&row["systems"][0]["texts"], &row["systems"][0]["empty_texts"]), (&json!(2), &json!(1)));
}
