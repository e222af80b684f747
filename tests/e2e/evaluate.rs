//! Measuring perplexity.

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
    assert_eq!(world.rows("tokens.jsonl").len(), 12);
}
