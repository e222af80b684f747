//! Small data sets in every shape they are published in.
use mixce_base::Hint as _;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::error::{Error, Result};
use crate::input::ReadSettings;

mod archives;

fn words(n: usize, tag: &str) -> String {
    vec![tag; n].join(" ")
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn run(source: &Path, out: &Path, settings: &PrepareSettings) -> Result<Prepared> {
    let source = find(source, settings.collection, None, &ReadSettings::default())?;
    prepare(&source.splits, settings, out, &mut |_| Ok(()))
}

fn lines(out: &Path, name: &str) -> Vec<String> {
    std::fs::read_to_string(out.join(name)).unwrap().lines().map(str::to_owned).collect()
}

fn small(collection: Collection, held_out: u64) -> PrepareSettings {
    PrepareSettings { held_out: Some(held_out), ..PrepareSettings::new(collection) }
}

#[test]
fn wikitext_is_filtered_detokenised_and_topped_up() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sentence = |i: usize| format!(" The {i} @-@ year \" {} \" , it was 1 @,@ 200 . \n", words(50, "w"));
    let train: String = (0..8).map(|i| format!(" = Heading {i} = \n \n{}", sentence(i))).collect();
    write(source.path(), "wiki.train.tokens", &train);
    write(source.path(), "wiki.valid.tokens", &sentence(100));
    write(source.path(), "wiki.test.tokens", &format!("{}{}too short .\n", sentence(200), sentence(201)));
    let report = run(source.path(), out.path(), &small(Collection::Wikitext, 3)).unwrap();
    assert!(report.detokenized);
    let number = |line: &String| line.split(['-', ' ']).nth(1).unwrap().parse::<u32>().unwrap();
    let numbers = |name| lines(out.path(), name).iter().map(number).collect::<Vec<_>>();
    assert_eq!(numbers("test.txt"), [200, 201, 0]);
    assert_eq!(numbers("valid.txt"), [100, 1, 2]);
    assert_eq!(numbers("train.txt"), [3, 4, 5, 6, 7]);
    let expected = format!("The 3-year \"{}\", it was 1,200.", words(50, "w"));
    assert_eq!(lines(out.path(), "train.txt")[0], expected);
    assert_eq!((report.test.topped_up, report.valid.topped_up, report.test.read), (1, 2, 3));
    assert_eq!(report.train.words.summary().documents, 5);
    assert!(report.train_sets.is_empty() && !out.path().join("train10K.txt").exists());
}

#[test]
fn writing_prompts_come_from_the_archive_of_fairseq() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archive = source.path().join("writingPrompts.tar.gz");
    let packed =
        flate2::write::GzEncoder::new(std::fs::File::create(&archive).unwrap(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(packed);
    let mut add = |name: &str, text: String| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, format!("writingPrompts/{name}"), text.as_bytes()).unwrap();
    };
    for split in ["train", "valid", "test"] {
        add(&format!("{split}.wp_source"), "[ WP ] A door , a key .\n".repeat(3));
        let story = format!("`` Open it ! '' <newline> {} .\n", words(60, "s"));
        add(&format!("{split}.wp_target"), story.repeat(3));
    }
    add("README", "not data".into());
    builder.into_inner().unwrap().finish().unwrap();

    let report = run(&archive, out.path(), &small(Collection::WritingPrompts, 2)).unwrap();
    let expected = format!("[WP] A door, a key. \"Open it!\" {}.", words(60, "s"));
    assert_eq!(lines(out.path(), "test.txt"), vec![expected.clone(); 2]);
    assert_eq!(lines(out.path(), "train.txt"), vec![expected; 3]);
    assert_eq!((report.valid.topped_up, report.valid.words.summary().documents), (0, 2));
}

