//! The same documents in every encoding, compression and line ending; and the warnings about irregularities.
use mixce_base::Hint as _;
use proptest::prelude::*;

use super::test_files::{archive, bzip2, fault, gzip, read, read_as, refused, utf16le, xz, zstandard};
use super::*;
use crate::error::Fault;

/// `café\nzwei\n` as xz 5.4 and bzip2 1.0.8 write it.
const XZ: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00\x0a\x63\x61\x66\xc3\xa9\x0a\x7a\x77\x65\x69\x0a\x00\x00\xe7\xd0\x9f\x9f\x13\xd2\xdc\xd5\x00\x01\x23\x0b\xc2\x1b\xfd\x09\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a";
const BZIP2: &[u8] = b"\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\x28\xbb\x15\xc1\x00\x00\x01\xc1\x94\x00\x10\x2b\x20\x00\x90\x00\x20\x08\x00\x20\x00\x22\x03\x23\x21\x00\x30\x28\x67\x1d\x41\xbf\x17\x72\x45\x38\x50\x90\x28\xbb\x15\xc1";

/// A frame without data, as pzstd puts before each of its frames.
fn skippable(data: &[u8]) -> Vec<u8> {
    [&b"\x5a\x2a\x4d\x18"[..], &(data.len() as u32).to_le_bytes(), data].concat()
}

fn separated(separator: &str) -> ReadSettings {
    ReadSettings { document_separator: Some(separator.into()), ..ReadSettings::default() }
}

