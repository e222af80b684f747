//! Irregularities of real-world files of rows.
use super::tests::{Folder, column, message, read, settings, texts};
use super::*;
use crate::error::Error;
use mixce_base::Hint as _;

fn skipping(rows: u64) -> ReadSettings {
    ReadSettings { skip_bad_rows: rows, ..settings() }
}

fn delimiter(text: &str) -> ReadSettings {
    ReadSettings { delimiter: Some(text.to_owned()), ..settings() }
}

/// The texts, bad rows left out, and what is reported of the file.
fn report(name: &str, bytes: impl AsRef<[u8]>, settings: ReadSettings) -> (Vec<String>, FileReport) {
    let folder = Folder::new();
    let input = Input::open(&[folder.write(name, bytes)], settings).unwrap();
    let mut documents = input.documents();
    let texts = documents.by_ref().map(|document| document.unwrap().text).collect();
    (texts, documents.reports().remove(0))
}

fn kept(name: &str, bytes: impl AsRef<[u8]>, bad: u64) -> Vec<String> {
    let (texts, report) = report(name, bytes, skipping(bad));
    assert_eq!((report.bad, report.rows), (bad, texts.len() as u64 + bad));
    texts
}

#[test]
fn json_may_lie_in_a_file_in_any_layout() {
    for (text, layout) in [
        ("[{\"text\": \"a\"}, {\"text\": \"b\"}]", JsonLayout::Array),
        ("[\n  {\"text\": \"a\"},\n  {\"text\": \"b\"}\n]\n", JsonLayout::Array),
        ("[\n{\n\"text\": \"a\"\n},\n{\n\"text\": \"b\"\n}\n]\n", JsonLayout::Array),
        ("[{\"text\": \"a\"}]\n[{\"text\": \"b\"}]\n", JsonLayout::Array),
        ("{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n", JsonLayout::Objects),
        ("{\"text\": \"a\"} {\"text\": \"b\"}", JsonLayout::Objects),
        ("{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n  \n", JsonLayout::Lines),
        ("\u{feff}{\"text\": \"a\"}\r\n{\"text\": \"b\"}\r\n", JsonLayout::Lines),
        ("{\"text\": \"a\"}\r{\"text\": \"b\"}\r", JsonLayout::Lines),
    ] {
        for name in ["a.json", "a.jsonl", "a.jsonlines", "a.ndjson"] {
            let (texts, report) = report(name, text, settings());
            assert_eq!(texts, ["a", "b"], "{text:?}");
            assert_eq!(report.description.layout, Some(layout), "{text:?}");
            assert_eq!(report.description.columns, ["text"]);
        }
    }
    assert!(texts("a.json", "[]").is_empty());
    assert!(texts("a.json", "").is_empty());
    let (_, lines) = report("a.jsonl", "{\"text\":\"a\"}\n\n \n{\"text\":\" \"}\n\n", settings());
    assert_eq!((lines.rows, lines.blank_lines, lines.empty, lines.bad), (2, 3, 1, 0));
}

/// A megabyte of commas is one bad row, and costs no memory for a million fields.
#[test]
fn a_record_has_a_limited_number_of_fields() {
    let commas = ",".repeat(1 << 20);
    for name in ["a.csv", "a.csv.gz"] {
        let text = format!("text,b\nx,1\n{commas}\n\"y\",2\n");
        let bytes =
            if name.ends_with("gz") { super::test_files::gzip(text.as_bytes()) } else { text.into_bytes() };
        assert_eq!(kept(name, &bytes, 1), ["x", "y"]);
        let words = message(name, bytes, settings());
        assert!(words.contains("line 3: more than 16384 fields"), "{words}");
    }
    let wide = message("a.csv", format!("{commas}\nx\n"), settings());
    assert!(wide.contains("more than 16384 fields"), "{wide}");
}

#[test]
fn places_are_lines_or_the_rows_of_an_array() {
    let places = |text: &str| -> Vec<u64> {
        read("a.json", text, settings()).unwrap().into_iter().map(|(place, _)| place).collect()
    };
    assert_eq!(places("\n{\n\"text\":\"a\"}\r\n\r\n{\"text\":\"b\"} {\"text\":\"c\"}"), [2, 5, 5]);
    assert_eq!(places("[{\"text\":\"a\"},\n\n{\"text\":\"b\"}]"), [1, 2]);
}