#[test]
fn prompts_without_stories_are_an_error() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(source.path(), "train.wp_source", "a .\nb .\n");
    write(source.path(), "train.wp_target", "c .\n");
    let error = run(source.path(), out.path(), &small(Collection::WritingPrompts, 0)).unwrap_err();
    assert!(error.to_string().contains("partner for line 2: there are fewer targets"), "{error}");
    std::fs::remove_file(source.path().join("train.wp_target")).unwrap();
    let error = run(source.path(), out.path(), &small(Collection::WritingPrompts, 0)).unwrap_err();
    assert!(
        error.to_string().contains("train.wp_source` holds no partner that ends in `.wp_target`"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn webtext_keeps_its_words_and_puts_a_document_on_a_line() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let row = |i: usize| {
        serde_json::json!({"id": i, "text": format!("Title {i}\n\n{} , end .\n", words(60, "w"))}).to_string()
            + "\n"
    };
    write(source.path(), "webtext.train.jsonl", &(0..4).map(row).collect::<String>());
    write(source.path(), "webtext.valid.jsonl", &row(9));
    write(source.path(), "small-117M.train.jsonl", &row(77));
    let report = run(source.path(), out.path(), &small(Collection::Webtext, 1)).unwrap();
    assert!(!report.detokenized);
    assert_eq!(lines(out.path(), "test.txt"), [format!("Title 0 {} , end .", words(60, "w"))]);
    assert!(lines(out.path(), "valid.txt")[0].starts_with("Title 9 "));
    assert_eq!(lines(out.path(), "train.txt").len(), 3);
}

#[test]
fn the_users_own_text_gives_a_twentieth_to_each_held_out_set() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(source.path(), "mine.txt", &(0..100).map(|i| format!("line {i} .\n\n")).collect::<String>());
    let settings = PrepareSettings::new(Collection::Text);
    let report = run(&source.path().join("mine.txt"), out.path(), &settings).unwrap();
    assert_eq!(lines(out.path(), "test.txt"), (0..5).map(|i| format!("line {i} .")).collect::<Vec<_>>());
    assert_eq!((lines(out.path(), "valid.txt").len(), lines(out.path(), "train.txt").len()), (5, 90));
    assert_eq!(report.train.read, 200);
}

#[test]
fn beginnings_of_the_training_set_are_written_where_there_is_enough() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(source.path(), "train.txt", &(0..26_000).map(|i| format!("document {i}\n")).collect::<String>());
    let report = run(source.path(), out.path(), &small(Collection::Text, 10)).unwrap();
    assert_eq!(report.train_sets.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [10_000, 25_000]);
    let all = lines(out.path(), "train.txt");
    assert_eq!(all.len(), 25_980);
    assert_eq!(lines(out.path(), "train10K.txt"), all[..10_000]);
    assert_eq!(lines(out.path(), "train25K.txt"), all[..25_000]);
}

#[test]
fn sources_without_a_training_split_or_with_two_configurations_are_refused() {
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a/test.txt", "x");
    let find = |config| find(source.path(), Collection::Text, config, &ReadSettings::default());
    let error = find(None).unwrap_err();
    assert!(
        matches!(error, Error::Incomplete { .. }) && error.to_string().contains("training split"),
        "{error}"
    );
    write(source.path(), "a/train.txt", "x");
    write(source.path(), "b/train.txt", "x");
    let error = find(None).unwrap_err();
    assert!(error.to_string().contains("`a/train.txt` and `b/train.txt`"), "{error}");
    assert_eq!(error.hint().unwrap(), "choose one, or name its folder");
    let found = find(Some("b")).unwrap();
    assert!(found.splits[0].is_some());
    assert_eq!(
        reasons(&found),
        [
            "a/test.txt: not below the folder of the configuration",
            "a/train.txt: not below the folder of the configuration"
        ]
    );
    assert!(find(Some("c")).unwrap_err().to_string().contains("`c`"));
    let file = source.path().join("a/train.txt");
    let error = super::find(&file, Collection::Text, Some("b"), &ReadSettings::default()).unwrap_err();
    assert!(error.to_string().contains("the configuration `b`"), "{error}");
}

fn reasons(source: &Source) -> Vec<String> {
    source.unused.iter().map(|file| format!("{}: {}", file.name.display(), file.reason)).collect()
}

fn texts(source: &Source) -> [Vec<String>; 3] {
    source
        .splits
        .each_ref()
        .map(|split| split.iter().flat_map(SplitSource::documents).collect::<Result<Vec<String>>>().unwrap())
}

