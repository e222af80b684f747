//! Reports on a sweep's folder, on training runs, and what is refused.

use std::fs;

use serde_json::{Value, json};

use crate::support::{SMALL, World, number};

/// Texts that would break a page that does not escape them.
const HOSTILE: [&str; 5] = [
    "<script>document.title = 'taken'</script>",
    "\" onmouseover=\"alert(1)\" ' <img src=x onerror=alert(1)>",
    "left \u{202e}thgir\u{202c} \u{5e9}\u{5dc}\u{5d5}\u{5dd}",
    "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{1f600}",
    "</div></article></main><style>body{display:none}</style>",
];

/// Prompts of the synthetic sweep.
const PROMPTS: usize = 40;

/// A number in `[0, 1)` for an index, the same in every run.
fn noise(index: u64) -> f64 {
    let mut x = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 31;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (x >> 11) as f64 / (1u64 << 53) as f64
}

fn diversities(centre: f64, seed: u64) -> Vec<Value> {
    (0..PROMPTS as u64)
        .map(|i| json!(centre + 0.02 * (noise(i) - 0.5) + 0.002 * (noise(1000 * seed + i) - 0.5)))
        .collect()
}

fn mean(values: &[Value]) -> f64 {
    values.iter().map(|value| value.as_f64().unwrap()).sum::<f64>() / values.len() as f64
}

/// One row for each prompt; some continuations are hostile, one has 100 kB in one word.
fn samples(name: &str) -> String {
    let text = |i: usize| match i {
        0..5 => format!(" {name} {}", HOSTILE[i]),
        5 => format!(" {name} {}", "x".repeat(100_000)),
        6 => String::new(),
        _ => format!(" {name} went on {}", "and on ".repeat(i % 9)),
    };
    let prompt = |i: usize| if i == 1 { "<b>Prompt</b> & 1".to_owned() } else { format!("Prompt {i}") };
    (0..PROMPTS)
        .map(|i| json!({"index": i, "prompt": prompt(i), "text": text(i)}).to_string() + "\n")
        .collect()
}

struct Cell {
    objective: &'static str,
    control: Option<&'static str>,
    seed: u64,
    mauve: f64,
    diversity: f64,
}

/// The cells of a sweep with two etas, two seeds and the controls; the numbers are made up.
fn grid() -> Vec<Cell> {
    let mut cells = Vec::new();
    for seed in 1..=2u64 {
        let noise = 0.002 * seed as f64;
        for (objective, control, mauve, diversity) in [
            ("mle", None, 0.80, 0.90),
            ("mixce:eta=0.1", None, 0.90, 0.85),
            ("mixce:eta=0.5", None, 0.86, 0.87),
            ("mle", Some("top_p"), 0.84, 0.82),
            ("mle", Some("temperature"), 0.85, 0.85),
        ] {
            cells.push(Cell { objective, control, seed, mauve: mauve + noise, diversity });
        }
    }
    cells
}

impl Cell {
    /// Writes its samples, scores and curves, and returns its entry of `results.json`.
    fn write(&self, world: &World, root: &str, group: &Value) -> Value {
        let objective = self.objective.replace([':', '='], "-");
        let id = format!("wiki-{objective}-{}-s{}", self.control.unwrap_or("none"), self.seed);
        let folder = format!("cells/{id}");
        let values = diversities(self.diversity, self.seed);
        let scores = json!({"diversity": mean(&values), "mauve": {"mean": self.mauve, "std": 0.0, "values": [self.mauve]}, "zipf": 1.25});
        for split in ["valid", "test"] {
            self.write_split(world, &format!("{root}/{folder}/{split}"), &values, &scores);
        }
        if self.control.is_none() {
            let mut metrics: String = (1..=40)
                .map(|step| format!("{{\"step\":{step},\"nll\":{}}}\n", 5.0 - 0.05 * f64::from(step)))
                .collect();
            metrics += "{\"event\":\"evaluation\",\"step\":40,\"valid_nll\":3.1,\"valid_perplexity\":22.2,\"best\":true}\n";
            world.write(&format!("{root}/{folder}/run/metrics.jsonl"), metrics);
        }
        let decoding = match self.control {
            Some("top_p") => json!({"temperature": 1.0, "top_p": 0.9}),
            Some(_) => json!({"temperature": 0.875, "top_p": 1.0}),
            None => json!({"temperature": 1.0, "top_p": 1.0}),
        };
        let evaluation = json!({"perplexity": 20.0 + self.diversity, "nll": 3.0, "scores": [scores]});
        json!({
            "id": id, "group": group, "objective": self.objective, "role": if self.control.is_some() { "control" } else { "grid" },
            "control": self.control, "decoding": decoding, "seed": self.seed, "folder": folder, "model": format!("{folder}/run/best"),
            "status": "done", "error": null, "seconds": 60.0, "valid": evaluation, "test": evaluation,
        })
    }

