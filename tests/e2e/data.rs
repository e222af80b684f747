//! Data files of every format, and data sets made from files.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::{Outcome, SMALL, World, corpus, fixtures};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The program with something on its standard input.
fn piped(world: &World, line: &str, input: &[u8]) -> Outcome {
    let mut command = world.command(line);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = command.spawn().unwrap();
    // A program that refuses its arguments does not read; then the pipe is closed.
    let _ = program.stdin.take().unwrap().write_all(input);
    Outcome::of(program.wait_with_output().unwrap(), line)
}

/// The levels of the messages, which come from several crates.
#[test]
fn each_v_shows_more_and_q_nothing() {
    let world = World::new();
    let bad = "{\"text\": 3}\n".repeat(100);
    world.write("rows.jsonl", format!("{bad}{}", "{\"text\": \"the old mill\"}\n".repeat(8)));
    let levels = |flags: &str| {
        let line =
            format!("train --model model --train rows.jsonl --skip-bad-rows 100 --max-steps 1 {SMALL}");
        let stderr = world.run(&format!("{line} --out run{flags} {flags}")).success().stderr;
        ["WARN ", "INFO ", "DEBUG "].map(|level| stderr.contains(level))
    };
    assert_eq!(levels("-q"), [false; 3]);
    assert_eq!(levels(""), [true, false, false]);
    assert_eq!(levels("-v"), [true, true, false]);
    assert_eq!(levels("-vv"), [true; 3]);
}

#[test]
fn every_format_evaluates_to_the_same_number() {
    let world = World::new();
    let text = world.text("valid.txt");
    let json: String =
        text.lines().map(|l| serde_json::json!({"id": 1, "story": l}).to_string() + "\n").collect();
    let csv: String = text.lines().map(|l| format!("1,\"{l}\"\n")).collect();
    world.write("v.jsonl.gz", gzip(json.as_bytes()));
    world.write("v.csv", format!("id,content\n{csv}"));
    world.write("v.sep", text.lines().collect::<Vec<_>>().join("<|end|>"));
    world.write("half/1.txt", text.lines().take(5).map(|l| format!("{l}\n")).collect::<String>());
    world.write("half/2.txt", text.lines().skip(5).map(|l| format!("{l}\n")).collect::<String>());
    let nll = |flags: &str| world.run(&format!("evaluate --model model --json --data {flags}")).row();
    let want = nll("valid.txt");
    for flags in
        ["v.jsonl.gz", "v.csv", "v.sep --document-separator <|end|>", "half/*.txt", "half/1.txt half/2.txt"]
    {
        assert_eq!(nll(flags), want, "{flags}");
    }
    let from_stdin = piped(&world, "evaluate --model model --json --data -", text.as_bytes()).row();
    assert_eq!(from_stdin, want);
    let concatenated = nll("valid.txt --block-size 20");
    let confined = nll("valid.txt --block-size 20 --confine-attention");
    assert!(confined["tokens"].as_u64() < concatenated["tokens"].as_u64());
}

#[test]
fn bad_rows_are_named_and_left_out_only_when_allowed() {
    let world = World::new();
    world.write("rows.jsonl", "{\"text\":\"the old mill\"}\n{\"text\":3}\nno\n{\"text\":\"water ran\"}\n");
    let line = "evaluate --model model --data rows.jsonl";
    world.run(line).refused(&["`rows.jsonl` line 2", "got a number", "--skip-bad-rows"]);
    world.run(&format!("{line} --skip-bad-rows 1")).refused(&["more than 1 bad rows", "line 3"]);
    let outcome = world.run(&format!("{line} --skip-bad-rows 2 --json")).success();
    assert!(outcome.stderr.contains("line 2") && outcome.stderr.contains("line 3"), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("\"documents\":2"), "{}", outcome.stdout);
    world.write("cut.txt.gz", &gzip(corpus(500, 3).as_bytes())[..400]);
    world
        .run("evaluate --model model --data cut.txt.gz")
        .refused(&["`cut.txt.gz` is cut off: its gzip data end too early"]);
    world.write("table.csv", "a,b\n1,2\n");
    world
        .run("evaluate --model model --data table.csv")
        .refused(&["`a`: numbers, `b`: numbers", "--text-column NAME"]);
    world.run("evaluate --model model --data *.nothing").refused(&["no file matches `*.nothing`"]);
    world
        .run("evaluate --model model --data model")
        .refused(&["model.safetensors` is the weights of a model"]);
}