#[test]
fn the_column_of_json_does_not_hang_on_the_order_of_rows() {
    let rows = [
        "{\"id\":\"doc-1\",\"story\":null}",
        "{\"story\":\"Once\",\"id\":\"doc-2\"}",
        "{\"id\":\"doc-3\",\"story\":\"The old\",\"extra\":{\"text\":\"x\"}}",
        "{\"id\":4}",
    ];
    for first in 0..rows.len() {
        let mut turned = rows;
        turned.rotate_left(first);
        let mut got = kept("a.jsonl", turned.join("\n"), 2);
        got.sort();
        assert_eq!(got, ["Once", "The old"], "{turned:?}");
    }
    // Without a name: the only key that holds text in any row, or doubt.
    let rows = ["{\"n\":1,\"blurb\":null}", "{\"n\":\"2\"}", "{\"n\":3,\"blurb\":\"x\"}"];
    for first in 0..rows.len() {
        let mut turned = rows;
        turned.rotate_left(first);
        let told = message("a.jsonl", turned.join("\n"), settings());
        assert!(told.contains("several candidates (it has `blurb`, `n`)"), "{told}");
        let turned = turned.map(|row| row.replace("\"2\"", "2"));
        assert_eq!(kept("a.jsonl", turned.join("\n"), 2), ["x"]);
    }
    // `text` is the text wherever it turns up.
    for rows in ["{\"text\":\"a\"}\n{\"story\":\"b\"}", "{\"story\":\"b\"}\n{\"text\":\"a\"}"] {
        assert_eq!(kept("a.jsonl", rows, 1), ["a"]);
    }
    assert_eq!(texts("a.jsonl", "{\"Text\":\"a\",\"title\":\"b\"}"), ["a"]);
}

#[test]
fn what_python_writes_for_numbers_is_read() {
    let rows =
        "{\"text\":\"a NaN b\",\"score\":NaN}\n{\"text\":\"-Infinity\",\"score\":[-Infinity,Infinity]}\n";
    assert_eq!(texts("a.jsonl", rows), ["a NaN b", "-Infinity"]);
    let told = message("a.jsonl", "{\"text\":\"a\"}\n{\"text\":NaN}", settings());
    assert!(told.contains("line 2: expected a string under `text`, got a number"), "{told}");
    assert!(message("a.jsonl", "{\"text\":\"a\",\"b\":nan}", settings()).contains("not a JSON value"));
}

#[test]
fn bad_json_rows_are_named_and_cost_no_other() {
    for (row, words) in [
        ("{\"text\":\"half \\ud83d\"}", "lone surrogate"),
        ("{\"text\":\"a\",\"text\":\"b\"}", "the key `text` occurs twice"),
        ("\"a string\"", "expected a JSON object, got a string"),
        ("{\"text\":\"cut", "not a JSON value"),
        ("{\"text\":\"cut\"", "not a JSON value"),
        ("{\"text\":\"cut\",\"more\":", "not a JSON value"),
        ("{\"text\":\"a\"},", "a comma after the value"),
        ("{\"text\":\"a\"} b", "text after the value"),
        ("{\"text\":\"a\tb\"}", "control character"),
        ("{}", "no key `text` (it has none)"),
        ("12", "got a number"),
        ("plain words", "not a JSON value"),
        ("{\"text\":[\"a\"]}", "got an array"),
    ] {
        let rows = format!("{{\"text\":\"one\"}}\n{row}\n{{\"text\":\"two\"}}\n{{\"text\":\"three\"}}\n");
        let told = message("a.jsonl", &rows, settings());
        assert!(told.contains("a.jsonl` line 2: ") && told.contains(words), "{row}: {told}");
        assert_eq!(kept("a.jsonl", &rows, 1), ["one", "two", "three"], "{row}");
        // The same at the beginning and at the end.
        let (first, last) =
            (format!("{row}\n{{\"text\":\"one\"}}\n"), format!("{{\"text\":\"one\"}}\n{row}"));
        assert_eq!(kept("a.jsonl", first, 1), ["one"], "{row}");
        assert_eq!(kept("a.jsonl", last, 1), ["one"], "{row}");
    }
    // In a column that does not matter half a pair does no harm.
    assert_eq!(texts("a.jsonl", "{\"text\":\"a\",\"b\":\"\\ud83d\"}"), ["a"]);
    assert_eq!(texts("a.jsonl", "{\"text\":\"\\ud83d\\ude00\"}"), ["\u{1f600}"]);
}

