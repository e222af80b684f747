//! A small version of the quickstart.

use crate::support::{World, number};

const SMALL: &str = "quickstart --texts 300 --base-steps 12 --steps 6 --samples 60";

#[test]
fn two_models_are_trained_compared_and_left_behind() {
    let world = World::new();
    let report = world.run(&format!("{SMALL} --out first --seed 5 --json")).row();
    assert_eq!(report["seed"], 5);
    assert!(number(&report, "seconds") > 0.0);
    for system in ["mle", "mixce", "mle-temperature"] {
        let scores = &report["systems"][system];
        assert!(number(scores, "perplexity") > number(&report["gold"], "perplexity"), "{scores}");
        assert!((0.0..=1.0).contains(&number(scores, "in_support")), "{scores}");
        assert!(number(scores, "reverse_cross_entropy") > number(&report["gold"], "reverse_cross_entropy"));
        assert!((0.0..=1.0).contains(&number(scores, "diversity")), "{scores}");
        // The exported model is one that other subcommands read, and its perplexity is the one reported.
        let model = scores["model"].as_str().unwrap();
        let evaluation = world.run(&format!(
            "evaluate --model {model} --data first/corpus/test.txt --add-bos --max-length 64 --json"
        ));
        let perplexity = number(&evaluation.row(), "perplexity");
        assert!((perplexity / number(scores, "perplexity") - 1.0).abs() < 1e-6, "{perplexity} {scores}");
    }
    assert_eq!(report["gold"]["in_support"], 1.0);
    world.run("export --model first/mixce --out exported").success();
    assert!(world.path("exported/model.safetensors").is_file());
    assert_eq!(world.rows("first/samples/mixce.jsonl").len(), 60);
    let saved: serde_json::Value = serde_json::from_str(&world.text("first/report.json")).unwrap();
    assert_eq!(saved["systems"], report["systems"]);
    assert!(world.text("first/quickstart.svg").contains("the grammar itself"));
    assert!(world.text("first/mixce/run.toml").contains("objective = \"mixce\""));
    // The same seed gives the same result; only the time differs.
    let again = world.run(&format!("{SMALL} --out second --seed 5 --json")).row();
    assert_eq!(again["systems"]["mixce"]["samples"], report["systems"]["mixce"]["samples"]);
    assert_eq!(again["gold"], report["gold"]);
}

#[test]
fn the_report_is_a_table_and_runs_do_not_overwrite_each_other() {
    let world = World::new();
    let tiny = "quickstart --texts 100 --base-steps 2 --steps 1 --samples 10";
    let text = world.run(tiny).success().stdout;
    for line in ["| MLE |", "| MixCE |", "| MLE at temperature", "| the grammar itself |", "MixCE writes"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    world.run(tiny).success();
    assert!(world.path("runs/quickstart-2/report.md").is_file());
    let before = world.snapshot();
    world.run("quickstart --out runs/quickstart").refused(&["runs/quickstart", "not empty"]);
    world.run("quickstart --eta 1.5").refused(&["`eta`", "[0, 1]", "1.5"]);
    world.run("quickstart --noise-rate 2").refused(&["noise-rate"]);
    assert_eq!(world.snapshot(), before);
}