#[test]
fn training_reads_parquet_and_says_when_documents_are_concatenated() {
    let world = World::new();
    let line = format!(
        "train --model model --train {{fixtures}}/data/wiki-train-*.parquet --valid {{fixtures}}/data/wiki-valid.parquet \
         --out run --max-steps 2 {SMALL} --block-size 40"
    );
    let outcome = world.run(&line).success();
    assert!(
        outcome.stderr.contains("concatenated into blocks of 40 tokens, and attention crosses"),
        "{}",
        outcome.stderr
    );
    let shown = world.run("inspect run --json").row();
    assert!(shown["config"]["train"].as_str().unwrap().ends_with("wiki-train-*.parquet"), "{shown}");
    assert!(shown["provenance"]["version"].is_string());
    let confined = line.replace("--out run", "--out other") + " --pack concat --confine-attention -v";
    let outcome = world.run(&confined).success();
    assert!(outcome.stderr.contains("attention is confined to each document"), "{}", outcome.stderr);
    world
        .run(&line.replace("--block-size 40", "--pack concat"))
        .refused(&["`--pack concat` needs `--block-size`"]);
}

#[test]
fn a_damaged_cache_is_told_and_a_sound_one_shown() {
    let world = World::new();
    let line =
        format!("train --model model --train train.txt --cache-dir cache --out run --max-steps 1 {SMALL}");
    world.run(&line).success();
    let entry = std::fs::read_dir(world.path("cache")).unwrap().next().unwrap().unwrap();
    let name = format!("cache/{}", entry.file_name().to_string_lossy());
    let row = world.run(&format!("inspect {name} --json --tokenizer model")).row();
    assert_eq!((&row["kind"], &row["counts"]["documents"]), (&"cache".into(), &64.into()));
    assert!(
        world
            .text("train.txt")
            .starts_with(row["sample"]["text"].as_str().unwrap().split('<').next().unwrap())
    );
    let mut bytes = world.read(&name);
    *bytes.last_mut().unwrap() ^= 1;
    world.write(&name, bytes);
    world.run(&format!("inspect {name}")).refused(&["is damaged", "checksum"]);
}

#[test]
fn datasets_are_inspected_with_lengths_and_a_sample() {
    let world = World::new();
    let row = world
        .run("inspect {fixtures}/data/stories.parquet --text-column story --json --tokenizer model")
        .row();
    assert_eq!((&row["format"], &row["documents"]), (&"parquet".into(), &12.into()));
    assert_eq!(row["lengths"]["tokens"]["total"], row["tokens"]);
    assert!(row["sample"].as_str().unwrap().starts_with("In 1900 the old harbour ,"));
    let text = world.run("inspect train.txt").success().stdout;
    assert!(text.contains("length in") && text.contains("longest: `train.txt` line "), "{text}");
}

#[test]
fn the_detokenizer_is_a_filter() {
    let world = World::new();
    let plain =
        piped(&world, "data detokenize", "He said , \" It 's late \" .\n\n<doc>\n".as_bytes()).success();
    assert_eq!(plain.stdout, "He said, \"It's late\".\n\n<doc>\n");
    world.write("wiki.tokens", " The 3 @-@ year plan cost $ 1 @,@ 200 . \n");
    world.run("data detokenize --marks wikitext wiki.tokens --out plain.txt").success();
    assert_eq!(world.text("plain.txt"), "The 3-year plan cost $1,200.\n");
    world.run("data detokenize wiki.tokens --out plain.txt").refused(&["`plain.txt` exists"]);
    let stories = piped(
        &world,
        "data detokenize --marks writingprompts",
        "`` Go ! '' <newline> She went .\n".as_bytes(),
    );
    assert_eq!(stories.success().stdout, "\"Go!\" She went.\n");
}

#[test]
fn the_users_own_files_become_splits_twice_the_same() {
    let world = World::new();
    let line = "data prepare text --source train.txt --min-words 4 --held-out 5";
    let row = world.run(&format!("{line} --out first --tokenizer model --json")).row();
    assert_eq!((&row["test"]["documents"], &row["valid"]["topped_up"]), (&5.into(), &5.into()));
    assert_eq!(
        row["train"]["words"]["total"].as_u64().unwrap(),
        world.text("first/train.txt").split_whitespace().count() as u64
    );
    assert!(
        row["train"]["tokens"]["total"].as_u64().unwrap() > row["train"]["words"]["total"].as_u64().unwrap()
    );
    let shown = world.run(&format!("{line} --out second")).success();
    assert!(
        shown.stdout.contains("length in") && shown.stdout.contains("not detokenised"),
        "{}",
        shown.stdout
    );
    for name in ["train.txt", "valid.txt", "test.txt"] {
        assert!(world.read(&format!("first/{name}")) == world.read(&format!("second/{name}")), "{name}");
    }
    world.run(&format!("{line} --out first")).refused(&["already contains `train.txt`", "--overwrite"]);
    world.run(&format!("{line} --out first --overwrite")).success();
    world.run("data prepare webtext --out w").refused(&["needs `--source`", "webtext.train.jsonl"]);
    world.run("data prepare text --source nothing --out w").refused(&["cannot read `nothing`"]);
    assert!(!world.path("w").exists());
    // The written files can be trained on.
    world.run(&format!("train --model model --train first/train.txt --valid first/valid.txt --out run --max-steps 1 {SMALL}")).success();
}