    fn write_split(&self, world: &World, folder: &str, values: &[Value], scores: &Value) {
        let write = |name: &str, text: String| world.write(&format!("{folder}/{name}"), text);
        write("samples-0.jsonl", samples(self.objective));
        write(
            "documents.json",
            json!({"schema": 1, "samplings": [{"diversity": values}], "nll": []}).to_string(),
        );
        write(
            "score.json",
            json!({"systems": [scores], "settings": {"version": "0.1.0", "unit": "tokens"}}).to_string(),
        );
        if self.control.is_none() {
            let row = |i: u64| {
                json!({"index": i, "tokens": [1, 2, 0], "log_q": [-2.0 - noise(i), -1.0, -5.0]}).to_string()
                    + "\n"
            };
            write("per-token.jsonl", (0..30).map(row).collect());
            write("per-token-samples.jsonl", (30..60).map(row).collect());
        }
    }
}

/// Writes the human texts of a split, and returns their entry of `results.json`.
fn write_human(world: &World, root: &str, split: &str) -> Value {
    let values = diversities(0.84, 99);
    let file = format!("human/wiki-gpt2-l128-{split}.jsonl");
    world.write(&format!("{root}/{file}"), samples("human"));
    let documents = json!({"schema": 1, "samplings": [{"diversity": values}], "nll": []});
    world.write(&format!("{root}/human/wiki-gpt2-l128-{split}.documents.json"), documents.to_string());
    json!({"corpus": "wiki", "model": "gpt2", "max_length": 128, "split": split, "file": file, "diversity": mean(&values)})
}

/// Writes the folder of a sweep of [`grid`] and a cell that failed.
fn write_sweep(world: &World, root: &str) {
    let group = json!({"corpus": "wiki", "model": "gpt2", "train_size": null, "max_length": 128});
    let mut rows: Vec<Value> = grid().iter().map(|cell| cell.write(world, root, &group)).collect();
    rows.push(json!({
        "id": "wiki-failed", "group": group, "objective": "mixce:eta=0.9", "role": "grid", "control": null, "decoding": null, "seed": 1,
        "folder": "cells/wiki-failed", "model": "", "status": "failed", "error": "loss is <b>NaN</b> at step 3", "seconds": 1.0, "valid": null, "test": null,
    }));
    let humans = ["valid", "test"].map(|split| write_human(world, root, split));
    let results = json!({
        "schema": 1, "versions": {"mixce": "0.1.0"}, "settings": {"etas": [0.1, 0.5], "seeds": [1, 2]}, "metric": "mauve", "seconds": 601.0,
        "human": humans, "cells": rows,
        "chosen": [{"group": group, "metric": "mauve", "objective": "mixce:eta=0.1", "mean": 0.903, "std": 0.0014, "n": 2, "ties": []}],
    });
    world.write(&format!("{root}/results.json"), results.to_string());
}

