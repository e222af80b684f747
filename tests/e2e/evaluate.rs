//! Measuring perplexity.

use candle_core::Device;
use mixce_kernels::Precision;

use crate::support::{World, number};

#[test]
fn perplexity_is_that_of_the_tokens_and_does_not_depend_on_the_batches() {
    let world = World::new();
    let line = "evaluate --model model --data valid.txt --max-length 60 --json";
    let row = world.run(&format!("{line} --per-token tokens.jsonl")).row();
    assert_eq!(row["documents"], 12);
    let nll = number(&row, "nll");
    assert!((number(&row, "perplexity") - nll.exp()).abs() < 1e-9 * nll.exp());
    let per_token = world.rows("tokens.jsonl");
    assert_eq!(per_token.len(), 12);
    let log_q: Vec<f64> = per_token
        .iter()
        .flat_map(|row| {
            let scores = row["log_q"].as_array().unwrap();
            assert_eq!(scores.len() + 1, row["tokens"].as_array().unwrap().len());
            scores.iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(row["tokens"], log_q.len());
    assert!((nll + log_q.iter().sum::<f64>() / log_q.len() as f64).abs() < 1e-6);

    let small = world.run(&format!("{line} --batch-tokens 7 --threads 1")).row();
    assert!((number(&small, "nll") - nll).abs() < 1e-5, "{small}");
    let text = world.run("evaluate --model model --data valid.txt --max-length 60").success().stdout;
    assert!(text.contains(&format!("{nll:.4} nats per token")), "{text}");
}

/// As training does, scoring refuses bf16 on a CPU without it.
#[test]
fn the_precision_is_that_asked_for() {
    let world = World::new();
    let line = "evaluate --model model --data valid.txt --max-length 60 --json";
    let exact = world.run(line).row();
    assert_eq!(exact["settings"]["precision"], "f32");
    let line = format!("{line} --precision bf16");
    if Precision::Bf16.check(&Device::Cpu).is_err() {
        return world.run(&line).refused(&["`--precision bf16`", "AVX512-BF16", "`--precision f32`"]);
    }
    let rounded = world.run(&line).row();
    assert_eq!(rounded["settings"]["precision"], "bf16");
    let (nll, rounded) = (number(&exact, "nll"), number(&rounded, "nll"));
    assert!(nll != rounded && (nll - rounded).abs() < 3e-3 * nll, "{nll} {rounded}");
}

#[test]
fn prompts_are_left_out_and_batches_averaged_when_that_is_asked_for() {
    let world = World::new();
    let line = "evaluate --model model --data valid.txt --max-length 60 --json";
    let plain = world.run(&format!("{line} --per-token tokens.jsonl")).row();
    let documents: Vec<Vec<f64>> = world
        .rows("tokens.jsonl")
        .iter()
        .map(|row| row["log_q"].as_array().unwrap().iter().map(|x| -x.as_f64().unwrap()).collect())
        .collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} {want}");

    // Of a prompt of 4 tokens the first has no likelihood, and three are not counted.
    let row = world.run(&format!("{line} --prompt-length 4")).row();
    let rest: Vec<f64> = documents.iter().flat_map(|d| d.iter().skip(3).copied()).collect();
    close(number(&row, "nll"), mean(&rest));
    assert_eq!((&row["tokens"], &row["documents"]), (&rest.len().into(), &12.into()));
    assert_eq!(row["settings"]["prompt_length"], 4);
    world.run(&format!("{line} --prompt-length 100")).refused(&["longer than its prompt of 100 tokens"]);

    let row = world.run(&format!("{line} --compat authors --batch-size 5")).row();
    let batches = documents.chunks(5).flat_map(|batch| vec![mean(&batch.concat()); batch.len()]);
    close(number(&row, "nll"), mean(&batches.collect::<Vec<_>>()));
    close(number(&row, "perplexity"), number(&row, "nll").exp());
    close(number(&row, "token_nll"), number(&plain, "nll"));
    assert!((number(&row, "nll") - number(&plain, "nll")).abs() > 1e-6, "{row}");
    world.run(&format!("{line} --batch-size 5")).refused(&["--compat"]);
    world.run(&format!("{line} --compat authors --batch-size 0")).refused(&["`--batch-size`"]);
    world
        .run(&format!("{line} --prompt-length 4 --block-size 20"))
        .refused(&["--prompt-length", "--block-size"]);
}

#[test]
fn jsonl_documents_score_as_their_text() {
    let world = World::new();
    let rows: String = world
        .text("valid.txt")
        .lines()
        .map(|l| format!("{}\n", serde_json::json!({"text": l, "id": 1})))
        .collect();
    world.write("valid.jsonl", rows);
    let of = |file: &str| world.run(&format!("evaluate --model model --data {file} --json")).row();
    assert_eq!(of("valid.txt"), of("valid.jsonl"));
}

#[test]
fn a_file_of_scores_is_not_overwritten_unasked() {
    let world = World::new();
    world.write("tokens.jsonl", "precious");
    let line = "evaluate --model model --data valid.txt --per-token tokens.jsonl";
    world.run(line).refused(&["`tokens.jsonl` exists", "hint: ", "--overwrite"]);
    assert_eq!(world.text("tokens.jsonl"), "precious");
    world.run(&format!("{line} --overwrite")).success();
    let text = world.text("valid.txt");
    let own = "evaluate --model model --data valid.txt --per-token ./valid.txt --overwrite";
    world.run(own).refused(&["output `./valid.txt` is the input `valid.txt`"]);
    assert_eq!(world.text("valid.txt"), text);
    assert_eq!(world.rows("tokens.jsonl").len(), 12);
}
