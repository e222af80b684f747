//! The paper's evaluation: continuations of documents.

use serde_json::Value;

use crate::support::{World, torchrun};

const LINE: &str =
    "generate --model model --documents valid.txt --name dev --prompt-length 3 --max-length 40";

/// The files of a folder with their contents.
fn files(world: &World, folder: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(world.path(folder)).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .map(|name| (name.clone(), world.text(&format!("{folder}/{name}"))))
        .collect();
    files.sort();
    files
}

fn names(files: &[(String, String)]) -> Vec<&str> {
    files.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn three_samples_of_each_document_in_the_authors_files() {
    let world = World::new();
    let row = world.run(&format!("{LINE} --out a --json")).row();
    let all = files(&world, "a");
    let expected = [
        "dev.human",
        "dev.human.jsonl",
        "dev.sample",
        "dev.sample.jsonl",
        "dev.sample1",
        "dev.sample1.jsonl",
        "dev.sample2",
        "dev.sample2.jsonl",
        "dev.settings.json",
    ];
    assert_eq!(names(&all), expected);
    assert_eq!((&row["documents"], &row["skipped"]), (&12.into(), &0.into()));
    assert_eq!(world.text("a/dev.human"), world.text("valid.txt"));
    let seeds: Vec<&Value> = row["files"].as_array().unwrap().iter().map(|file| &file["seed"]).collect();
    assert_eq!(seeds, [42, 43, 44]);
    for (ending, seed) in [("sample", 42), ("sample1", 43), ("sample2", 44)] {
        let rows = world.rows(&format!("a/dev.{ending}.jsonl"));
        let text = world.text(&format!("a/dev.{ending}"));
        assert_eq!((rows.len(), text.lines().count()), (12, 12));
        for ((index, row), (line, human)) in
            rows.iter().enumerate().zip(text.lines().zip(world.text("valid.txt").lines()))
        {
            assert_eq!((&row["index"], &row["seed"]), (&index.into(), &seed.into()));
            let prompt = row["prompt"].as_str().unwrap();
            assert!(line.starts_with(prompt) && human.starts_with(prompt), "{line} {human}");
            assert!(row["tokens"].as_array().unwrap().len() <= 37);
        }
    }
    assert_ne!(world.text("a/dev.sample"), world.text("a/dev.sample1"));

    // Neither batches nor the number of samples change a sample.
    world.run(&format!("{LINE} --out b --batch-size 5 --num-samples 1")).success();
    assert_eq!(world.text("a/dev.sample.jsonl"), world.text("b/dev.sample.jsonl"));
}

#[test]
fn a_grid_in_one_run_goes_on_where_it_was_stopped() {
    let world = World::new();
    let line = format!("{LINE} --num-samples 1 --top-p 0.8,0.95 --temperature 1,0.7 --batch-size 5");
    world.run(&format!("{line} --out whole")).success();
    let whole = files(&world, "whole");
    for ending in
        ["topp(p=0.8)", "topp(p=0.95)", "temperature(t=0.7)topp(p=0.8)", "temperature(t=0.7)topp(p=0.95)"]
    {
        assert!(names(&whole).contains(&format!("dev.{ending}").as_str()), "{ending}: {:?}", names(&whole));
    }
    assert_ne!(world.text("whole/dev.topp(p=0.8)"), world.text("whole/dev.topp(p=0.95)"));

    // As a kill in the third file leaves it: two files, one batch, and half a row.
    for (name, content) in &whole {
        if !name.contains("t=0.7") {
            world.write(&format!("parts/{name}"), content);
        }
    }
    let third = world.text("whole/dev.temperature(t=0.7)topp(p=0.8).jsonl");
    let torn: String = third.split_inclusive('\n').take(6).collect();
    world.write("parts/.dev.temperature(t=0.7)topp(p=0.8).jsonl.partial", &torn[..torn.len() - 9]);
    world.run(&format!("{line} --out parts")).refused(&["`parts/dev.settings.json` exists", "--resume"]);
    world.run(&format!("{line} --out parts --resume")).success();
    assert_eq!(files(&world, "parts"), whole);

    // Another way of sampling may join; other settings may not.
    world.run(&format!("{LINE} --num-samples 1 --greedy --out parts --resume")).success();
    assert!(world.path("parts/dev.greedy").is_file());
    world
        .run(&format!("{line} --out parts --resume").replace("--max-length 40", "--max-length 41"))
        .refused(&["cannot resume", "`max_length` was 40 and is 41 now"]);
    world.run(&format!("{line} --out parts --resume --seed 7")).refused(&["`seed` was 42 and is 7 now"]);
}

#[test]
fn processes_write_what_one_writes() {
    let world = World::new();
    world.write("valid.txt", format!("the\n{}", world.text("valid.txt")));
    for (case, flags) in
        ["--num-samples 2 --batch-size 5", "--greedy --compat authors --batch-size 2", "--top-p 0.9,0.8"]
            .iter()
            .enumerate()
    {
        let line = |out: &str| format!("{LINE} {flags} --threads 1 --device cpu --out {out}{case}");
        let alone = world.run(&line("alone")).success();
        for size in [2, 3] {
            let out = format!("rank{size}");
            let outcomes = torchrun(size, &line(&out), || world.command(&line(&out)));
            assert_eq!(outcomes[0].stdout, alone.stdout.replace("alone", &out), "{outcomes:?}");
            assert_eq!(outcomes[0].stderr, alone.stderr, "{outcomes:?}");
            for other in &outcomes[1..] {
                assert_eq!((other.status, other.stdout.as_str(), other.stderr.as_str()), (Some(0), "", ""));
            }
            assert_eq!(files(&world, &format!("{out}{case}")), files(&world, &format!("alone{case}")));
        }
    }
}

#[test]
fn processes_continue_the_samples_of_another_number() {
    let world = World::new();
    let line = |out: &str| {
        format!("{LINE} --num-samples 1 --batch-size 2 --threads 1 --device cpu --out {out} --resume")
    };
    world.run(&line("whole")).success();
    // As a kill in the third batch leaves it.
    let first: String = world.text("whole/dev.sample.jsonl").split_inclusive('\n').take(5).collect();
    world.write("parts/.dev.sample.jsonl.partial", first);
    world.write("parts/dev.settings.json", world.text("whole/dev.settings.json"));
    let outcomes = torchrun(3, &line("parts"), || world.command(&line("parts")));
    assert!(outcomes.iter().all(|outcome| outcome.status == Some(0)), "{outcomes:?}");
    assert_eq!(files(&world, "parts"), files(&world, "whole"));

    // What is there is refused once, by the first.
    let again = line("parts").replace(" --resume", "");
    let [first, second] = torchrun(2, &again, || world.command(&again)).try_into().unwrap();
    first.refused(&["`parts/dev.settings.json` exists", "--resume"]);
    assert_eq!((second.status, second.stdout.as_str(), second.stderr.as_str()), (Some(2), "", ""));
}

#[test]
fn as_the_authors_did_it_samples_grow_to_the_longest_text_of_their_batch() {
    let world = World::new();
    let row =
        world.run(&format!("{LINE} --out a --num-samples 1 --compat authors --batch-size 4 --json")).row();
    assert_eq!(
        (&row["settings"]["compat"], &row["settings"]["authors_batch_size"]),
        (&"authors".into(), &4.into())
    );
    world.run("evaluate --model model --data valid.txt --max-length 40 --per-token tokens.jsonl").success();
    let count = |row: &Value| row["tokens"].as_array().unwrap().len();
    let lengths: Vec<usize> = world.rows("tokens.jsonl").iter().map(count).collect();
    let mut reached = 0;
    for (i, row) in world.rows("a/dev.sample.jsonl").iter().enumerate() {
        let longest = *lengths[i / 4 * 4..(i / 4 + 1) * 4].iter().max().unwrap();
        let total = 3 + count(row);
        assert!(total <= longest, "{row}");
        assert_eq!(row["finish"] == "length", total == longest, "{row}");
        reached += usize::from(total == longest);
    }
    assert!(reached > 0, "some sample is as long as it may be");
}

#[test]
fn what_cannot_be_continued_is_told() {
    let world = World::new();
    world.write("mixed.txt", "the river ran\nthe\n\nold stone bridge\n");
    let line =
        "generate --model model --documents mixed.txt --prompt-length 3 --max-length 40 --num-samples 1";
    let outcome = world.run(&format!("{line} --out a --json")).success();
    assert!(outcome.stderr.contains("1 documents of at most 3 tokens are skipped"), "{}", outcome.stderr);
    let indices: Vec<Value> =
        world.rows("a/mixed.sample.jsonl").iter().map(|row| row["index"].clone()).collect();
    assert_eq!(indices, [0, 2]);
    world.run(line).refused(&["--out"]);
    world
        .run(&format!("{line} --out b").replace("--max-length 40", "--max-length 512"))
        .refused(&["`--max-length 512`", "64 positions"]);
    world.run(&format!("{line} --out b").replace("length 3", "length 39")).refused(&["leaves no room"]);
    world
        .run(&format!("{line} --out b").replace("length 3 ", "length 30 "))
        .refused(&["no document has more than 30 tokens"]);
    world.run(&format!("{line} --out b --name ../x")).refused(&["`--name`", "`../x`"]);
    world.run(&format!("{line} --out mixed.txt")).refused(&["mixed.txt"]);
    world
        .run("generate --model model --prompt water --top-p 0.5,0.9")
        .refused(&["several values need `--documents`"]);
    world.run("generate --model model --prompt water --resume").refused(&["--documents"]);
}
