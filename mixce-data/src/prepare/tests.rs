//! Small data sets in every shape they are published in.
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::error::{Error, Result};
use crate::input::ReadSettings;

fn words(n: usize, tag: &str) -> String {
    vec![tag; n].join(" ")
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn run(source: &Path, out: &Path, settings: &PrepareSettings) -> Result<Prepared> {
    let splits = find(source, settings.collection, None, &ReadSettings::default())?;
    prepare(&splits, settings, out, &mut |_| Ok(()))
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
    builder.into_inner().unwrap().finish().unwrap().flush().unwrap();

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
    assert!(find(None).unwrap_err().to_string().contains("`--config`"));
    assert!(find(Some("b")).unwrap()[0].is_some());
    assert!(find(Some("c")).unwrap_err().to_string().contains("`c`"));
}

#[test]
fn filters_that_leave_nothing_are_told() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(source.path(), "train.txt", "short\n");
    let error = run(source.path(), out.path(), &small(Collection::Wikitext, 0)).unwrap_err();
    assert!(matches!(error, Error::NothingLeft { split: "train", read: 1 }), "{error}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn splits_are_known_by_words_of_names() {
    for (name, split) in [
        ("wiki.train.raw", Some(Split::Train)),
        ("validation-00000-of-00001.parquet", Some(Split::Valid)),
        ("webtext.valid.jsonl", Some(Split::Valid)),
        ("dev.txt", Some(Split::Valid)),
        ("test-00000.parquet", Some(Split::Test)),
        ("latest.txt", None),
        ("trainer.txt", None),
    ] {
        assert_eq!(Split::of(name), split, "{name}");
    }
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
    let chosen = |config, split| choose_files(&names, config, split);
    assert_eq!(chosen(Some("wikitext-103-raw-v1"), None), names[2..5]);
    assert_eq!(chosen(Some("wikitext-103-raw-v1"), Some("test")), names[2..3]);
    assert_eq!(chosen(Some("en"), Some("train_sft")), names[6..7]);
    assert_eq!(chosen(Some("extra"), None), names[7..]);
    assert!(chosen(Some("x"), None).is_empty() && chosen(None, Some("dev")).is_empty());
    assert_eq!(choose_files(&["a/stories.jsonl".into(), "x.json".into()], None, None), ["a/stories.jsonl"]);
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
            let kept: Vec<String> = documents.iter().map(|d| cleaning.apply(d)).filter(|t| settings.filter.keep(t).is_some()).collect();
            let mut written = lines(a.path(), "test.txt");
            written.extend(lines(a.path(), "valid.txt"));
            written.extend(lines(a.path(), "train.txt"));
            prop_assert_eq!(written, kept);
        }
    }
}