#[test]
fn a_sweep_becomes_tables_figures_and_one_page() {
    let world = World::new();
    write_sweep(&world, "sweep");
    let before = world.snapshot();
    let written = world.run("report sweep --out out --json --resamples 400 --samples 40").row();
    let files: Vec<&str> =
        written["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    for file in [
        "index.html",
        "report.json",
        "tables/results-test-wiki.md",
        "tables/results-valid-wiki.tex",
        "tables/comparisons.csv",
        "tables/further-test-wiki-gpt2-l128.md",
        "tables/cells.csv",
        "figures/eta-mauve-wiki.svg",
        "figures/eta-perplexity-wiki.svg",
        "figures/diversity-mauve-test-wiki-gpt2-l128.svg",
        "figures/training-wiki-gpt2-l128.svg",
        "figures/development-wiki-gpt2-l128.svg",
        "figures/nll-texts-wiki-gpt2-l128-mle.svg",
        "figures/lengths-wiki-gpt2-l128.svg",
    ] {
        assert!(files.contains(&file), "{file}: {files:?}");
    }
    let after = world.snapshot();
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)), "the sweep was changed");
    assert_eq!(after.len() - before.len(), files.len() + 3, "only the report and its folders are new");

    // Means and deviations over two seeds, by hand: 0.902, 0.904 and 0.802, 0.804.
    let table = world.text("out/tables/results-test-wiki.md");
    assert!(
        table.contains("| MixCE (eta = 0.1) | *20.85 \u{b1} 0.00*")
            || table.contains("| MixCE (eta = 0.1) | 20.85 \u{b1} 0.00"),
        "{table}"
    );
    assert!(table.contains("**0.903 \u{b1} 0.001**") && table.contains(" 0.803 \u{b1} 0.001 |"), "{table}");
    assert!(table.contains("| MLE, temperature 0.875 |") && table.contains("| Human |"), "{table}");
    let report: Value = serde_json::from_str(&world.text("out/report.json")).unwrap();
    let found = |second: &str, metric: &str| {
        let all = report["comparisons"].as_array().unwrap();
        let is_it = |c: &&Value| c["second"] == second && c["metric"] == metric && c["split"] == "test";
        all.iter().find(is_it).unwrap_or_else(|| panic!("{second} {metric}: {report:#}")).clone()
    };
    let diversity = found("MLE", "diversity");
    assert_eq!((&diversity["tested_over"], &diversity["result"]), (&json!("prompts"), &json!("first")));
    assert!((number(&diversity, "difference") + 0.05).abs() < 0.002, "{diversity}");
    // The control has the same diversity, and whether that is noise is not told from two sets of the same prompts.
    assert_ne!(found("MLE, temperature 0.875", "diversity")["result"], json!("first"));
    let mauve = found("MLE", "mauve");
    assert_eq!((&mauve["tested_over"], &mauve["result"]), (&json!("seeds"), &json!("first")));
    // Welch with equal deviations 0.0014142 of two seeds each: 0.1 +- 4.3026527 * 0.0014142.
    assert!(
        (mauve["interval"][0].as_f64().unwrap() - (0.1 - 4.302_652_7 * 0.001_414_213_6)).abs() < 1e-6,
        "{mauve}"
    );

    page_is_safe(&world.text("out/index.html"));
    let again = world.run("report sweep --out again --json --resamples 400 --samples 40").success();
    assert!(again.stderr.is_empty(), "{}", again.stderr);
    for file in files {
        assert_eq!(world.read(&format!("out/{file}")), world.read(&format!("again/{file}")), "{file}");
    }
    keep(&world, "out");
}

fn page_is_safe(page: &str) {
    for (index, hostile) in HOSTILE.iter().enumerate() {
        if hostile.contains(['<', '"', '\u{202e}']) {
            assert!(!page.contains(hostile), "{index} is on the page as it is");
        }
    }
    for expected in [
        "&lt;script&gt;document.title = &#39;taken&#39;&lt;/script&gt;",
        "left [U+202E]thgir[U+202C]",
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        "&lt;b&gt;Prompt&lt;/b&gt; &amp; 1",
        "failed: loss is &lt;b&gt;NaN&lt;/b&gt; at step 3",
        "An empty continuation.",
        "further characters are only in the file.",
        "default-src 'none'; style-src 'sha256-",
        "Of 11 systems 1 failed; all numbers are those of the other 10.",
        "MixCE (eta = 0.1) has the best MAUVE on the development texts: 0.903 \u{b1} 0.001 over 2 seeds.",
        "MAUVE compares two sets of texts and is no mean over prompts",
        "2 seeds are few",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("<style").count(), 1);
    // Nothing from elsewhere: no address but the name of SVG's namespace, no inline style, no handler.
    let addresses = page.matches("http://").count() + page.matches("https://").count();
    assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count());
    assert!(!page.contains(" style=") && !page.contains("src=\""), "inline styles or sources");
    // Elements that must be balanced for the page to have its structure.
    for element in ["div", "table", "figure", "article", "section", "svg", "details", "ul", "tr", "g"] {
        let (open, close) = (format!("<{element}"), format!("</{element}>"));
        let opened = page
            .match_indices(&open)
            .filter(|(at, _)| !page[at + open.len()..].starts_with(|c: char| c.is_ascii_lowercase()))
            .count();
        assert_eq!(opened, page.matches(&close).count(), "{element}");
    }
}

/// Copies a report to the folder that `scripts/check-report.sh` asks for.
pub(crate) fn keep(world: &World, name: &str) {
    let Some(target) = std::env::var_os("MIXCE_KEEP_REPORT") else { return };
    let target = std::path::PathBuf::from(target).join(name);
    fs::create_dir_all(&target).unwrap();
    fs::write(target.join("index.html"), world.read(&format!("{name}/index.html"))).unwrap();
}

