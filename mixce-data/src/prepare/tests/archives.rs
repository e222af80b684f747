//! Sources that are archives.
use std::io::Write;

use mixce_base::Hint as _;

use super::*;

/// A tar archive of these members; a name that ends in `/` is a folder's.
fn archive(members: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in members {
        let mut header = tar::Header::new_gnu();
        // Written as it is: the builder refuses the names that a hostile archive has.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        header.set_cksum();
        builder.append(&header, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn find_archive(name: &str, bytes: &[u8]) -> (tempfile::TempDir, Result<Source>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let found = find(&path, Collection::Text, None, &ReadSettings::default());
    (folder, found)
}

#[test]
fn members_of_one_name_in_several_folders_are_all_kept() {
    let members = [
        ("corpus/train/part-0.txt", "a\nb\n"),
        ("corpus/train/part-1.txt", "c\n"),
        ("./corpus/valid/part-0.txt", "d\n"),
        ("corpus/test/part-0.txt", "e\n"),
        ("corpus/test/Part-0.txt", "f\n"),
    ];
    let bytes = archive(&members);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let packed = zstd::encode_all(bytes.as_slice(), 1).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&bytes).unwrap();
    for (name, bytes) in [
        ("c.tar", bytes.clone()),
        ("c.tgz", gzip.finish().unwrap()),
        ("c.tar.zst", packed),
        ("c.tar.bz2", bzip2.finish().unwrap()),
    ] {
        let (folder, found) = find_archive(name, &bytes);
        let found = found.unwrap();
        assert_eq!(texts(&found), [vec!["a", "b", "c"], vec!["d"], vec!["f", "e"]], "{name}");
        assert_eq!(reasons(&found), [""; 0]);
        let test = found.splits[2].as_ref().unwrap().files();
        assert_eq!(test[1], folder.path().join(name).join("corpus/test/part-0.txt"));
    }
    // Without a word of a split all are the training split, whatever their folders.
    let silent = archive(&[("x/1.txt", "a\n"), ("y/1.txt", "b\n"), ("z/y/1.txt", "c\n")]);
    assert_eq!(texts(&find_archive("c.tar", &silent).1.unwrap())[0], ["a", "b", "c"]);
}

#[test]
fn members_that_are_not_used_are_named() {
    let first = archive(&[
        ("c/train.txt", "old\n"),
        ("c/._train.txt", "x"),
        ("__MACOSX/c/train.txt", "x"),
        ("c/.cache/train.txt", "x"),
        ("c/README", "x"),
        ("c/more.tar.gz", "x"),
        ("c/train.txt", "new\n"),
    ]);
    // An archive ends in two empty blocks.
    let mut builder = tar::Builder::new(first[..first.len() - 1024].to_vec());
    for (kind, name) in [(tar::EntryType::Link, "c/train-2.txt"), (tar::EntryType::Symlink, "c/train-3.txt")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, name, "c/train.txt").unwrap();
    }
    let (_folder, found) = find_archive("c.tar", &builder.into_inner().unwrap());
    let found = found.unwrap();
    // A hard link is the same file once more, as it was stored.
    assert_eq!(texts(&found)[0], ["new", "new"]);
    assert_eq!(
        reasons(&found),
        [
            "c/._train.txt: made by macOS beside the real files",
            "__MACOSX/c/train.txt: made by macOS beside the real files",
            "c/.cache/train.txt: hidden",
            "c/README: its name ends as no data file's does",
            "c/more.tar.gz: an archive inside the source",
            "c/train.txt: a later member of the archive has the same name",
            "c/train-3.txt: a link inside the archive",
        ]
    );
}

#[test]
fn archives_that_lead_out_or_cannot_be_read_are_refused() {
    for name in ["../train.txt", "a/../../train.txt", "/tmp/train.txt"] {
        let error = find_archive("c.tar", &archive(&[(name, "x\n")])).1.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("outside the target folder"), "{error}");
    }
    let error = find_archive("c.zip", b"PK\x03\x04").1.unwrap_err();
    assert!(
        error.to_string().contains("zip") && error.hint().unwrap().contains("unpack it first"),
        "{error}"
    );
    let error = find_archive("c.tar.xz", b"\xfd7zXZ\0").1.unwrap_err();
    assert!(matches!(error, Error::Compressed { kind: "xz", .. }), "{error}");
    let error = find_archive("c.tar", b"a text\n").1.unwrap_err();
    assert!(error.to_string().contains("it is not a tar archive"), "{error}");
    let cut = &archive(&[("train.txt", &"x".repeat(2000))])[..1500];
    let error = find_archive("c.tar", cut).1.unwrap_err();
    assert!(matches!(error, Error::Archive { .. }), "{error}");
}

#[test]
fn errors_name_the_member_and_not_the_unpacked_copy() {
    let (folder, found) = find_archive("c.tar", &archive(&[("corpus/train.jsonl", "{\"text\":1}\n")]));
    let found = found.unwrap();
    let error = found.splits[0].as_ref().unwrap().documents().next().unwrap().unwrap_err().to_string();
    let shown = folder.path().join("c.tar/corpus/train.jsonl");
    assert!(error.contains(&format!("`{}` line 1", shown.display())), "{error}");
}
