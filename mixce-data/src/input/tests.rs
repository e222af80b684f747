//! Compares all formats, and tests each with bad input.
use mixce_base::Hint as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ::parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::*;
use crate::error::Error;

pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

pub(super) fn settings() -> ReadSettings {
    ReadSettings::default()
}

pub(super) fn column(name: &str) -> ReadSettings {
    ReadSettings { text_column: name.into(), ..settings() }
}

fn read_with(paths: &[PathBuf], settings: ReadSettings) -> Result<Vec<(u64, String)>> {
    let input = Input::open(paths, settings)?;
    input.documents().map(|d| d.map(|d| (d.place.number(), d.text))).collect()
}

pub(super) fn read(
    name: &str,
    bytes: impl AsRef<[u8]>,
    settings: ReadSettings,
) -> Result<Vec<(u64, String)>> {
    let folder = Folder::new();
    let path = folder.write(name, bytes);
    read_with(&[path], settings)
}

pub(super) fn texts(name: &str, bytes: impl AsRef<[u8]>) -> Vec<String> {
    read(name, bytes, settings()).unwrap().into_iter().map(|(_, text)| text).collect()
}

#[test]
fn samples_are_whole_where_that_is_wanted() {
    let rows = "{\"prompt\":\"a b\",\"text\":\" c\",\"tokens\":[1]}\n{\"prompt\":\"a\",\"continuation\":\"b\",\"text\":\"x\"}\n{\"text\":\"d\"}\n";
    let whole = ReadSettings { whole_samples: true, ..settings() };
    let texts = |settings| -> Vec<String> {
        read("s.jsonl", rows, settings).unwrap().into_iter().map(|(_, text)| text).collect()
    };
    assert_eq!(texts(whole.clone()), ["a b c", "ab", "d"]);
    assert_eq!(texts(settings()), [" c", "x", "d"]);
    assert_eq!(texts(ReadSettings { text_column: "text".into(), ..whole.clone() }), [" c", "x", "d"]);
    let told = message("s.jsonl", "{\"prompt\":\"a\"}\n", whole);
    assert!(told.contains("line 1: no key `text` (it has `prompt`)"), "{told}");
}