#[test]
fn bad_items_of_arrays_cost_no_other_where_lines_tell_them_apart() {
    let lines = "[\n{\"text\":\"a\"},\n{\"text\":\"b\n},\n{\"text\":\"c\"},\n]\n";
    let told = message("a.json", lines, settings());
    assert!(told.contains("a.json` row 2: not a JSON value (line 3: a string is not closed"), "{told}");
    // The broken row, its `}`, and the comma before `]`.
    assert_eq!(kept("a.json", lines, 3), ["a", "c"]);
    let pretty = "[\n  {\n    \"text\": \"a\"\n  },\n  {\n    \"text\": oops\n  },\n  {\n    \"text\": \"c\"\n  }\n]\n";
    assert_eq!(kept("a.json", pretty, 1), ["a", "c"]);
    let pretty = pretty.replace("\n  ", "\n").replace("[\n", "").replace("}\n]", "}").replace("},", "}");
    assert_eq!(kept("a.json", pretty, 1), ["a", "c"]);
    assert_eq!(kept("a.json", "[1, {\"text\":\"a\"}, \"x\"]", 2), ["a"]);
    assert_eq!(kept("a.json", "[{\"text\":\"a\"}, {\"text\":\"b", 1), ["a"]);
    assert_eq!(kept("a.json", "[{\"text\":\"a\"}", 1), ["a"]);
    assert_eq!(kept("a.json", "[{\"text\":\"a\"} {\"text\":\"b\"}]", 1), ["a", "b"]);
    let shared = "{\"text\":\"a\"} {\"text\":\"b\"}\n{\"text\":oops} {\"text\":\"c\"}\n{\"text\":\"d\"}\n";
    assert!(matches!(read("a.json", shared, skipping(9)), Err(Error::LostRows(_))));
    let told =
        read("a.json", "[{\"text\":\"a\"},{\"text\":oops},{\"text\":\"c\"}]", skipping(9)).unwrap_err();
    assert!(matches!(told, Error::LostRows(_)) && told.to_string().contains("row 2"), "{told}");
}

#[test]
fn rows_inside_of_an_object_are_not_taken_for_a_row() {
    for (text, key) in [
        ("{\"data\": [{\"text\": \"a\"}, {\"text\": \"b\"}]}", "data"),
        ("{\n \"version\": \"1.1\",\n \"train\": [\n{\"text\": \"a\"}]}", "train"),
    ] {
        let folder = Folder::new();
        let input = Input::open(&[folder.write("a.json", text)], settings()).unwrap();
        let error = input.documents().next().unwrap().unwrap_err();
        assert!(error.to_string().contains(&format!("the rows under the key `{key}`")), "{error}");
        assert!(error.hint().unwrap().contains(&format!("jq -c '.\"{key}\"[]'")), "{error}");
    }
    // A row with a list of its own is a row.
    assert_eq!(texts("a.json", "{\"text\": \"a\", \"spans\": [{\"start\": 1}]}"), ["a"]);
    let long =
        format!("{{\"data\": [{}]}}", vec!["{\"text\": \"some words of a row\"}"; 3_000_000].join(","));
    assert!(message("a.json", long, settings()).contains("the rows under the key `data`"));
}

