//! Grids of training runs.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Outcome, World, corpus, number};

/// Two etas and two seeds with both controls: nine systems of which each command takes a moment.
const GRID: &str = r#"
objectives = ["mle", "mixce:eta=0.1"]
seeds = [1, 2]
max_lengths = [40]

[corpora.mill]
train = "train.txt"
valid = "valid.txt"
test = "test.txt"

[models.tiny]
model = "model"

[train]
epochs = 1
batch_size = 4
grad_accum = 2
lr = 3e-3
save_every = 3
log_every = 1

[evaluate]
prompt_length = 3
samplings = 2
metrics = ["diversity", "mauve"]
featurizer = "model"
[evaluate.settings]
mauve_seeds = 2
mauve_buckets = 3
resamples = 0

[controls]
top_p = [0.5, 0.8]
temperature = [0.3, 0.7]
"#;

fn world() -> World {
    let world = World::new();
    world.write("test.txt", corpus(12, 3));
    world.write("grid.toml", GRID);
    world
}

/// The results without times.
fn results(world: &World, out: &str) -> Value {
    fn without_seconds(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.remove("seconds");
                object.values_mut().for_each(without_seconds);
            }
            Value::Array(values) => values.iter_mut().for_each(without_seconds),
            _ => {}
        }
    }
    let mut results: Value = serde_json::from_str(&world.text(&format!("{out}/results.json"))).unwrap();
    without_seconds(&mut results);
    results
}

fn cell<'a>(results: &'a Value, id: &str) -> &'a Value {
    let cells = results["cells"].as_array().unwrap();
    cells.iter().find(|cell| cell["id"] == id).unwrap_or_else(|| panic!("no cell {id}"))
}