#[test]
fn preparing_without_a_folder_is_a_filter() {
    let world = World::new();
    let tokens = format!(" = Title = \n {} . \n short . \n", "word ".repeat(60).trim());
    let outcome = piped(&world, "data prepare wikitext", tokens.as_bytes()).success();
    assert_eq!(outcome.stdout, format!("{}.\n", "word ".repeat(60).trim()));
}

#[test]
fn parquet_stories_are_joined_with_their_prompts() {
    let world = World::new();
    std::fs::create_dir(world.path("data")).unwrap();
    std::fs::copy(fixtures().join("data/stories.parquet"), world.path("data/train-00000-of-00001.parquet"))
        .unwrap();
    world.run("data prepare writingprompts --source data --out out --held-out 1").success();
    let first = world.text("out/test.txt");
    assert!(first.starts_with("[WP] A door, a key. In 1900 the old harbour, which had stood"), "{first}");
    assert_eq!(world.text("out/train.txt").lines().count(), 10);
}

/// A tar archive of these members, compressed with gzip.
fn tar_gz(members: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    gzip(&builder.into_inner().unwrap())
}

#[test]
fn an_archive_keeps_members_of_one_name_and_names_those_that_are_not_used() {
    let world = World::new();
    let members = [
        ("corpus/train/part-0.txt", "a one\na two\n"),
        ("corpus/train/part-1.txt", "b one\n"),
        ("corpus/valid/part-0.txt", "c one\n"),
        ("corpus/test/part-0.txt", "d one\n"),
        ("corpus/test/._part-0.txt", "not text"),
        ("corpus/README", "not text"),
    ];
    world.write("corpus.tar.gz", tar_gz(&members));
    let outcome =
        world.run("data prepare text --source corpus.tar.gz --out out --held-out 1 --json").success();
    for words in ["`corpus/test/._part-0.txt`", "`corpus/README`"] {
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
    let row = outcome.row();
    for (split, text, files) in [
        ("train", "a one\na two\nb one\n", &["train/part-0.txt", "train/part-1.txt"][..]),
        ("valid", "c one\n", &["valid/part-0.txt"]),
        ("test", "d one\n", &["test/part-0.txt"]),
    ] {
        assert_eq!(world.text(&format!("out/{split}.txt")), text);
        let files: Vec<_> = files.iter().map(|file| format!("corpus.tar.gz/corpus/{file}")).collect();
        assert_eq!(row[split]["files"], serde_json::json!(files));
    }
    assert_eq!(row["unused"].as_array().unwrap().len(), 2);
}

#[test]
fn titles_and_the_sources_own_name_decide_on_no_split() {
    let world = World::new();
    for name in ["novels/alice.txt", "novels/moby.txt", "novels/the_train.txt", "test-corpus/book.txt"] {
        world.write(name, format!("{name} one\n{name} two\n"));
    }
    let outcome = world.run("data prepare text --source novels --out novels-out").success();
    assert!(!outcome.stderr.contains("not used"), "{}", outcome.stderr);
    assert_eq!(world.text("novels-out/train.txt").lines().count(), 6);
    world.run("data prepare text --source test-corpus --out corpus-out").success();
    assert_eq!(world.text("corpus-out/train.txt").lines().count(), 2);
    // Beside a file that decides, those that say nothing are left out, and named.
    world.write("novels/train.txt", "one\n");
    let outcome = world.run("data prepare text --source novels --out o --json").success();
    assert!(outcome.stderr.contains("`alice.txt`, `moby.txt`, `the_train.txt`"), "{}", outcome.stderr);
    assert_eq!(outcome.row()["unused"][0]["file"], "alice.txt");
    world.write("essays/a-test-of-will.txt", "one\n");
    world.write("essays/walden.txt", "one\n");
    world.run("data prepare text --source essays --out e").refused(&[
        "`a-test-of-will.txt` may be test",
        "`walden.txt` name no split",
        "hint: ",
    ]);
}

#[test]
fn what_leaves_nothing_to_train_on_is_told() {
    let world = World::new();
    let paragraphs: String =
        (0..40).map(|i| format!(" = {i} = \n \n {i} {}\n", "word ".repeat(60))).collect();
    world.write("wiki/wiki.train.tokens", paragraphs);
    let line = "data prepare wikitext --source wiki --out out";
    world.run(line).refused(&[
        "of 120 that were read 40 pass the filters, and the test set took 40 of them, the development set 0 (`--held-out` is 5000",
        "hint: take fewer: `--held-out 2` leaves at least 36 to train on",
    ]);
    world.run(&format!("{line} --held-out 2")).success();
    assert_eq!(world.text("out/train.txt").lines().count(), 36);
    world.run("data prepare wikitext --source wiki --out o --min-words 100").refused(&[
        "no training document passes the filters: of 120 documents read, 40 blank, 40 headings, 40 of fewer than 100 words",
        "`--min-words`",
    ]);
    let all_short = piped(&world, "data prepare wikitext", b"too short\n").success();
    assert_eq!(all_short.stdout, "");
    assert!(
        all_short.stderr.contains("of 1 documents read, 1 of fewer than 51 words"),
        "{}",
        all_short.stderr
    );
}