#[test]
fn the_name_of_the_source_says_nothing_and_titles_lose_no_file() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path().join("test-corpus");
    write(&root, "book.txt", "a\n");
    write(&root, "the_train.txt", "b\n");
    write(&root, "deep/er/than/three/folders/c.txt", "c\n");
    let settings = ReadSettings::default();
    let found = find(&root, Collection::Text, None, &settings).unwrap();
    assert_eq!((&texts(&found)[0], reasons(&found)), (&["a", "c", "b"].map(str::to_owned).to_vec(), vec![]));
    write(&root, "train.txt", "d\n");
    let found = find(&root, Collection::Text, None, &settings).unwrap();
    assert_eq!(texts(&found)[0], ["d"]);
    assert_eq!(
        reasons(&found),
        ["book.txt", "deep/er/than/three/folders/c.txt", "the_train.txt"]
            .map(|name| format!("{name}: its name speaks of no split, others' do"))
    );
    std::fs::remove_file(root.join("train.txt")).unwrap();
    write(&root, "a-test-of-will.txt", "e\n");
    let error = find(&root, Collection::Text, None, &settings).unwrap_err();
    assert!(matches!(error, Error::Splits { .. }) && error.hint().is_some(), "{error}");
    assert!(error.to_string().contains("`a-test-of-will.txt` may be test; `book.txt`"), "{error}");
}

#[cfg(unix)]
#[test]
fn folders_are_read_once_and_links_that_lead_nowhere_are_named() {
    use std::os::unix::fs::symlink;
    let source = tempfile::tempdir().unwrap();
    write(source.path(), "a/one.txt", "a\n");
    write(source.path(), ".git/two.txt", "b\n");
    symlink("..", source.path().join("a/up")).unwrap();
    symlink("nothing.txt", source.path().join("broken.txt")).unwrap();
    symlink("a/one.txt", source.path().join("copy.txt")).unwrap();
    let found = find(source.path(), Collection::Text, None, &ReadSettings::default()).unwrap();
    assert_eq!(texts(&found)[0], ["a", "a"]);
    assert_eq!(
        reasons(&found),
        [
            ".git: hidden",
            "a/up: a link to a folder that was read already",
            "broken.txt: neither a file nor a folder, or a link that leads nowhere",
        ]
    );
}

#[test]
fn a_source_without_data_says_what_is_there() {
    let source = tempfile::tempdir().unwrap();
    let find =
        || find(source.path(), Collection::Text, None, &ReadSettings::default()).unwrap_err().to_string();
    assert!(find().contains("holds no data file: it is empty"));
    write(source.path(), "novel.pdf", "x");
    assert!(find().contains("only `novel.pdf`"), "{}", find());
    write(source.path(), "test.txt", "x");
    assert!(find().contains("only `test.txt`") && find().contains("training split"), "{}", find());
}

#[test]
fn filters_that_leave_nothing_are_told() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(source.path(), "train.txt", "short\n");
    let error = run(source.path(), out.path(), &small(Collection::Wikitext, 0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no training document passes the filters: of 1 documents read, 1 of fewer than 51 words"
    );
    let long = format!(" = Heading = \n\n{}\n{}\n", words(1000, "w"), words(50, "w"));
    write(source.path(), "train.txt", &long);
    let error = run(source.path(), out.path(), &small(Collection::Wikitext, 0)).unwrap_err().to_string();
    let dropped =
        "of 4 documents read, 1 blank, 1 headings, 1 of fewer than 51 words, 1 of more than 999 words";
    assert!(error.ends_with(dropped), "{error}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn held_out_sets_that_take_everything_are_told_with_a_number_that_works() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let paragraph = |i: usize| format!("{i} {}\n \n", words(60, "w"));
    write(source.path(), "train.txt", &(0..1420).map(paragraph).collect::<String>());
    let error = run(source.path(), out.path(), &PrepareSettings::new(Collection::Wikitext)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no document is left to train on: of 2840 that were read 1420 pass the filters, and the test set took 1420 of them, the development set 0 (`settings.held_out` is 5000, for each)"
    );
    assert_eq!(
        error.hint().unwrap(),
        "take fewer: `settings.held_out = 71` leaves at least 1278 to train on"
    );
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    run(source.path(), out.path(), &small(Collection::Wikitext, 71)).unwrap();
    assert_eq!(lines(out.path(), "train.txt").len(), 1278);
}

#[test]
fn the_users_own_held_out_files_are_neither_cut_nor_filled_up() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let numbered = |n: usize| (0..n).map(|i| format!("line {i}\n")).collect::<String>();
    write(source.path(), "train.txt", &numbered(40));
    write(source.path(), "test.txt", &numbered(10));
    let report = run(source.path(), out.path(), &PrepareSettings::new(Collection::Text)).unwrap();
    // A twentieth of 40 for the development set, which does not exist.
    let counts = ["test.txt", "valid.txt", "train.txt"].map(|name| lines(out.path(), name).len());
    assert_eq!((counts, report.test.cut, report.test.topped_up), ([10, 2, 38], 0, 0));
}