#[test]
fn delimiters_are_found_or_named() {
    for (csv, found) in [
        ("id;text\n1;Hello world, again\n2;Second\n", ';'),
        ("id|text\n1|Hello world, again\n2|Second\n", '|'),
        ("id\ttext\n1\tHello world, again\n2\tSecond\n", '\t'),
        ("sep=;\nid;text\n1;Hello world, again\n2;Second\n", ';'),
        ("id,text\n1,\"Hello world, again\"\n2,Second\n", ','),
    ] {
        for name in ["a.csv", "a.tsv"] {
            let (texts, report) = report(name, csv, settings());
            assert_eq!(texts, ["Hello world, again", "Second"], "{csv:?}");
            assert_eq!(report.description.dialect.unwrap().delimiter, found);
        }
    }
    assert_eq!(read("a.csv", "sep=;\nid;text\n1;a\n", settings()).unwrap(), [(3, "a".to_owned())]);
    let doubtful = "id;text,x\n1;a,b\n2;c,d\n";
    assert!(
        message("a.csv", doubtful, column("text"))
            .contains("more than one delimiter fits the records: `,` and `;`")
    );
    let both = ReadSettings { text_column: "text,x".into(), ..delimiter(";") };
    assert_eq!(read("a.csv", doubtful, both).unwrap()[1].1, "c,d");
    assert_eq!(read("a.csv", "id~text\n1~a\n", delimiter("~")).unwrap(), [(2, "a".to_owned())]);
}

#[test]
fn a_quote_that_is_never_closed_costs_one_row() {
    let rows = |bad: &str| {
        let row = |n: usize| if n == 5 { format!("5,{bad}\n") } else { format!("{n},row {n}\n") };
        "id,text\n".to_owned() + &(1..=100).map(row).collect::<String>()
    };
    let want: Vec<String> = (1..=100).filter(|&n| n != 5).map(|n| format!("row {n}")).collect();
    let csv = rows("\"opened");
    let told = message("a.csv", &csv, settings());
    assert!(told.contains("a.csv` line 6: a quote that is opened here is never closed"), "{told}");
    assert_eq!(kept("a.csv", &csv, 1), want);
    // A quoted field further down does not close it.
    let closed = csv.replace("77,row 77\n", "77,\"row 77\"\n").replace("90,row 90", "90,\"row \"\"90\"\"\"");
    let mut quoted = want.clone();
    quoted[88] = "row \"90\"".to_owned();
    assert_eq!(kept("a.csv", closed, 1), quoted);
    // Two of them, and a ragged row that they would have hidden.
    let two = csv.replace("60,row 60\n", "60,\"row\n").replace("70,row 70\n", "70\n");
    let want: Vec<String> = want.into_iter().filter(|row| row != "row 60" && row != "row 70").collect();
    assert_eq!(kept("a.csv", two, 3), want);
    // On its first line a record may hold a quoted field of several lines.
    let csv = "id,text,note\n1,\"a\nb\",\"c\n2,x,y\n3,\"p\nq\",z\n";
    assert_eq!(kept("a.csv", csv, 1), ["x", "p\nq"]);
}

#[test]
fn quotes_inside_of_quotes() {
    let csv = "id,text\n1,\"a \"\"q\"\" b\"\n2,\"a \\\"q\\\", b\nc\"\n3,c:\\\n4,\"c:\\\"\n";
    let (texts, report) = report("a.csv", csv, settings());
    assert_eq!(texts, ["a \"q\" b", "a \"q\", b\nc", "c:\\", "c:\\"]);
    assert_eq!(report.description.dialect.unwrap().backslash_records, 1);
    // Neither doubled nor escaped: one bad row, with all of its lines.
    let csv = "id,text\n1,a\n2,\"she said \"no\" and\nwent, and\ncame back\"\n3,b\n";
    let told = message("a.csv", csv, settings());
    assert!(told.contains("line 3: text after the closing quote") && told.contains("2 more lines"), "{told}");
    assert_eq!(kept("a.csv", csv, 1), ["a", "b"]);
}

#[test]
fn ragged_rows_are_bad_rows() {
    let csv = "id,text\n1,a\n2\n3,b,x\n\n   \n4,c\n\"\"\n";
    let (texts, report) = report("a.csv", csv, skipping(3));
    assert_eq!(texts, ["a", "c"]);
    assert_eq!((report.rows, report.bad, report.blank_lines), (5, 3, 2));
    // A quote that takes in whole rows and closes by chance.
    let csv = |more: &str| format!("id,text\n1,a\n2,\"b\n{more}4,d\",e\n5,f\n");
    let told = message("a.csv", csv("3,c\n"), settings());
    assert!(told.contains("line 3: expected 2 fields, as in the first record, got 3"), "{told}");
    assert!(told.contains("spans 2 more lines"), "{told}");
    assert_eq!(kept("a.csv", csv("3,c\n"), 1), ["a", "f"]);
    assert_eq!(kept("a.csv", csv(&"3,c\n".repeat(20)), 2).len(), 22);
}