#[test]
fn training_runs_are_reported_alone_and_together() {
    let world = World::new();
    for (name, objective) in [("mle", "mle"), ("mixce", "mixce:eta=0.3")] {
        world.run(&format!("train --model model --train train.txt --valid valid.txt --objective {objective} --epochs 2 {SMALL} --out runs/{name}")).success();
    }
    let outcome = world.run("report runs/mixce --out single").success();
    assert!(outcome.stdout.contains("MixCE (eta = 0.3) has perplexity "), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("There is no MLE model"), "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("a single training run") && outcome.stdout.contains("open single/index.html"),
        "{}",
        outcome.stdout
    );
    let page = world.text("single/index.html");
    let perplexity = world
        .rows("runs/mixce/metrics.jsonl")
        .iter()
        .filter(|row| row["best"] == true)
        .map(|row| number(row, "valid_perplexity"))
        .next_back()
        .unwrap();
    for expected in [
        "MixCE (eta = 0.3)",
        &format!("{perplexity:.2}"),
        "training and development curves",
        "&quot;objective&quot;",
        "runs/mixce",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    assert!(world.path("single/figures/curves-train.txt-model-l60.svg").is_file());

    // Scores and samples, made as the guide says.
    for name in ["mle", "mixce"] {
        fs::create_dir_all(world.path(&format!("runs/{name}/valid"))).unwrap();
        let line = format!("evaluate --model runs/{name} --data valid.txt --max-length 60 --json");
        world.write(&format!("runs/{name}/valid/evaluate.json"), world.run(&line).success().stdout);
        world.run(&format!("generate --model runs/{name} --documents valid.txt --out samples/{name} --prompt-length 3 --max-length 40")).success();
        for (from, to) in [
            ("valid.human.jsonl", "human.jsonl"),
            ("valid.sample.jsonl", "samples-0.jsonl"),
            ("valid.sample1.jsonl", "samples-1.jsonl"),
        ] {
            fs::rename(
                world.path(&format!("samples/{name}/{from}")),
                world.path(&format!("runs/{name}/valid/{to}")),
            )
            .unwrap();
        }
        let folder = format!("runs/{name}/valid");
        let line = format!(
            "score --human {folder}/human.jsonl --model-text {folder}/samples-0.jsonl {folder}/samples-1.jsonl --tokenizer model --resamples 50 --json"
        );
        world.write(&format!("{folder}/score.json"), world.run(&line).success().stdout);
    }
    let outcome = world.run("report runs/mle runs/mixce --out both").success();
    assert!(
        outcome.stdout.contains("Diversity on the development texts: MixCE (eta = 0.3)"),
        "{}",
        outcome.stdout
    );
    let scores: Value = serde_json::from_str(&world.text("runs/mixce/valid/score.json")).unwrap();
    let diversity =
        (number(&scores["systems"][0], "diversity") + number(&scores["systems"][1], "diversity")) / 2.0;
    let csv = world.text("both/tables/results-valid-train.txt.csv");
    let row = csv.lines().find(|line| line.starts_with("MixCE")).unwrap();
    assert!(row.split(',').any(|field| field.parse() == Ok(diversity)), "{diversity}: {csv}");
    let page = world.text("both/index.html");
    for expected in ["Samples side by side", "lengths of continuations", "settings of 2 files", "is missing"]
    {
        assert!(page.contains(expected), "{expected}");
    }
    keep(&world, "both");
}

#[test]
fn what_cannot_be_reported_is_refused_and_nothing_is_left() {
    let world = World::new();
    world.run("report nothing --out out").refused(&["cannot read `nothing`"]);
    world.run("report model --out out").refused(&[
        "`model` is neither a run folder",
        "hint: ",
        "mixce sweep",
    ]);
    write_sweep(&world, "sweep");
    world
        .run("report sweep --out sweep")
        .refused(&["`sweep` is not empty and holds no report", "hint: choose another folder"]);
    world.run("report sweep --out sweep --overwrite").refused(&["holds no report"]);
    world.run("report sweep --out out --resamples 0").refused(&["`--resamples`"]);
    world
        .run("report sweep --out out --confidence 1")
        .refused(&["`--confidence`: expected a number between 0 and 1"]);
    world.run("report sweep --out train.txt").refused(&["`train.txt` is a file"]);
    world.run("report sweep --out out --samples 2 --resamples 10").success();
    world
        .run("report sweep --out out --samples 2 --resamples 10")
        .refused(&["holds a report", "`--overwrite`"]);
    world.run("report sweep --out out --samples 0 --resamples 10 --overwrite").success();
    assert!(!world.text("out/index.html").contains("Samples side by side"));

    let path = "sweep/cells/wiki-mle-none-s1/test/samples-0.jsonl";
    world.write(path, "{\"index\":0,\"prompt\":\"another\",\"text\":\"x\"}\n");
    world.run("report sweep --out broken").refused(&["samples-0.jsonl`, line 1: prompt 0 is `another`"]);
    world.write(path, "{\"index\":0,");
    world.run("report sweep --out broken").refused(&["samples-0.jsonl`, line 1: EOF"]);
    world.write("sweep/results.json", "{\"schema\":2}");
    world.run("report sweep --out broken").refused(&["results.json` has schema 2, expected 1", "hint: "]);
    world.write("sweep/results.json", "[");
    world.run("report sweep --out broken").refused(&["is not a results file"]);
    assert!(!world.path("broken").exists());
}
