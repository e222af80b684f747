//! Histograms of likelihoods.

use crate::support::{World, number};

#[test]
fn both_levels_are_counted_and_drawn() {
    let world = World::new();
    world.run("generate --model model --documents valid.txt --name dev --out samples --prompt-length 3 --max-length 40").success();
    let line = "nll-histogram --model model --human samples/dev.human --generated samples/dev.sample --max-length 60 --bins 10";
    let row = world.run(&format!("{line} --svg nll.svg --json")).row();
    for level in ["sequence", "token"] {
        assert_eq!(row[level]["edges"].as_array().unwrap().len(), 11);
        for set in ["human", "generated"] {
            let counts = row[level][set]["counts"].as_array().unwrap();
            let total: u64 = counts.iter().map(|count| count.as_u64().unwrap()).sum();
            assert_eq!(row[level][set]["n"], total, "{level} {set}");
        }
    }
    assert_eq!((&row["human"]["texts"], &row["generated"]["texts"]), (&12.into(), &12.into()));

    // Against the likelihoods that `evaluate` writes, without those of EOS.
    world
        .run("evaluate --model model --data samples/dev.human --max-length 61 --per-token tokens.jsonl")
        .success();
    let documents: Vec<Vec<f64>> = world
        .rows("tokens.jsonl")
        .iter()
        .map(|row| row["log_q"].as_array().unwrap().iter().map(|x| -x.as_f64().unwrap()).collect::<Vec<_>>())
        .map(|mut log_q| {
            log_q.pop();
            log_q
        })
        .collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} {want}");
    close(number(&row["token"]["human"], "mean"), mean(&documents.concat()));
    let means: Vec<f64> = documents.iter().map(|d| mean(d)).collect();
    close(number(&row["sequence"]["human"], "mean"), mean(&means));

    let svg = world.text("nll.svg");
    assert!(svg.starts_with("<svg") && svg.contains("Texts") && svg.contains("generated, mean"), "{svg}");
    world.run(&format!("{line} --svg nll.svg")).refused(&["`nll.svg` exists", "--overwrite"]);
    let text = world.run(&format!("{line} --svg nll.svg --overwrite")).success().stdout;
    assert!(text.contains("texts, mean") && text.contains("generated"), "{text}");
    let prompts = world.run(&format!("{line} --prompt-length 3 --json")).row();
    assert!(prompts["token"]["human"]["n"].as_u64() < row["token"]["human"]["n"].as_u64());
}

#[test]
fn samples_in_json_lines_are_whole_texts() {
    let world = World::new();
    world.run("generate --model model --documents valid.txt --name dev --out s --prompt-length 3 --max-length 40 --num-samples 1").success();
    let of = |ending: &str| {
        let line = format!(
            "nll-histogram --model model --human s/dev.human{ending} --generated s/dev.human{ending} --max-length 60 --json"
        );
        let row = world.run(&line).row();
        (row["sequence"].clone(), row["token"].clone())
    };
    assert_eq!(of(""), of(".jsonl"));
}

#[test]
fn what_makes_no_histogram_is_refused() {
    let world = World::new();
    let line = "nll-histogram --model model --human valid.txt --generated train.txt";
    world.run(&format!("{line} --max-length 65")).refused(&["`--max-length 65`", "64 positions", "hint: "]);
    world.run(&format!("{line} --max-length 60 --bins 0")).refused(&["`--bins`"]);
    world
        .run(&format!("{line} --max-length 60 --prompt-length 60"))
        .refused(&["no text of more than 60 tokens"]);
    world.run(&format!("{line} --max-length 60 --svg valid.txt --overwrite")).refused(&["is the input"]);
    assert!(!world.text("valid.txt").contains("<svg"));
}