#[test]
fn carriage_returns_alone_may_end_lines() {
    let (texts, found) = report("a.csv", "id,text\r1,a\r2,\"b\rc\nd\"\r3,e", settings());
    assert_eq!(texts, ["a", "b\rc\nd", "e"]);
    assert!(found.description.dialect.unwrap().carriage_returns);
    let (texts, found) = report("a.csv", "id,text\r\n1,a\rb\r\n", settings());
    assert_eq!(texts, ["a\rb"]);
    assert!(!found.description.dialect.unwrap().carriage_returns);
}

#[test]
fn a_header_is_one_or_is_said_to_be_missing() {
    for csv in ["1,hello there\n2,second one\n", "Hello there.\nSecond one.\n", "3\nhello\n"] {
        let folder = Folder::new();
        let input = Input::open(&[folder.write("a.csv", csv)], settings()).unwrap();
        let error = input.documents().next().unwrap().unwrap_err();
        assert!(error.to_string().contains("expected the names of the columns in the first line"), "{error}");
        assert!(error.hint().unwrap().contains("settings.no_header"));
    }
    let bare = ReadSettings { no_header: true, ..settings() };
    let got = read("a.csv", "1,hello there\n2,second one\n", bare.clone()).unwrap();
    assert_eq!(got, [(1, "hello there".to_owned()), (2, "second one".to_owned())]);
    let second = ReadSettings { text_column: "2".into(), ..bare };
    assert_eq!(read("a.csv", "a,b\nc,d\n", second).unwrap()[0].1, "b");
    // The only column that holds text, over all rows.
    let (texts, report) = report("a.csv", "id,blurb,score\n1,,0.5\n2,words,\n,5,1e3\n", settings());
    assert_eq!(texts, ["", "words", "5"]);
    assert_eq!((report.description.columns, report.empty), (vec!["blurb".to_owned()], 1));
    assert_eq!(report.description.chosen, Some("the only one that holds text"));
    assert!(message("a.csv", "text,text\na,b\n", settings()).contains("several columns are called `text`"));
    assert_eq!(super::tests::texts("a.csv", "\u{feff}\"text\",n\nx,1\n"), ["x"]);
}

#[test]
fn prompts_of_samples_are_told_apart() {
    let rows =
        "{\"prompt\":\"a b\",\"text\":\" c\"}\n{\"continuation\":\"d\"}\n{\"prompt\":null,\"text\":\"e\"}\n";
    let folder = Folder::new();
    let whole = ReadSettings { whole_samples: true, ..settings() };
    let input = Input::open(&[folder.write("s.jsonl", rows)], whole).unwrap();
    let got: Vec<_> = input.documents().map(|d| d.unwrap()).map(|d| (d.text, d.prompt_bytes)).collect();
    assert_eq!(got, [("a b c".to_owned(), Some(3)), ("d".to_owned(), None), ("e".to_owned(), None)]);
}

/// pyarrow writes a column of nulls alone as numbers of the type `null`.
#[test]
fn a_parquet_column_without_values_is_named() {
    use ::parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
    use ::parquet::data_type::Int32Type;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::types::Type;
    let column = Type::primitive_type_builder("text", PhysicalType::INT32)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(Some(LogicalType::Unknown))
        .build()
        .unwrap();
    let schema =
        Type::group_type_builder("m").with_fields(vec![std::sync::Arc::new(column)]).build().unwrap();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), std::sync::Arc::new(schema), std::sync::Arc::default())
            .unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut nulls = group.next_column().unwrap().unwrap();
    nulls.typed::<Int32Type>().write_batch(&[], Some(&[0, 0]), None).unwrap();
    nulls.close().unwrap();
    group.close().unwrap();
    let folder = Folder::new();
    let path = folder.write("a.parquet", writer.into_inner().unwrap());
    let input = Input::open(&[path], ReadSettings { skip_bad_rows: 9, ..ReadSettings::default() }).unwrap();
    let error = input.documents().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("column `text` holds nothing but nulls"), "{error}");
}
