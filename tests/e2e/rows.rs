//! Real-world files of rows: their interpretation is shown, and no row is lost silently.

use serde_json::json;

use crate::support::{SMALL, World};

#[test]
fn inspect_shows_what_was_understood_of_rows() {
    let world = World::new();
    world.write("array.json", "[{\"text\": \"first text here\"}, {\"text\": \"second text here\"}]");
    let row = world.run("inspect array.json --json").row();
    assert_eq!((&row["documents"], &row["rows"], &row["bad"]), (&2.into(), &2.into(), &0.into()));
    let want = json!({"path": "array.json", "format": "jsonl", "layout": "array", "columns": ["text"],
        "chosen": "by its name", "rows": 2, "bad": 0, "empty": 0, "blank_lines": 0});
    assert_eq!(row["read"], json!([want]));

    world.write("semicolon.csv", "id;text\n1;Hello, world\n2;Second, text\n3\n");
    let line = "inspect semicolon.csv --skip-bad-rows 1";
    let row = world.run(&format!("{line} --delimiter ; --json")).row();
    assert_eq!((&row["documents"], &row["rows"], &row["bad"]), (&2.into(), &3.into(), &1.into()));
    assert_eq!(row["sample"], "Hello, world");
    assert_eq!(row["read"][0]["dialect"]["found"], "asked for");
    world.run("inspect semicolon.csv").refused(&["line 4: expected 2 fields", "got 1"]);
    world.write("doubt.csv", "id;text\nHello, world\nSecond, text\n");
    world.run("inspect doubt.csv").refused(&["`doubt.csv`", "separated by `;`", "hint: ", "--delimiter"]);
    world.write("semicolon.csv", "id;text\n1;Hello, world\n2;Second, text\n");
    let text = world.run("inspect semicolon.csv").success().stdout;
    let told = "csv, fields separated by `;` (by the records), names in the first record; text: `text` (by its name)";
    assert!(text.contains(told) && text.contains("2 rows (0 bad, 0 empty)"), "{text}");

    world.write(
        "null.jsonl",
        "{\"id\":\"doc-1\",\"story\":null}\n{\"id\":\"doc-2\",\"story\":\"Once upon\"}\n",
    );
    world
        .run("inspect null.jsonl")
        .refused(&["`null.jsonl` line 1", "expected a string under `story`, got null"]);
    let left_out = world.run("inspect null.jsonl --skip-bad-rows 1 --json").success();
    assert!(left_out.stderr.contains("bad row skipped: `null.jsonl` line 1"), "{}", left_out.stderr);
    assert_eq!(left_out.row()["sample"], "Once upon");
}

#[test]
fn a_table_without_names_says_so_by_flag_or_configuration() {
    let world = World::new();
    let rows: String =
        world.text("train.txt").lines().enumerate().map(|(i, line)| format!("{i}|{line}\n")).collect();
    world.write("bare.csv", rows);
    world.run("inspect bare.csv").refused(&["expected the names of the columns", "`0`", "--no-header"]);
    assert_eq!(world.run("inspect bare.csv --no-header --json").row()["documents"], 64);
    world.write(
        "run.toml",
        "model = \"model\"\ntrain = \"bare.csv\"\nout = \"run\"\ndelimiter = \"|\"\nno_header = true\n",
    );
    let row = world.run(&format!("train --config run.toml --max-steps 1 {SMALL} --dry-run --json")).row();
    assert_eq!((&row["train"]["documents"], &row["train"]["bad"]), (&64.into(), &0.into()));
    assert_eq!((&row["config"]["delimiter"], &row["config"]["no_header"]), (&"|".into(), &true.into()));
    world.run("inspect bare.csv --delimiter ab").refused(&["`--delimiter ab`", "one ASCII character"]);
}

#[test]
fn rows_that_are_left_out_are_counted() {
    let world = World::new();
    let documents: Vec<String> = world.text("valid.txt").lines().map(str::to_owned).collect();
    let rows: String =
        documents.iter().map(|text| format!("{}\n", json!({"score": 1, "text": text}))).collect();
    world.write("good.jsonl", &rows);
    // One row is truncated, one has no text, one is empty; and numbers as Python writes them do no harm.
    let rows = rows.replace("\"score\":1", "\"score\":NaN") + "{\"score\":-Infinity,\"text\":\"\"}\n";
    world.write("bad.jsonl", format!("{{\"text\":\"cut\n{rows}\n{{\"score\":2}}\n"));
    let good = world.run("evaluate --model model --data good.jsonl --json").row();
    let line = "evaluate --model model --data bad.jsonl --skip-bad-rows 2";
    let bad = world.run(&format!("{line} --json")).row();
    assert_eq!((&bad["bad"], &bad["empty"], &bad["documents"]), (&2.into(), &1.into(), &12.into()));
    assert_eq!((&bad["nll"], &bad["tokens"]), (&good["nll"], &good["tokens"]));
    let text = world.run(line).success().stdout;
    assert!(text.contains("(1 empty, 0 without a target and 2 bad ones left out)"), "{text}");
    let out = format!(
        "train --model model --train bad.jsonl --skip-bad-rows 2 --out run --max-steps 1 {SMALL} --dry-run --json"
    );
    assert_eq!(world.run(&out).row()["train"]["bad"], 2);
    world
        .run("evaluate --model model --data bad.jsonl --skip-bad-rows 1")
        .refused(&["more than 1 bad rows", "`score`"]);
}