pub(super) fn message(name: &str, bytes: impl AsRef<[u8]>, settings: ReadSettings) -> String {
    read(name, bytes, settings).unwrap_err().to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// A column of numbers, and one of texts (or nulls), in row groups of `group` rows.
fn parquet_file(texts: &[Option<&str>], group: usize) -> Vec<u8> {
    let schema = "message m { required int32 id; optional binary story (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties =
        Arc::new(WriterProperties::builder().set_compression(::parquet::basic::Compression::SNAPPY).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    for rows in texts.chunks(group) {
        let mut group = writer.next_row_group().unwrap();
        let mut ids = group.next_column().unwrap().unwrap();
        let numbers: Vec<i32> = (0..rows.len() as i32).collect();
        ids.typed::<Int32Type>().write_batch(&numbers, None, None).unwrap();
        ids.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|text| ByteArray::from(*text)).collect();
        let levels: Vec<i16> = rows.iter().map(|text| i16::from(text.is_some())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The same documents in every format.
fn spellings(texts: &[String]) -> Vec<(&'static str, Vec<u8>)> {
    let lines = |line: &dyn Fn(&str) -> String| -> String { texts.iter().map(|t| line(t) + "\n").collect() };
    let optional: Vec<Option<&str>> = texts.iter().map(|t| Some(t.as_str())).collect();
    vec![
        ("a.txt", lines(&|t| t.to_owned()).into_bytes()),
        ("a.jsonl", lines(&|t| serde_json::json!({"id": 1, "text": t}).to_string()).into_bytes()),
        ("a.csv", format!("id,text\r\n{}", lines(&|t| format!("1,{}\r", quoted(t)))).into_bytes()),
        ("a.tsv", format!("text\tid\n{}", lines(&|t| format!("{}\t1", quoted(t)))).into_bytes()),
        ("a.parquet", parquet_file(&optional, 3)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_format_and_compression_gives_the_same_documents(
        texts in prop::collection::vec("[ -~\u{a0}-\u{17f}\u{4e00}-\u{4e20}\t\"]{0,40}", 1..12)
    ) {
        let folder = Folder::new();
        for (name, bytes) in spellings(&texts) {
            let wrapped = [(String::new(), bytes.clone()), (".gz".into(), gzip(&bytes)), (".zst".into(), zstandard(&bytes))];
            for (ending, bytes) in wrapped {
                let path = folder.write(&format!("{name}{ending}"), bytes);
                let input = Input::open(&[&path], settings()).unwrap();
                let got: Vec<String> = input.documents().map(|d| d.unwrap().text).collect();
                prop_assert_eq!(&got, &texts, "{}{}", name, ending);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..400) {
        let folder = Folder::new();
        let texts = vec!["some words, \"quoted\"".to_owned(); 3];
        for (name, mut good) in spellings(&texts) {
            let at = cut.min(good.len());
            for (spoilt, name) in [(bytes.clone(), name.to_owned()), (gzip(&bytes), format!("{name}.gz"))] {
                let path = folder.write(&name, spoilt);
                let _ = read_with(&[path], settings());
            }
            good.splice(at..at, bytes.iter().copied().take(7));
            let path = folder.write(name, &good);
            let _ = read_with(&[path], settings());
            good.truncate(at);
            let path = folder.write(name, &good);
            let _ = read_with(&[path], settings());
        }
    }
}

#[test]
fn text_has_one_document_a_line() {
    let got = read("a.txt", "\u{feff}one \r\n\n  two\nlast", settings()).unwrap();
    let want = [(1, "one "), (2, ""), (3, "  two"), (4, "last")].map(|(n, t)| (n, t.to_owned()));
    assert_eq!(got, want);
    assert!(texts("a.txt", "").is_empty());
}

#[test]
fn a_separator_joins_lines() {
    let split = |bytes: &str, separator: &str| {
        read("a.txt", bytes, ReadSettings { document_separator: Some(separator.into()), ..settings() })
            .unwrap()
    };
    let got = split("\u{feff}one\ntwo\n<|end|>\nthree\n<|end|>", "<|end|>");
    assert_eq!(got, [(1, "one\ntwo".to_owned()), (4, "three".to_owned())]);
    assert_eq!(split("a\nb\n\nc\n", r"\n\n"), [(1, "a\nb".to_owned()), (4, "c".to_owned())]);
    assert_eq!(split("", "x"), []);
    // A document across many reads, with a separator on the border of two.
    let long = "y".repeat((1 << 18) - 2);
    let got = split(&format!("{long}<|end|>{long}{long}"), "<|end|>");
    assert_eq!(got.iter().map(|(_, t)| t.len()).collect::<Vec<_>>(), [long.len(), 2 * long.len()]);
}

#[test]
fn json_lines_take_text_or_the_only_string_or_what_is_named() {
    assert_eq!(texts("a.jsonl", "{\"id\":1,\"text\":\"a\\nb\"}\n\n{\"text\":\"\"}\n"), ["a\nb", ""]);
    assert_eq!(texts("a.ndjson", "{\"id\":1,\"story\":\"a\"}\n{\"story\":\"b\",\"x\":\"y\"}\n"), ["a", "b"]);
    let rows = "{\"prompt\":\"p\",\"story\":\"s\"}";
    let both =
        ReadSettings { text_column: vec!["prompt".to_owned(), "story".to_owned()].into(), ..settings() };
    assert_eq!(read("a.jsonl", rows, both).unwrap(), [(1, "p s".to_owned())]);
    assert!(message("a.jsonl", "{\"a\":\"x\",\"b\":\"y\"}", settings()).contains("several candidates"));
}

#[test]
fn bad_json_rows_name_the_line() {
    for (row, words) in [
        ("{\"a\":1}", "no key `text` (it has `a`)"),
        ("{\"text\":3}", "expected a string under `text`, got a number"),
        ("{\"text\":null}", "got null"),
        ("[1]", "got an array"),
        ("{oops", "not a JSON value"),
    ] {
        let error = message("a.jsonl", format!("{{\"text\":\"fine\"}}\n{row}\n"), settings());
        assert!(error.contains("a.jsonl` line 2: ") && error.contains(words), "{error}");
    }
}

#[test]
fn csv_fields_may_be_quoted_and_hold_lines() {
    let csv = "id,text\n1,\"a \"\"quoted\"\", b\nnext\"\n\n2,plain \" quote\n3,\"\"\n";
    let got = read("a.csv", csv, settings()).unwrap();
    let want = [(2, "a \"quoted\", b\nnext"), (5, "plain \" quote"), (6, "")];
    assert_eq!(got, want.map(|(n, t)| (n, t.to_owned())));
    assert_eq!(texts("a.tsv", "story\tid\r\na, b\t1\r\nc\t2"), ["a, b", "c"]);
    assert_eq!(texts("a.csv", "text\n\"x\"\n\ny"), ["x", "", "y"]);
    assert!(texts("a.csv", "").is_empty());
}

#[test]
fn bad_csv_rows_name_the_line_and_reading_goes_on_behind_them() {
    let csv = b"id,text\n1,a\n2\n3,\"x\"y,z\n4,\xff\n5,b\n".to_vec();
    let error = message("a.csv", &csv, settings());
    assert!(error.contains("a.csv` line 3: expected 2 fields, as in the first record, got 1"), "{error}");
    let three = ReadSettings { skip_bad_rows: 3, ..settings() };
    assert_eq!(read("a.csv", &csv, three).unwrap(), [(2, "a".to_owned()), (6, "b".to_owned())]);
    let error = message("a.csv", &csv, ReadSettings { skip_bad_rows: 2, ..settings() });
    assert!(error.starts_with("more than 2 bad rows") && error.contains("line 5, byte 1"), "{error}");
    let error = message("a.csv", "text\n\"never\nclosed\n", settings());
    assert!(error.contains("line 2: a quote that is opened here is never closed"), "{error}");
    assert!(message("a.csv", "a,b\n1,2\n", settings()).contains("(it has `a`: numbers, `b`: numbers)"));
    assert!(message("a.csv", "a,b\n1,2\n", column("c")).contains("no column `c`"));
}

#[test]
fn parquet_columns_are_read_across_row_groups() {
    let texts: Vec<String> = (0..200).map(|i| format!("text {i}")).collect();
    let optional: Vec<Option<&str>> = texts.iter().map(|t| Some(t.as_str())).collect();
    let got = read("a.parquet", parquet_file(&optional, 70), settings()).unwrap();
    assert_eq!(got.len(), 200);
    assert_eq!(got[199], (200, "text 199".to_owned()));
    assert!(read("a.parquet", parquet_file(&[], 1), settings()).unwrap().is_empty());
}

#[test]
fn nulls_and_wrong_columns_of_parquet_are_named() {
    let bytes = parquet_file(&[Some("a"), None, Some("b")], 2);
    let error = message("a.parquet", &bytes, settings());
    assert!(error.contains("a.parquet` row 2: expected text in column `story`, got null"), "{error}");
    let one = ReadSettings { skip_bad_rows: 1, ..settings() };
    assert_eq!(read("a.parquet", &bytes, one).unwrap(), [(1, "a".to_owned()), (3, "b".to_owned())]);
    assert!(message("a.parquet", &bytes, column("id")).contains("`id` does not hold text"));
    assert!(
        message("a.parquet", &bytes, column("x"))
            .contains("no column `x` (it has `id`: numbers or times, `story`)")
    );
}

#[test]
fn damaged_files_are_named() {
    let words = "some words\n".repeat(5000);
    for (name, packed, kind) in
        [("a.txt.gz", gzip(words.as_bytes()), "gzip"), ("a.txt.zst", zstandard(words.as_bytes()), "zstd")]
    {
        let error = message(name, &packed[..packed.len() - 9], settings());
        assert!(error.contains(&format!("{name}` is cut off: its {kind} data end too early")), "{error}");
    }
    let whole = parquet_file(&[Some("a")], 1);
    for bad in [&whole[..whole.len() - 5], b"PAR1", b""] {
        assert!(message("a.parquet", bad, settings()).contains("not a readable parquet file"));
    }
    let error = message("a.txt", b"fine\nab\xffcd\n", settings());
    assert!(error.contains("a.txt` line 2, byte 3: the text is not UTF-8"), "{error}");
}

#[test]
fn a_bomb_is_a_bad_row_and_not_an_allocation() {
    // 200 MiB of one line in 200 kB.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..200 {
        encoder.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    encoder.write_all(b"\ngood\n").unwrap();
    let bomb = encoder.finish().unwrap();
    let one = ReadSettings { skip_bad_rows: 1, ..settings() };
    assert!(message("a.txt.gz", &bomb, settings()).contains("line 1: longer than 64 MiB"));
    assert_eq!(read("a.txt.gz", &bomb, one.clone()).unwrap(), [(2, "good".to_owned())]);
    let separated = ReadSettings { document_separator: Some(r"\n".into()), ..one.clone() };
    assert_eq!(read("a.txt.gz", &bomb, separated).unwrap(), [(2, "good".to_owned())]);
    // Without the first line a table has no columns: that cannot be left out.
    assert!(read("a.csv.gz", &bomb, one).unwrap_err().to_string().contains("longer than 64 MiB"));
}

#[test]
fn patterns_and_several_files_are_read_in_order() {
    let folder = Folder::new();
    let b = folder.write("b.txt", "3\n");
    folder.write("a-2.jsonl", "{\"text\":\"2\"}");
    folder.write("a-1.jsonl", "{\"text\":\"1\"}");
    let pattern = folder.0.path().join("a-*.jsonl");
    let got = read_with(&[pattern.clone(), b.clone()], settings()).unwrap();
    assert_eq!(got.into_iter().map(|(_, t)| t).collect::<Vec<_>>(), ["1", "2", "3"]);
    let input = Input::open(&[pattern, b], settings()).unwrap();
    assert_eq!(input.formats(), [Format::JsonLines, Format::Text]);
    assert!(input.name().ends_with("a-1.jsonl (and 2 more)"));
    assert_eq!(input.stem(), "a-1");
    assert_eq!(input.bytes().unwrap(), 12 + 12 + 2);
    let odd = folder.write("odd[1].txt", "literal\n");
    assert_eq!(read_with(&[odd], settings()).unwrap()[0].1, "literal");
    let error = read_with(&[folder.0.path().join("*.csv")], settings()).unwrap_err();
    assert!(error.to_string().contains("no file matches") && error.hint().is_some());
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let folder = Folder::new();
    let error = Input::open(&["/nowhere/x.txt"], settings()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read `/nowhere/x.txt`"), "{error}");
    assert!(matches!(Input::open(&["-", "-"], settings()), Err(Error::StdinTwice)));
    assert!(Input::open(&[] as &[&Path], settings()).is_err());
    #[cfg(unix)]
    {
        let pipe = folder.0.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = Input::open(&[&pipe], settings()).unwrap_err();
        assert!(error.to_string().contains("is a named pipe") && error.hint().unwrap().contains("`-`"));
        assert!(Input::open(&["/dev/null"], settings()).is_err());
    }
}

#[test]
fn standard_input_is_recognised_by_its_bytes() {
    let from = |bytes: &[u8]| -> (Format, Vec<String>) {
        let input = Input::open_with_stdin(&["-"], settings(), &mut &bytes[..]).unwrap();
        (input.formats()[0], input.documents().map(|d| d.unwrap().text).collect())
    };
    assert_eq!(from(b"a\nb\n"), (Format::Text, vec!["a".into(), "b".into()]));
    assert_eq!(from(&gzip(b"{\"text\":\"a\"}\n")), (Format::JsonLines, vec!["a".into()]));
    let table = parquet_file(&[Some("x")], 1);
    assert_eq!(from(&table), (Format::Parquet, vec!["x".into()]));
    assert_eq!(from(&zstandard(&table)), (Format::Parquet, vec!["x".into()]));
    let csv = ReadSettings { data_format: Some(Format::Csv), ..settings() };
    let input = Input::open_with_stdin(&["-"], csv, &mut &b"text\nx\n"[..]).unwrap();
    assert_eq!(input.documents().next().unwrap().unwrap().text, "x");
    // Twice: the bytes are kept.
    assert_eq!(input.documents().count(), 1);
    assert_eq!((input.stem().as_str(), input.name().as_str()), ("data", "-"));
}

#[test]
fn the_digest_sees_content_format_and_settings() {
    let folder = Folder::new();
    let digest = |name: &str, bytes: &str, settings| {
        Input::open(&[folder.write(name, bytes)], settings).unwrap().digest(&AtomicBool::new(false)).unwrap()
    };
    let base = digest("a.txt", "x", settings());
    assert_eq!(base, digest("b.txt", "x", settings()));
    assert_ne!(base, digest("a.csv", "x", settings()));
    assert_ne!(base, digest("a.txt", "y", settings()));
    assert_ne!(base, digest("a.txt", "x", ReadSettings { skip_bad_rows: 1, ..settings() }));
}
