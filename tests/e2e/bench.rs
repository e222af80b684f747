//! Measuring speed.

use serde_json::Value;

use crate::support::{World, number};

const TINY: &str = "--model-config config.json --batch-size 2 --steps 3 --warmup 1 --threads 1 --json";

/// The common fields of every benchmark, with `tokens` in each of its three steps.
fn check(row: &Value, bench: &str, tokens: u64) {
    assert_eq!(row["bench"], bench);
    let seconds: Vec<f64> = row["step_s"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
    assert_eq!((seconds.len(), &row["tokens"]), (3, &serde_json::json!([tokens, tokens, tokens])), "{row}");
    let mut rates: Vec<f64> = seconds.iter().map(|s| tokens as f64 / s).collect();
    rates.sort_by(f64::total_cmp);
    for (key, want) in
        [("tokens_per_s_min", rates[0]), ("tokens_per_s", rates[1]), ("tokens_per_s_max", rates[2])]
    {
        assert!((number(row, key) - want).abs() < 1e-6 * want, "{key}: {row}");
    }
    assert_eq!(row["matmul_peak_shape"].is_null(), row["settings"]["gflops"].is_f64(), "{row}");
    let share = number(row, "gflops") / number(row, "matmul_peak_gflops");
    assert!(share > 0.0 && (number(row, "matmul_peak_share") - share).abs() < 1e-9, "{row}");
    assert_eq!((&row["device"], &row["threads"]), (&"cpu".into(), &1.into()));
    assert!(row["parameters"].as_u64().unwrap() > 1000 && row["version"].is_string());
    if cfg!(unix) {
        assert!(number(row, "peak_rss_bytes") > 4.0 * number(row, "parameters"), "{row}");
    }
}

#[test]
fn training_scoring_and_sampling_are_measured() {
    let world = World::new();
    let row = world.run(&format!("bench train {TINY} --seq-len 16 --eta 0.5 --dropout 0.2 --seed 3")).row();
    check(&row, "train", 32);
    let settings = &row["settings"];
    assert_eq!(settings["objective"], serde_json::json!({"name": "mixce", "eta": 0.5}), "{row}");
    assert_eq!((&settings["dropout"][1], &settings["seq_len"]), (&0.2.into(), &16.into()));
    assert_eq!((&settings["batch_size"], &settings["seed"]), (&2.into(), &3.into()));

    let given = format!("{TINY} --gflops 12.5");
    let row = world.run(&format!("bench forward {given} --seq-len 16")).row();
    check(&row, "forward", 32);
    assert_eq!(row["matmul_peak_gflops"], 12.5);
    let row = world.run(&format!("bench generate {given} --prompt-len 5 --new-tokens 9")).row();
    check(&row, "generate", 18);
    let row = world.run(&format!("bench generate {given} --prompt-len 5 --seq-len 12")).row();
    check(&row, "generate", 14);
}

#[test]
fn documents_count_their_real_tokens() {
    let world = World::new();
    world.write("three.txt", "the old lighthouse\n\nthe goose\nkeeper of the geese\n");
    let row = world
        .run("evaluate --model model --data three.txt --max-length 8 --per-token tokens.jsonl --json")
        .row();
    assert_eq!(row["documents"], 3);
    let targets: Vec<usize> =
        world.rows("tokens.jsonl").iter().map(|row| row["log_q"].as_array().unwrap().len()).collect();
    for bench in ["train", "forward"] {
        let line = format!(
            "bench {bench} --model-config model --data three.txt --batch-size 2 --seq-len 8 --steps 3 --warmup 0 --gflops 9"
        );
        let row = world.run(&format!("{line} --json")).row();
        let want = [targets[0] + targets[1], targets[2] + targets[0], targets[1] + targets[2]];
        assert_eq!(row["tokens"], serde_json::json!(want), "{bench}: {row}");
        let text = world.run(&line).success().stdout;
        assert!(text.contains("tokens/s (") && text.contains("9.0 GFLOP/s (given)"), "{text}");
    }
}

#[test]
fn tokenisation_counts_what_training_would_see() {
    let world = World::new();
    let row = world.run("bench tokenize --data train.txt --tokenizer model --json").row();
    let seen = world.run("inspect train.txt --tokenizer model --json").row();
    for key in ["documents", "tokens", "bytes"] {
        assert_eq!(row[key], seen[key], "{key}");
    }
    assert!(number(&row, "tokens_per_s") > 0.0 && number(&row, "megabytes_per_s") > 0.0, "{row}");
    let line = "bench tokenize --data train.txt --tokenizer model --cache-dir cache";
    assert!(world.run(line).success().stdout.contains("tokens/s"));
    assert_eq!(std::fs::read_dir(world.path("cache")).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let world = World::new();
    let refused = |line: &str, words: &[&str]| world.run(&format!("bench {line}")).refused(words);
    refused("train --model-config gpt3", &["`gpt3`", "`gpt2-xl`", "hint: "]);
    refused("train --model-config train.txt", &["train.txt"]);
    refused("train --model-config config.json --batch-size 0", &["`--batch-size`", "at least 1"]);
    refused("train --model-config config.json --seq-len 16 --gflops 0", &["`--gflops`", "positive", "`0`"]);
    refused("forward --model-config config.json --steps 0", &["`--steps`", "at least 1"]);
    refused("forward --model-config config.json --seq-len 0", &["`--seq-len`", "at least 1"]);
    refused("train --model-config config.json --seq-len 100000", &["`--seq-len`", "positions", "hint: "]);
    refused(
        "train --model-config config.json --seq-len 16 --batch-size 99999999",
        &["`--batch-size", "together"],
    );
    refused("train --model-config config.json --seq-len 16 --eta 2", &["eta", "2"]);
    refused("train --model-config config.json --seq-len 16 --dropout 1", &["--dropout", "1"]);
    refused("train --model-config config.json --seq-len 16 --data train.txt", &["`--tokenizer`", "hint: "]);
    refused("forward --model-config model --seq-len 16 --data nothing.txt", &["nothing.txt"]);
    world.write("blank.txt", "\n\n");
    refused("forward --model-config model --seq-len 16 --data blank.txt", &["blank.txt"]);
    refused("generate --model-config config.json --prompt-len 5 --seq-len 5", &["`--seq-len 5`", "hint: "]);
    refused("generate --model-config config.json --new-tokens 0", &["`--new-tokens`"]);
    refused("generate --model-config config.json --new-tokens 99999", &["positions"]);
    assert_eq!(world.run("bench").status, Some(2));
}