/// Starts the program in a process group of its own.
#[cfg(unix)]
fn start(world: &World, line: &str) -> Child {
    use std::os::unix::process::CommandExt as _;
    world.command(line).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends a signal to a process, or to a group with a negative number.
#[cfg(unix)]
fn signal(name: &str, to: i64) -> bool {
    let mut kill = std::process::Command::new("kill");
    kill.args([&format!("-{name}"), "--", &to.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

/// The proof of the whole: one process with two jobs, against two shards and a merging run, each of them killed at a random moment with
/// everything that it started, and continued.
#[cfg(unix)]
#[test]
fn killed_and_sharded_sweeps_give_the_results_of_one_that_was_left_alone() {
    let world = world();
    let started_at = Instant::now();
    let line = "sweep grid.toml --jobs 2 --threads 2 --out whole --json";
    let rows = world.run(line).rows();
    let took = started_at.elapsed();
    let whole = results(&world, "whole");
    check_whole(&whole, &rows);

    let random = || {
        use std::hash::{BuildHasher as _, Hasher as _};
        (std::hash::RandomState::new().build_hasher().finish() % 1000) as f64 / 1000.0
    };
    let mut moments = Vec::new();
    for part in ["--shard 1/2", "--shard 2/2", ""] {
        let line = format!("sweep grid.toml --threads 1 --out parts {part}");
        let moment = took.mul_f64(0.05 + 0.4 * random());
        moments.push(moment);
        let mut program = start(&world, &line);
        std::thread::sleep(moment);
        signal("KILL", -i64::from(program.id()));
        program.wait().unwrap();
        let outcome = world.run(&line);
        assert_eq!(outcome.status, Some(0), "killed after {moments:?}: {outcome:?}");
    }
    assert_eq!(results(&world, "parts"), whole, "killed after {moments:?}");
    assert!(world.read("parts/sweep.toml") == world.read("whole/sweep.toml"));

    documents_have_the_means(&world, &whole);
    it_is_watched_and_reported(&world);

    // Nothing is left to do.
    let log = world.read("whole/cells/mill-tiny-mle-nall-l40-s1/log.txt");
    let again = Instant::now();
    let outcome = world.run("sweep --threads 2 --jobs 2 --out whole").success();
    assert!(again.elapsed() < took, "{:?} of {took:?}", again.elapsed());
    assert!(world.read("whole/cells/mill-tiny-mle-nall-l40-s1/log.txt") == log, "no command was started");
    assert_eq!(results(&world, "whole"), whole);
    for words in ["mill, tiny, length 40", "chosen by development mauve", "mle temperature ", "valid mauve"] {
        assert!(outcome.stdout.contains(words), "{words}: {}", outcome.stdout);
    }
    other_evaluation_trains_nothing(&world);
}

/// Other commands read what a sweep wrote.
fn it_is_watched_and_reported(world: &World) {
    let before = world.snapshot();
    let row = world.run("watch whole --json").row();
    assert_eq!(
        (&row["kind"], &row["state"], &row["metric"]),
        (&json!("sweep"), &json!("finished"), &json!("mauve"))
    );
    let systems: Vec<&str> =
        row["rows"].as_array().unwrap().iter().map(|row| row["system"].as_str().unwrap()).collect();
    assert_eq!(systems, ["mle", "mixce:eta=0.1", "mle top_p", "mle temperature"]);
    let text = world.run("watch whole").success().stdout;
    assert!(
        text.contains("8 of 8 done, 0 running, 0 failed") && text.contains("chosen: mill, tiny, length 40"),
        "{text}"
    );
    let run = "whole/cells/mill-tiny-mle-nall-l40-s1/run";
    assert_eq!(world.run(&format!("watch {run} --json")).row()["state"]["is"], "finished");
    assert!(world.snapshot() == before, "watching wrote something");
    let told = world.run(&format!("report {run} --out of-a-cell")).success().stdout;
    assert!(!told.contains("not finished"), "{told}");

    world.run("report whole --out page --resamples 100 --samples 5").success();
    let table = world.text("page/tables/results-test-mill.csv");
    let human: Vec<&str> = table.lines().filter(|line| line.starts_with("Human,")).collect();
    assert!(human.len() == 1 && table.lines().count() >= 5, "{table}");
    let told: Value = serde_json::from_str(&world.text("page/report.json")).unwrap();
    let tested = told["comparisons"].as_array().unwrap().iter().any(|row| row["tested_over"] == "prompts");
    assert!(tested, "{told}");
    let page = world.text("page/index.html");
    for words in
        ["Samples side by side", "mill, tiny, up to 40 tokens", "best MAUVE on the development texts"]
    {
        assert!(page.contains(words), "{words}");
    }
    crate::report::keep(world, "page");
}

/// The values of texts belong to the scores.
fn documents_have_the_means(world: &World, whole: &Value) {
    let mean = |values: &Value| {
        let values: Vec<f64> = values.as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let read = |name: &str| -> Value { serde_json::from_str(&world.text(name)).unwrap() };
    for cell in whole["cells"].as_array().unwrap() {
        let documents = read(&format!("whole/{}/test/documents.json", cell["folder"].as_str().unwrap()));
        for run in 0..2 {
            let want = number(&cell["test"]["scores"][run], "diversity");
            assert!((mean(&documents["samplings"][run]["diversity"]) - want).abs() < 1e-9);
        }
        assert_eq!(documents["nll"].as_array().map(Vec::len), Some(12), "one for each document");
    }
    let human = &whole["human"][0];
    let file = human["file"].as_str().unwrap().replace(".jsonl", ".documents.json");
    let documents = read(&format!("whole/{file}"));
    assert!((mean(&documents["samplings"][0]["diversity"]) - number(human, "diversity")).abs() < 1e-9);
}

/// Checks the reference run.
fn check_whole(whole: &Value, rows: &[Value]) {
    let cells = whole["cells"].as_array().unwrap();
    assert_eq!((cells.len(), rows.len()), (8, 9), "a row for each cell, and the choice");
    assert_eq!(rows[8]["event"], "chosen");
    for cell in cells {
        assert_eq!((&cell["status"], &cell["error"]), (&json!("done"), &Value::Null), "{cell}");
        for split in ["valid", "test"] {
            let scores = cell[split]["scores"].as_array().unwrap_or_else(|| panic!("no {split}: {cell}"));
            assert_eq!(scores.len(), 2);
            for score in scores {
                assert!(
                    (0.0..=1.0).contains(&number(&score["mauve"], "mean"))
                        && number(score, "diversity") > 0.0
                );
            }
            assert!((number(&cell[split], "perplexity").ln() - number(&cell[split], "nll")).abs() < 1e-9);
        }
    }
    let mle = cell(whole, "mill-tiny-mle-nall-l40-s1");
    let top_p = cell(whole, "mill-tiny-top_p-nall-l40-s1");
    let temperature = cell(whole, "mill-tiny-temperature-nall-l40-s2");
    assert_eq!(
        (&top_p["role"], &top_p["control"], &mle["role"]),
        (&json!("control"), &json!("top_p"), &json!("grid"))
    );
    assert_eq!(top_p["model"], mle["model"]);
    assert_eq!(top_p["valid"]["nll"], mle["valid"]["nll"], "the same model");
    assert!([0.5, 0.8].contains(&number(&top_p["decoding"], "top_p")));
    assert!((0.3..=1.0).contains(&number(&temperature["decoding"], "temperature")));
    assert_ne!(mle["valid"]["nll"], cell(whole, "mill-tiny-mle-nall-l40-s2")["valid"]["nll"], "seeds differ");
    let human = whole["human"].as_array().unwrap();
    assert_eq!(
        human.iter().map(|human| human["split"].as_str().unwrap()).collect::<Vec<_>>(),
        ["valid", "test"]
    );

    // The choice is the best mean, by the numbers in the file.
    let mean = |objective: &str| {
        let of = cells.iter().filter(|cell| cell["role"] == "grid" && cell["objective"] == objective);
        let values: Vec<f64> = of
            .flat_map(|cell| cell["valid"]["scores"].as_array().unwrap())
            .map(|s| number(&s["mauve"], "mean"))
            .collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let chosen = &whole["chosen"][0];
    let best = if mean("mle") >= mean("mixce:eta=0.1") { "mle" } else { "mixce:eta=0.1" };
    assert_eq!(
        (&chosen["objective"], &chosen["n"], &chosen["metric"]),
        (&json!(best), &json!(2), &json!("mauve"))
    );
    assert!((number(chosen, "mean") - mean(best)).abs() < 1e-9);
}

/// More metrics: samples and models stay.
fn other_evaluation_trains_nothing(world: &World) {
    world.write(
        "more.toml",
        GRID.replace("[\"diversity\", \"mauve\"]", "[\"diversity\", \"mauve\", \"zipf\"]"),
    );
    let log = "whole/cells/mill-tiny-mle-nall-l40-s1/log.txt";
    let before = world.text(log);
    world.run("sweep more.toml --threads 2 --jobs 2 --out whole").success();
    let added = world.text(log)[before.len()..].to_owned();
    assert!(
        added.contains("$ mixce score")
            && !added.contains("$ mixce train")
            && !added.contains("$ mixce generate"),
        "{added}"
    );
    assert!(
        number(&cell(&results(world, "whole"), "mill-tiny-mle-nall-l40-s1")["valid"]["scores"][0], "zipf")
            > 0.0
    );
    world.write("other.toml", GRID.replace("lr = 3e-3", "lr = 4e-3"));
    world.run("sweep other.toml --out whole").refused(&[
        "was trained with other settings: `lr` was 0.003 and is 0.004 now",
        "hint: choose another `--out`",
    ]);
}

/// A small grid from flags, whose models are scored without others.
const SHORT: &str = "sweep --model model --train train.txt --valid valid.txt --test test.txt --etas 0.5,1 --seeds 1,2 --train-sizes 16 \
    --documents 8 --max-length 40 --prompt-length 3 --samplings 1 --metrics diversity --metric perplexity --no-controls --epochs 1 \
    --batch-size 4 --grad-accum 2 --threads 1";

#[test]
fn a_failing_cell_is_told_and_the_others_go_on() {
    let world = world();
    // A file where the run folder should be.
    let blocked = "out/cells/data-model-mixce-eta0.5-n16-l40-s2/run";
    world.write(blocked, "in the way");
    let outcome = world.run(&format!("{SHORT} --out out"));
    assert_eq!(outcome.status, Some(1), "{outcome:?}");
    for words in [
        "WARN",
        "cell `data-model-mixce-eta0.5-n16-l40-s2` failed: `mixce train`: ",
        "error: 1 of 4 cells failed",
        "log.txt",
    ] {
        assert!(outcome.stderr.contains(words), "{words}: {}", outcome.stderr);
    }
    let before = results(&world, "out");
    let states: Vec<&str> =
        before["cells"].as_array().unwrap().iter().map(|cell| cell["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["done", "done", "done", "failed"]);
    assert!(before["cells"][3]["error"].as_str().unwrap().starts_with("`mixce train`: "));
    assert_eq!(before["chosen"].as_array().map(Vec::len), Some(1), "chosen of what is there");
    assert!(
        world.text("out/cells/data-model-mixce-eta0.5-n16-l40-s2/log.txt").contains("$ mixce train --config")
    );

    fs::remove_file(world.path(blocked)).unwrap();
    let rows = world.run(&format!("{SHORT} --out out --json")).rows();
    assert_eq!(rows[3]["status"], "done");
    let after = results(&world, "out");
    assert_eq!(after["cells"][0], before["cells"][0]);
    assert!(
        after["cells"].as_array().unwrap().iter().all(|cell| cell["test"]["perplexity"].is_f64()),
        "{after}"
    );
    // The first documents alone.
    assert_eq!(world.text("out/data/data-train-16.jsonl").lines().count(), 16);
    let human = world.rows("out/human/data-model-l40-valid.jsonl");
    assert!((1..=8).contains(&human.len()));
    assert!(
        world.text("out/cells/data-model-mle-n16-l40-s1/train.toml").contains("out/data/data-train-16.jsonl")
    );
    assert!(!world.path("out/cells/data-model-mle-n16-l40-s1/run/checkpoints").exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_commands_with_a_checkpoint() {
    let world = world();
    let line = format!(
        "{} --out out --max-steps 1000000 --save-every never --eval-every never",
        SHORT.replace("--epochs 1", "")
    );
    let program = start(&world, &line);
    let metrics = world.path("out/cells/data-model-mle-n16-l40-s1/run/metrics.jsonl");
    let begun_at = Instant::now();
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 3 {
        assert!(begun_at.elapsed() < Duration::from_secs(300), "training does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Only to the sweep, which passes it on.
    assert!(signal("INT", program.id().into()));
    let id = i64::from(program.id());
    let outcome = Outcome::of(program.wait_with_output().unwrap(), &line);
    assert_eq!(outcome.status, Some(130), "{outcome:?}");
    assert!(
        outcome.stderr.contains("stopping: ending the running commands")
            && outcome.stderr.contains("hint: run the same command again"),
        "{}",
        outcome.stderr
    );
    assert!(!signal("0", -id), "no command is left");
    let checkpoints =
        fs::read_dir(world.path("out/cells/data-model-mle-n16-l40-s1/run/checkpoints")).unwrap();
    let complete =
        checkpoints.filter(|entry| entry.as_ref().unwrap().path().join("COMPLETE").is_file()).count();
    assert_eq!(complete, 1);
    assert_eq!(results(&world, "out")["cells"][0]["status"], "waiting");
    let log = world.text("out/cells/data-model-mle-n16-l40-s1/log.txt");
    assert!(log.contains("interrupted after step") && !log.contains("evaluate"), "{log}");
}

#[test]
fn a_dry_run_tells_cells_time_and_disk_and_writes_nothing() {
    let world = world();
    let before = world.snapshot();
    let row = world.run("sweep grid.toml --out out --dry-run --gflops 50 --json").row();
    // Operations and rate are all that the estimate knows.
    let faster = world.run("sweep grid.toml --out out --dry-run --gflops 100 --json").row();
    assert!((number(&row, "train_hours") / number(&faster, "train_hours") - 2.0).abs() < 1e-9);
    assert!(world.snapshot() == before);
    let cells = row["cells"].as_array().unwrap();
    assert_eq!((cells.len(), &row["waiting"], &row["dry_run"]), (8, &json!(8), &json!(true)));
    assert_eq!(cells[0]["disk_bytes"], 4 * 13_648);
    assert_eq!(
        (&cells[7]["disk_bytes"], &cells[7]["train_hours"]),
        (&Value::Null, &Value::Null),
        "a control"
    );
    assert!(number(&row, "train_hours") > 0.0);
    assert!((number(&row, "train_hours") - 4.0 * number(&cells[0], "train_hours")).abs() < 1e-12);
    assert_eq!(row["disk_bytes"], 4 * 4 * 13_648);
    let text = world.run("sweep grid.toml --out out --dry-run --gflops 50 --shard 1/2").success().stdout;
    assert!(text.contains("4 cells wait") && text.contains("nothing was written"), "{text}");
}

#[test]
fn a_launcher_divides_the_grid() {
    let world = world();
    let line = "sweep grid.toml --out out --dry-run --gflops 50 --json";
    let owned = |variables: &[(&str, &str)], line: &str| {
        let outcome =
            Outcome::of(world.command(line).envs(variables.iter().copied()).output().unwrap(), line);
        let outcome = outcome.success();
        let stderr = outcome.stderr.clone();
        let cells = outcome.row()["cells"].clone();
        let owned: Vec<bool> =
            cells.as_array().unwrap().iter().map(|cell| cell["is_owned"].as_bool().unwrap()).collect();
        (owned, stderr)
    };
    // What is typed goes first.
    let (second, stderr) = owned(&[("RANK", "0"), ("WORLD_SIZE", "2")], &format!("{line} --shard 2/2"));
    assert!(second.contains(&true) && second.contains(&false) && !stderr.contains("processes"), "{stderr}");
    let (by_launcher, stderr) = owned(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")], line);
    assert_eq!(by_launcher, second);
    assert!(!stderr.contains("processes"), "the first one tells: {stderr}");
    let (first, stderr) = owned(&[("RANK", "0"), ("WORLD_SIZE", "2")], line);
    assert!(first.iter().zip(&second).all(|(first, second)| first != second));
    assert!(stderr.contains("one of 2 processes") && stderr.contains("`--shard 1/2`"), "{stderr}");
}

#[test]
fn wrong_grids_are_refused_before_anything_is_written() {
    let world = world();
    let before = world.snapshot();
    let refused = |from: &str, to: &str, words: &[&str]| {
        let text = GRID.replace(from, to);
        assert_ne!(text, GRID);
        world.write("bad.toml", text);
        world.run("sweep bad.toml --out out").refused(words);
        fs::remove_file(world.path("bad.toml")).unwrap();
    };
    refused(
        "epochs =",
        "epoch =",
        &["`bad.toml`: line ", "unknown key `epoch` in `[train]`", "hint: did you mean `epochs`?"],
    );
    refused(
        "mauve_buckets",
        "mauve_bucket",
        &["unknown key `mauve_bucket` in `[evaluate.settings]`", "`mauve_buckets`"],
    );
    refused("\"mixce:eta=0.1\"", "\"mixce:eta=7\"", &["eta", "7"]);
    refused("lr = 3e-3", "lr = \"fast\"", &["`lr` in `[train]`"]);
    refused("lr = 3e-3", "lr = -1.0", &["cell `mill-tiny-mle-nall-l40-s1`", "--lr"]);
    refused("test = \"test.txt\"", "test = \"nowhere.txt\"", &["`test` of corpus `mill`", "nowhere.txt"]);
    refused("seeds = [1, 2]", "seeds = [1, 2]\nmetric = \"mave\"", &["`metric`: expected one of", "`mave`"]);
    refused("[\"mle\", ", "[", &["the controls sample the `mle` models"]);
    world.run("sweep --out out").refused(&["expected a file, or `--model`"]);
    world.run("sweep grid.toml").refused(&["expected `--out`"]);
    world
        .run("sweep grid.toml --out out --model model")
        .refused(&["`--model` cannot be combined with a file"]);
    world.run(&format!("{SHORT} --out out --eta 0.3")).refused(&["`--eta` is not for `sweep`", "--etas"]);
    world.run("sweep grid.toml --out out --shard 3/2").refused(&["expected `I/N`", "3/2"]);
    world.run("sweep grid.toml --out out --jobs 0").refused(&["`--jobs`: expected at least 1"]);
    assert!(world.snapshot() == before);
}
