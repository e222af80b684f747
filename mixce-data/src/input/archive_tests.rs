//! Archives, folders, patterns and standard input: what is read, and what is reported as skipped.
use std::path::{Path, PathBuf};

use super::test_files::{archive, fault, gzip, header, read, refused, utf16le, xz, zstandard};
use super::*;
use crate::error::{Error, Fault};

#[test]
fn members_of_archives_are_read_in_order_and_the_others_named() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/deep.txt", "folder".repeat(30));
    for (name, text) in [
        ("b/x.txt", "1\n2\n"),
        ("a/x.txt", "3\n"),
        ("a/._x.txt", "junk"),
        (long.as_str(), "4\n"),
        ("c.jsonl", "{\"text\":\"5\"}\n"),
        ("void.txt", ""),
    ] {
        let mut header = header("x", tar::EntryType::Regular, text.len());
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.append(&header("d/", tar::EntryType::Directory, 0), std::io::empty()).unwrap();
    let mut link = header("l.txt", tar::EntryType::Symlink, 0);
    link.set_link_name("a/x.txt").unwrap();
    link.set_cksum();
    builder.append(&link, std::io::empty()).unwrap();
    let bytes = builder.into_inner().unwrap();
    for (name, bytes) in [
        ("c.tar", bytes.clone()),
        ("c.tgz", gzip(&bytes)),
        ("c.tar.zst", zstandard(&bytes)),
        ("odd", xz(&bytes)),
    ] {
        let got = read(name, &bytes);
        assert_eq!(got.texts, ["1", "2", "3", "4", "5"], "{name}");
        let archive = got.decoding.archive.as_ref().unwrap();
        assert_eq!((archive.members, archive.not_used, got.decoding.documents), (5, 3, 5));
        assert!(archive.used[0].path.ends_with("b/x.txt") && archive.used[2].path.ends_with(&long));
        assert_eq!(archive.used[3].format, Some(Format::JsonLines));
        let reasons: Vec<&str> = archive.unused.iter().map(|unused| unused.reason.as_str()).collect();
        assert_eq!(reasons, ["hidden", "a folder", "a link to `a/x.txt`"]);
        let warnings = got.decoding.warnings().join("\n");
        assert!(
            warnings.contains("5 members are read, these are not: `a/._x.txt` (hidden), `l.txt`"),
            "{warnings}"
        );
        assert!(warnings.contains("void.txt` holds no documents"), "{warnings}");
    }
    // One archive after another, and one without its end.
    let one = archive(&[("a.txt", b"a\n")]);
    assert_eq!(read("c.tar", &[one.clone(), bytes.clone()].concat()).texts.len(), 6);
    let unended = read("c.tar", &one[..1024]);
    assert!(unended.decoding.warnings()[0].contains("it may be truncated"));
    assert_eq!(fault("c.tar", &one[..513]), Fault::CutOff);
    assert_eq!(fault("c.tar", &one[..1000]), Fault::CutOff);
    let trailing = read("c.tar", &[one.as_slice(), b"rest"].concat());
    assert!(trailing.decoding.warnings()[0].contains("4 bytes after the end of the archive are ignored"));
    let mut spoilt = bytes.clone();
    spoilt[1024] ^= 1;
    assert!(matches!(fault("c.tar", &spoilt), Fault::Damaged(_)));
    let nested = refused("c.tar", &archive(&[("inner.tar", &one)])).to_string();
    assert!(nested.contains("nested archives"), "{nested}");
    let error = refused("c.tar", &archive(&[("a/bad.txt", b"x\n\xff\n")])).to_string();
    assert!(error.contains("c.tar/a/bad.txt` line 2"), "{error}");
}

#[test]
fn extended_headers_name_members() {
    let mut builder = tar::Builder::new(Vec::new());
    let name = format!("long\nname {}.jsonl", "n".repeat(120));
    builder.append_pax_extensions([("path", name.as_bytes()), ("comment", &b"a=b"[..])]).unwrap();
    let text = b"{\"text\":\"x\"}\n";
    builder.append(&header("short.txt", tar::EntryType::Regular, text.len()), &text[..]).unwrap();
    let got = read("a.tar", &builder.into_inner().unwrap());
    assert_eq!(got.texts, ["x"]);
    assert!(got.decoding.archive.unwrap().used[0].path.ends_with(&name));
}

/// Folders and patterns: what is read, and what is not.
#[test]
fn folders_and_patterns_name_what_they_leave_out() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path: PathBuf = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for (name, text) in [
        ("b.txt", "2\n"),
        ("a/z.txt", "1\n"),
        (".hidden.txt", "no\n"),
        ("c.jsonl", "{\"text\":\"3\"}\n"),
        (".git/x.txt", "no\n"),
        ("d.txt", ""),
    ] {
        write(name, text);
    }
    let open = |name: &Path| Input::open(&[name], ReadSettings::default());
    let texts = |input: &Input| -> Vec<String> { input.documents().map(|d| d.unwrap().text).collect() };
    let reasons = |input: &Input| -> Vec<String> {
        let mut all: Vec<String> = input
            .unused()
            .iter()
            .map(|unused| format!("{} {}", unused.path.file_name().unwrap().to_string_lossy(), unused.reason))
            .collect();
        all.sort();
        all
    };
    let whole = open(folder.path()).unwrap();
    assert_eq!(texts(&whole), ["1", "2", "3"]);
    assert_eq!(reasons(&whole), [".git hidden", ".hidden.txt hidden"]);
    let pattern = open(&folder.path().join("*")).unwrap();
    assert_eq!(texts(&pattern), ["2", "3"]);
    assert_eq!(reasons(&pattern), [".git hidden", ".hidden.txt hidden", "a a folder"]);
    let deep = open(&folder.path().join("**/*.txt")).unwrap();
    assert_eq!(texts(&deep), ["1", "2"]);
    assert_eq!(texts(&open(&folder.path().join(".hid*")).unwrap()), ["no"]);
    assert!(open(&folder.path().join(".git")).is_ok());
    let error = open(&folder.path().join("a/*.csv")).unwrap_err();
    assert!(matches!(error, Error::NoMatch { reason: None, .. }), "{error}");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(folder.path(), folder.path().join("up")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("gone.txt")).unwrap();
        let whole = open(folder.path()).unwrap();
        assert_eq!(texts(&whole), ["1", "2", "3"]);
        let all = reasons(&whole).join("\n");
        assert!(all.contains("up a link to a folder") && all.contains("gone.txt a broken link"), "{all}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(open(empty.path()).unwrap_err().to_string().contains("holds no files that could be read"));
}

#[test]
fn standard_input_is_decoded_like_files() {
    let from = |bytes: &[u8]| -> (Vec<Format>, Vec<String>) {
        let input = Input::open_with_stdin(&["-"], ReadSettings::default(), &mut &bytes[..]).unwrap();
        (input.formats(), input.documents().map(|d| d.unwrap().text).collect())
    };
    assert_eq!(from(&utf16le("\u{feff}{\"text\":\"a\"}\n")), (vec![Format::JsonLines], vec!["a".into()]));
    assert_eq!(from(&xz(&archive(&[("a.jsonl", b"{\"text\":\"b\"}\n")]))), (vec![], vec!["b".into()]));
}