#[test]
fn documents_beyond_a_held_out_set_are_counted() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(source.path(), "train.txt", "a\nb\n");
    write(source.path(), "test.txt", "c\n\nd\ne\n");
    let report = run(source.path(), out.path(), &small(Collection::Text, 1)).unwrap();
    assert_eq!((report.test.read, report.test.cut, report.test.dropped.blank), (4, 2, 1));
    assert_eq!(
        (lines(out.path(), "test.txt"), lines(out.path(), "train.txt")),
        (vec!["c".into()], vec!["b".into()])
    );
}

#[test]
fn files_of_a_repository_are_chosen_by_configuration_and_split() {
    let names: Vec<String> = [
        "README.md",
        "dataset_infos.json",
        "wikitext-103-raw-v1/test-00000-of-00001.parquet",
        "wikitext-103-raw-v1/train-00000-of-00002.parquet",
        "wikitext-103-raw-v1/train-00001-of-00002.parquet",
        "wikitext-2-raw-v1/train-00000-of-00001.parquet",
        "en/train_sft/0000.parquet",
        "extra/train.jsonl",
    ]
    .map(str::to_owned)
    .to_vec();
    let chosen = |config, split| choose_files(&names, config, split).files;
    assert_eq!(chosen(Some("wikitext-103-raw-v1"), None), names[2..5]);
    assert_eq!(chosen(Some("wikitext-103-raw-v1"), Some("test")), names[2..3]);
    assert_eq!(chosen(Some("en"), Some("train_sft")), names[6..7]);
    assert_eq!(chosen(Some("extra"), None), names[7..]);
    assert!(chosen(Some("x"), None).is_empty() && chosen(None, Some("dev")).is_empty());
    let alone = choose_files(&["a/stories.jsonl".into(), "x.json".into()], None, None);
    assert_eq!((alone.files, alone.unused.len()), (vec!["a/stories.jsonl".to_owned()], 1));
    let mixed = choose_files(&["train.csv".into(), "other.csv".into(), "train.parquet".into()], None, None);
    assert_eq!(mixed.files, ["train.parquet"]);
    assert_eq!(
        mixed.unused.iter().map(|file| file.name.clone()).collect::<Vec<_>>(),
        ["other.csv", "train.csv"].map(std::path::PathBuf::from)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn preparing_twice_gives_identical_files_and_each_document_once(
        documents in prop::collection::vec("[a-z@=.,\"' ]{0,60}", 1..60),
        held_out in 0u64..6,
    ) {
        let source = tempfile::tempdir().unwrap();
        write(source.path(), "train.txt", &documents.join("\n"));
        let mut settings = small(Collection::Wikitext, held_out);
        settings.filter.min_words = 2;
        let read_all = |out: &Path| -> Vec<(String, Vec<u8>)> {
            let names = std::fs::read_dir(out).unwrap().map(|e| e.unwrap().path());
            let mut files: Vec<_> = names.map(|p| (p.display().to_string().replace(&out.display().to_string(), ""), std::fs::read(p).unwrap())).collect();
            files.sort();
            files
        };
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = run(source.path(), a.path(), &settings);
        let second = run(source.path(), b.path(), &settings);
        prop_assert_eq!(first.is_ok(), second.is_ok());
        prop_assert_eq!(read_all(a.path()), read_all(b.path()));
        if let Ok(report) = first {
            let cleaning = Cleaning { collection: Collection::Wikitext, detokenize: report.detokenized };
            let mut dropped = Dropped::default();
            let kept: Vec<String> = documents.iter().map(|d| cleaning.apply(d)).filter(|t| settings.filter.keep(t, &mut dropped).is_some()).collect();
            let mut written = lines(a.path(), "test.txt");
            written.extend(lines(a.path(), "valid.txt"));
            written.extend(lines(a.path(), "train.txt"));
            prop_assert_eq!(written, kept);
        }
    }
}