/// Every way to write a text that must not change its documents.
fn wrappings(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut texts = Vec::new();
    for (ends, text) in
        [("lf", text.to_owned()), ("crlf", text.replace('\n', "\r\n")), ("cr", text.replace('\n', "\r"))]
    {
        let marked = format!("\u{feff}{text}");
        let wide = |bytes: fn(u32) -> [u8; 4]| marked.chars().flat_map(|c| bytes(c as u32)).collect();
        texts.push((format!("{ends} utf8"), text.clone().into_bytes()));
        texts.push((format!("{ends} utf8 mark"), marked.clone().into_bytes()));
        texts.push((format!("{ends} utf16le"), utf16le(&marked)));
        texts.push((format!("{ends} utf16be"), marked.encode_utf16().flat_map(u16::to_be_bytes).collect()));
        texts.push((format!("{ends} utf32le"), wide(u32::to_le_bytes)));
        texts.push((format!("{ends} utf32be"), wide(u32::to_be_bytes)));
    }
    let mut all = Vec::new();
    for (name, bytes) in texts {
        let (begin, end) = bytes.split_at(bytes.len() / 2);
        all.push((format!("{name} plain"), bytes.clone()));
        all.push((format!("{name} gzip"), gzip(&bytes)));
        all.push((format!("{name} gzip members"), [gzip(begin), gzip(b""), gzip(end), vec![0; 77]].concat()));
        all.push((format!("{name} zstd"), zstandard(&bytes)));
        let frames = [skippable(b"abc"), zstandard(begin), zstandard(b""), skippable(b""), zstandard(end)];
        all.push((format!("{name} zstd frames"), frames.concat()));
        all.push((format!("{name} bzip2"), [bzip2(begin), bzip2(end)].concat()));
        all.push((format!("{name} xz"), [xz(begin), vec![0; 8], xz(end)].concat()));
        all.push((format!("{name} twice"), gzip(&zstandard(&bytes))));
        all.push((format!("{name} tar.gz"), gzip(&archive(&[("a/b.txt", &bytes)]))));
        all.push((format!("{name} gz in tar"), archive(&[("b.txt.gz", &gzip(&bytes))])));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_wrapping_gives_the_same_documents(
        texts in prop::collection::vec("[ -~\u{b}\u{c}\u{1c}\u{85}\u{a0}-\u{17f}\u{2028}\u{2029}\u{4e00}-\u{4e20}\u{1f600}\t\"]{1,30}", 1..9),
        last_end in any::<bool>(),
    ) {
        let mut text = texts.join("\n");
        // A text without a last line end has the same lines.
        if last_end {
            text.push('\n');
        }
        for (name, bytes) in wrappings(&text) {
            // The name says nothing: neither of compression nor of archives.
            let got = read("data", &bytes);
            prop_assert_eq!(&got.texts, &texts, "{}", name);
            prop_assert_eq!(got.lines, (1..=texts.len() as u64).collect::<Vec<_>>(), "{}", name);
        }
        let by_paragraph: Vec<String> = texts.iter().map(|text| format!("first\n{text}")).collect();
        for (name, bytes) in wrappings(&by_paragraph.join("\n\n")) {
            for separator in [r"\n\n", r"\r\n\r\n", r"\r\r"] {
                let got = read_as("data", &bytes, separated(separator)).unwrap();
                prop_assert_eq!(&got.texts, &by_paragraph, "{} {}", name, separator);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..600, which in 0usize..1000,
    ) {
        let all = wrappings("some words\nand others\n");
        let (_, mut spoilt) = all[which % all.len()].clone();
        let at = at.min(spoilt.len());
        spoilt.splice(at..at, bytes.iter().copied().take(5));
        let _ = read_as("a.txt", &spoilt, ReadSettings::default());
        spoilt.truncate(at);
        let _ = read_as("a.txt", &spoilt, ReadSettings::default());
        if let Some(byte) = spoilt.get_mut(at / 2) {
            *byte ^= bytes.first().copied().unwrap_or(1);
        }
        let _ = read_as("a.txt", &spoilt, ReadSettings::default());
        let _ = read_as("a.txt", &bytes, ReadSettings::default());
    }
}

#[test]
fn utf_16_is_recognised_with_and_without_a_mark() {
    let got = read("a.txt", &utf16le("\u{feff}Erste Zeile\nzweite\n"));
    assert_eq!(got.texts, ["Erste Zeile", "zweite"]);
    assert_eq!((got.decoding.encoding, got.decoding.byte_order_mark), (Some(Encoding::Utf16Le), true));
    let got = read("a.jsonl", &utf16le("{\"text\":\"a\"}\r\n{\"text\":\"b\"}\r\n"));
    assert_eq!((got.texts, got.decoding.byte_order_mark), (vec!["a".to_owned(), "b".to_owned()], false));
    // Half a surrogate pair makes one row a bad one, and no other.
    let mut lone = utf16le("\u{feff}one\n");
    lone.extend([0x3d, 0xd8]);
    lone.extend(utf16le("x\nthree\n"));
    let error = refused("a.txt", &lone).to_string();
    assert!(error.contains("line 2") && error.contains("the UTF-16LE is damaged"), "{error}");
    let one = ReadSettings { skip_bad_rows: 1, ..ReadSettings::default() };
    assert_eq!(read_as("a.txt", &lone, one).unwrap().texts, ["one", "three"]);
}

#[test]
fn a_mark_is_dropped_at_the_start_only() {
    assert_eq!(read("a.txt", "\u{feff}a\n\u{feff}b\u{feff}\n".as_bytes()).texts, ["a", "\u{feff}b\u{feff}"]);
    assert_eq!(read("a.txt", "\u{feff}\u{feff}a\n".as_bytes()).texts, ["\u{feff}a"]);
}

#[test]
fn text_in_another_encoding_is_named_by_offset_and_a_guess() {
    let error = refused("a.txt", b"the river\r\nthe old m\xfchle\r\n");
    let words = error.to_string();
    assert!(
        words.ends_with("a.txt` line 2, byte 10: the text is not UTF-8 (at byte offset 20 of the file)"),
        "{words}"
    );
    let hint = error.hint().unwrap();
    assert!(hint.contains("it may be windows-1252, where this reads `m\u{fc}hle`"), "{hint}");
    assert!(hint.contains("iconv -f windows-1252 -t UTF-8"), "{hint}");
    let error = refused("a.csv", b"id,text\n1,fine\n2,\"two\nl\xefnes\"\n").to_string();
    assert!(error.contains("line 3") && error.contains("(at byte offset 23 of the file)"), "{error}");
    // A bad byte in a column that is not read is not the one that is meant.
    let error = refused("a.csv", b"id,text\n\xff,fine\n2,\xe9\n").to_string();
    assert!(error.contains("line 3") && !error.contains("offset"), "{error}");
}

#[test]
fn line_ends_are_those_of_python_and_counted() {
    let got = read("a.txt", b"a\nb\r\nc\rd\r\r\ne\n");
    assert_eq!(got.texts, ["a", "b", "c", "d", "", "e"]);
    assert_eq!(got.decoding.line_ends, LineEnds { lf: 2, crlf: 2, cr: 2 });
    assert!(got.decoding.warnings()[0].contains("2 line endings are lone carriage returns, 4 are not"));
    assert!(read("a.txt", b"a\rb\rc").decoding.warnings().is_empty());
    let other = "a\u{85}b\u{2028}c\u{2029}d\u{b}e\u{c}f";
    assert_eq!(read("a.txt", format!("{other}\nlast").as_bytes()).texts, [other, "last"]);
    let crlf = read_as("a.txt", b"a\r\nb\r\n\r\nc\r\n\r\n\r\nd\r\n", separated(r"\n\n")).unwrap();
    let lf = read_as("a.txt", b"a\nb\n\nc\n\n\nd\n", separated(r"\n\n")).unwrap();
    assert_eq!(lf.texts, ["a\nb", "c", "d"]);
    assert_eq!((crlf.texts, crlf.lines), (lf.texts, lf.lines));
    // A carriage return within a quoted field belongs to the field.
    assert_eq!(read("a.csv", b"text\r\n\"a\rb\r\nc\"\r\n").texts, ["a\rb\r\nc"]);
}

#[test]
fn xz_and_bzip2_are_read_as_their_programs_write_them() {
    for (bytes, kind) in [(XZ, Compression::Xz), (BZIP2, Compression::Bzip2)] {
        let got = read("a.txt", bytes);
        assert_eq!(got.texts, ["caf\u{e9}", "zwei"]);
        let layer = &got.decoding.compression[0];
        assert_eq!((layer.kind, layer.parts), (kind, 1));
        assert_eq!(read("a.txt", &[bytes, bytes].concat()).decoding.compression[0].parts, 2);
        for cut in 12..bytes.len() {
            assert_eq!(fault("a.txt", &bytes[..cut]), Fault::CutOff, "{kind:?} {cut}");
        }
        let mut spoilt = bytes.to_vec();
        spoilt[40] ^= 0x10;
        assert!(matches!(fault("a.txt", &spoilt), Fault::Damaged(_)), "{kind:?}");
    }
    assert!(matches!(fault("a.txt", &[XZ, b"rest"].concat()), Fault::Damaged(_)));
    assert_eq!(read("a.txt", &[BZIP2, b"rest"].concat()).decoding.compression[0].trailing_bytes, 4);
}

#[test]
fn gzip_may_be_padded_and_followed_by_anything() {
    let whole = gzip(b"one\ntwo\n");
    let padded = read("a.txt.gz", &[whole.as_slice(), &[0; 512]].concat());
    assert_eq!(padded.texts, ["one", "two"]);
    assert_eq!(padded.decoding.compression[0].padding_bytes, 512);
    assert!(padded.decoding.warnings().is_empty());
    let between = read("a.txt.gz", &[whole.as_slice(), &[0; 9], &whole].concat());
    assert_eq!((between.texts.len(), between.decoding.compression[0].parts), (4, 2));
    let garbage = read("a.txt.gz", &[&whole, &b"signature"[..]].concat());
    assert_eq!(garbage.texts, ["one", "two"]);
    assert!(garbage.decoding.warnings()[0].ends_with("9 bytes after the end of the gzip data are ignored"));
    for cut in 3..whole.len() {
        assert_eq!(fault("a.txt.gz", &whole[..cut]), Fault::CutOff, "{cut}");
    }
    // The sum of the data, which stands in the last eight bytes.
    let mut spoilt = whole.clone();
    let at = spoilt.len() - 7;
    spoilt[at] ^= 1;
    assert!(matches!(fault("a.txt.gz", &spoilt), Fault::Damaged(_)));
}

#[test]
fn zstd_frames_of_every_kind_are_read() {
    // A frame with a window of 2 GiB and one raw block, as `zstd --ultra --long=31` writes it.
    let long = b"\x28\xb5\x2f\xfd\x00\xa8\x49\x00\x00far\naway\n".to_vec();
    let got = read("a.txt.zst", &long);
    assert_eq!(got.texts, ["far", "away"]);
    assert_eq!(got.decoding.compression[0].window_bytes, 1 << 31);
    assert!(got.decoding.warnings()[0].ends_with("may take 2048 MiB of memory"));
    let mut larger = long.clone();
    larger[5] += 8;
    let error = refused("a.txt.zst", &larger);
    assert!(error.to_string().contains("needs 4096 MiB of memory to be decompressed (zstd), more than 2048"));
    assert!(!error.hint().unwrap().contains("fetch"));

    let error =
        refused("a.txt.zst", b"\x28\xb5\x2f\xfd\x07\x58\x5a\xf2\xb9\x4a\x31\x00\x00words\n\x09\x99\x8a\x3e");
    assert!(error.to_string().ends_with("is zstd data that was compressed with a dictionary"), "{error}");
    assert!(error.hint().unwrap().contains("zstd -D DICTIONARY -d"));

    let whole = zstandard(b"one\ntwo\n");
    let parts = [skippable(b"x"), whole.clone(), skippable(b""), whole.clone(), skippable(b"end")].concat();
    let got = read("a.txt.zst", &parts);
    assert_eq!(got.texts, ["one", "two", "one", "two"]);
    let layer = &got.decoding.compression[0];
    assert_eq!((layer.parts, layer.skippable), (2, 3));
    assert!(read("a.txt.zst", &skippable(b"nothing else")).texts.is_empty());
    assert_eq!(
        read("a.txt.zst", &[whole.as_slice(), &[0; 3]].concat()).decoding.compression[0].padding_bytes,
        3
    );
    for cut in 5..whole.len() {
        assert_eq!(fault("a.txt.zst", &whole[..cut]), Fault::CutOff, "{cut}");
    }
    let mut spoilt = whole.clone();
    *spoilt.last_mut().unwrap() ^= 1;
    assert!(matches!(fault("a.txt.zst", &spoilt), Fault::Damaged(_)));
    assert!(fault("a.txt.zst", &[&whole, &b"rest"[..]].concat()).to_string().contains("not a zstd frame"));
}

#[test]
fn content_decides_where_the_ending_says_something_else() {
    let got = read("a.txt.gz", b"plain\n");
    assert_eq!(got.texts, ["plain"]);
    assert!(got.decoding.warnings()[0].contains("is not compressed, although its name says so"));
    assert_eq!(read("a.txt", &gzip(b"x\n")).texts, ["x"]);
    assert_eq!(read("a.txt.gz", &zstandard(b"x\n")).texts, ["x"]);
    let error = refused("a.txt.gz", b"\x8b\xff\x00\x01").to_string();
    assert!(error.contains("is damaged gzip data: it does not begin as such data does"), "{error}");
    let error = refused("a.parquet", b"text\n").to_string();
    assert!(error.contains("does not begin with `PAR1`"), "{error}");
}

#[test]
fn what_is_no_text_is_named_with_a_way_out() {
    for (bytes, what, hint) in [
        (&b"PK\x03\x04\x14\0\0\0"[..], "a zip archive", "unzip"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "a 7z archive", "7z x"),
        (b"\x04\x22\x4d\x18\x64\x40\xa7", "lz4 data", "lz4 -d"),
        (b"ARROW1\0\0\xff\xff\xff\xff", "an Arrow file", "to_parquet"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document", "pdftotext"),
        (b"SQLite format 3\0\x10", "an SQLite database", "sqlite3"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", "git lfs pull"),
    ] {
        let error = refused("a.txt", bytes);
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
        // Also inside a compression, and in an archive.
        assert!(refused("a.txt.gz", &gzip(bytes)).to_string().contains(what));
        assert!(refused("a.tar", &archive(&[("a.txt", bytes)])).to_string().contains(what));
    }
    let error = refused("a.txt", b"ab\0cd\n").to_string();
    assert!(error.ends_with("is not text: byte 3 is a NUL"), "{error}");
}
