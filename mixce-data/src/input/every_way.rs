//! The same documents in every format and dialect, with all features of such files combined.
use std::sync::Arc;

use ::parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use ::parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use ::parquet::file::properties::{WriterProperties, WriterVersion};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::tests::{Folder, settings};
use super::*;

/// Documents, with `None` where the text is missing.
type Texts = Vec<Option<String>>;

#[derive(Clone, Debug)]
struct JsonStyle {
    layout: JsonLayout,
    is_pretty: bool,
    escapes: bool,
    mark: bool,
    blank_lines: bool,
    line_end: &'static str,
}

fn json_style() -> impl Strategy<Value = JsonStyle> {
    let layouts = prop::sample::select(vec![JsonLayout::Lines, JsonLayout::Objects, JsonLayout::Array]);
    let ends = prop::sample::select(vec!["\n", "\r\n", "\r"]);
    (layouts, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), ends).prop_map(
        |(layout, is_pretty, escapes, mark, blank_lines, line_end)| JsonStyle {
            layout,
            is_pretty,
            escapes,
            mark,
            blank_lines,
            line_end,
        },
    )
}

fn json_string(text: &str, escapes: bool) -> String {
    let plain = serde_json::to_string(text).unwrap();
    if !escapes {
        return plain;
    }
    let escape = |c: char| match c.is_ascii() {
        true => c.to_string(),
        false => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    plain.chars().map(escape).collect()
}

fn json_file(texts: &Texts, style: &JsonStyle) -> Vec<u8> {
    let (end, separator) =
        (style.line_end, if style.is_pretty { format!(",{}  ", style.line_end) } else { ",".into() });
    let object = |(row, text): (usize, &Option<String>)| {
        let mut fields = match text {
            Some(text) => vec![format!("\"text\": {}", json_string(text, style.escapes))],
            None if row % 2 == 0 => vec!["\"text\":null".to_owned()],
            None => Vec::new(),
        };
        fields.insert(row % (fields.len() + 1), "\"score\": [NaN, -Infinity, 1e5]".to_owned());
        fields.insert(row % (fields.len() + 1), r#""note": "NaN {\"text\": \"no\"}, \ud83d [""#.to_owned());
        format!("{{{}}}", fields.join(&separator))
    };
    let objects: Vec<String> = texts.iter().enumerate().map(object).collect();
    let between = match (style.layout, style.is_pretty) {
        (JsonLayout::Array, true) => format!(" ,{end}"),
        (JsonLayout::Array, false) => ", ".to_owned(),
        (JsonLayout::Objects, false) => " ".to_owned(),
        _ => end.to_owned(),
    };
    let blank = if style.blank_lines { format!("{end} {end}") } else { String::new() };
    let body = objects.join(&format!("{between}{blank}"));
    let body = if style.layout == JsonLayout::Array { format!("[{blank}{body}{end}]") } else { body };
    format!("{}{blank}{body}{end}{blank}", if style.mark { "\u{feff}" } else { "" }).into_bytes()
}

#[derive(Clone, Debug)]
struct CsvStyle {
    delimiter: char,
    quotes_all: bool,
    names_delimiter: bool,
    mark: bool,
    blank_lines: bool,
    line_end: &'static str,
    text_is_last: bool,
}

fn csv_style() -> impl Strategy<Value = CsvStyle> {
    let delimiters = prop::sample::select(vec![',', ';', '\t', '|']);
    let ends = prop::sample::select(vec!["\n", "\r\n", "\r"]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (delimiters, ends, flags).prop_map(|(delimiter, line_end, flags)| CsvStyle {
        delimiter,
        quotes_all: flags.0,
        names_delimiter: flags.1,
        mark: flags.2,
        blank_lines: flags.3,
        line_end,
        text_is_last: flags.4,
    })
}

fn csv_file(texts: &Texts, style: &CsvStyle) -> Vec<u8> {
    let quoted = |text: &str| {
        let is_special = text.contains([style.delimiter, '"', '\n', '\r']);
        if style.quotes_all || is_special {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    let record = |id: &str, text: &str| {
        let (id, text) = (quoted(id), quoted(text));
        let fields =
            if style.text_is_last { [id, "x, \"y\"; z".to_owned(), text] } else { [text, id, String::new()] };
        let fields = fields.map(|field| if field.starts_with("x,") { quoted(&field) } else { field });
        fields.join(&style.delimiter.to_string()) + style.line_end
    };
    let mut file = if style.mark { "\u{feff}".to_owned() } else { String::new() };
    if style.names_delimiter {
        file += &format!("sep={}{}", style.delimiter, style.line_end);
    }
    let header = if style.text_is_last { ["id", "note", "text"] } else { ["text", "id", "note"] };
    file += &(header.join(&style.delimiter.to_string()) + style.line_end);
    for (row, text) in texts.iter().enumerate() {
        if style.blank_lines && row % 3 == 1 {
            file += style.line_end;
        }
        file += &match text {
            Some(text) => record(&row.to_string(), text),
            // Too few fields.
            None => format!("{row}{}", style.line_end),
        };
    }
    file.into_bytes()
}

#[derive(Clone, Debug)]
struct ParquetStyle {
    group: usize,
    page: usize,
    version: WriterVersion,
    dictionary: bool,
    compression: Compression,
}

fn parquet_style() -> impl Strategy<Value = ParquetStyle> {
    let compressions = vec![
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ];
    let versions = prop::sample::select(vec![WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0]);
    (1usize..400, 1usize..90, versions, any::<bool>(), prop::sample::select(compressions)).prop_map(
        |(group, page, version, dictionary, compression)| ParquetStyle {
            group,
            page,
            version,
            dictionary,
            compression,
        },
    )
}

/// A column of numbers, and two of texts; the second one is the text after a mark.
fn parquet_file(texts: &Texts, style: &ParquetStyle) -> Vec<u8> {
    let schema =
        "message m { required int32 id; optional binary text (UTF8); optional binary mark (STRING); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(style.compression)
        .set_writer_version(style.version)
        .set_dictionary_enabled(style.dictionary)
        .set_data_page_row_count_limit(style.page)
        .set_write_batch_size(style.page)
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for rows in texts.chunks(style.group) {
        let mut group = writer.next_row_group().unwrap();
        let mut ids = group.next_column().unwrap().unwrap();
        let numbers: Vec<i32> = (0..rows.len() as i32).collect();
        ids.typed::<Int32Type>().write_batch(&numbers, None, None).unwrap();
        ids.close().unwrap();
        for mark in ["", "#"] {
            let mut column = group.next_column().unwrap().unwrap();
            let values: Vec<ByteArray> =
                rows.iter().flatten().map(|text| ByteArray::from(format!("{mark}{text}").as_str())).collect();
            let levels: Vec<i16> = rows.iter().map(|text| i16::from(text.is_some())).collect();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// Reads a file back: the texts with `None` for bad rows, where those are known by their place.
fn read_back(name: &str, bytes: Vec<u8>, settings: ReadSettings) -> (Vec<String>, FileReport) {
    let folder = Folder::new();
    let settings = ReadSettings { skip_bad_rows: u64::MAX, ..settings };
    let input = Input::open(&[folder.write(name, bytes)], settings).unwrap();
    let mut documents = input.documents();
    let texts = documents.by_ref().map(|document| document.unwrap().text).collect();
    (texts, documents.reports().remove(0))
}

fn check(
    texts: &Texts,
    name: &str,
    bytes: Vec<u8>,
    settings: ReadSettings,
) -> std::result::Result<(), TestCaseError> {
    let shown = String::from_utf8_lossy(&bytes).into_owned();
    let (got, report) = read_back(name, bytes, settings);
    let want: Vec<&String> = texts.iter().flatten().collect();
    prop_assert_eq!(got.iter().collect::<Vec<_>>(), want, "{}", shown);
    prop_assert_eq!(report.rows, texts.len() as u64, "{}", shown);
    prop_assert_eq!(report.bad, texts.iter().filter(|text| text.is_none()).count() as u64, "{}", shown);
    Ok(())
}

fn documents(up_to: usize) -> impl Strategy<Value = Texts> {
    let text = "[ -~\u{a0}-\u{17f}\u{4e00}-\u{4e20}\u{2028}\u{1f600}-\u{1f610}\t\r\n\"\\\\,;|{}\\[]{0,24}";
    prop::collection::vec(prop::option::weighted(0.8, text), 1..up_to)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn json(texts in documents(12), style in json_style()) {
        // Without any text there is no column.
        prop_assume!(texts.iter().any(Option::is_some));
        check(&texts, "a.json", json_file(&texts, &style), settings())?;
    }

    #[test]
    fn csv(texts in documents(12), style in csv_style()) {
        let whole: Texts = texts.iter().filter(|text| text.is_some()).cloned().collect();
        check(&whole, "a.csv", csv_file(&whole, &style), settings())?;
        // With ragged rows the delimiter is not to be found out from so few.
        let named = ReadSettings { delimiter: Some(style.delimiter.to_string()), ..settings() };
        check(&texts, "a.csv", csv_file(&texts, &style), named)?;
    }

    #[test]
    fn parquet(texts in documents(300), leading in 0usize..100, style in parquet_style()) {
        let mut all: Texts = vec![None; leading];
        all.extend(texts);
        let bytes = parquet_file(&all, &style);
        check(&all, "a.parquet", bytes.clone(), settings())?;
        // Two columns stay beside each other.
        let columns = vec!["text".to_owned(), "mark".to_owned()];
        let both: Texts = all.iter().map(|text| text.as_ref().map(|text| format!("{text} #{text}"))).collect();
        check(&both, "a.parquet", bytes, ReadSettings { text_column: columns.into(), ..settings() })?;
    }
}
