//! Test files, compressed, archived and encoded, and helpers to read them.
use std::io::Write;

use bzip2::write::BzEncoder;
use lzma_rust2::{XzOptions, XzWriter};

use super::*;
use crate::error::{Error, Fault};

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstandard(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn header(name: &str, kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

pub(super) fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = header("x", tar::EntryType::Regular, bytes.len());
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(super) fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

pub(super) struct Read {
    pub(super) texts: Vec<String>,
    pub(super) lines: Vec<u64>,
    pub(super) decoding: Decoding,
}

pub(super) fn read_as(name: &str, bytes: &[u8], settings: ReadSettings) -> Result<Read> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let input = Input::open(&[path], settings)?;
    let mut documents = input.documents();
    let (mut texts, mut lines) = (Vec::new(), Vec::new());
    for document in documents.by_ref() {
        let document = document?;
        lines.push(document.place.number());
        texts.push(document.text);
    }
    Ok(Read { texts, lines, decoding: documents.decodings()[0].clone() })
}

pub(super) fn read(name: &str, bytes: &[u8]) -> Read {
    read_as(name, bytes, ReadSettings::default()).unwrap()
}

pub(super) fn refused(name: &str, bytes: &[u8]) -> Error {
    match read_as(name, bytes, ReadSettings::default()) {
        Ok(read) => panic!("{name} gave {:?}", read.texts),
        Err(error) => error,
    }
}

pub(super) fn fault(name: &str, bytes: &[u8]) -> Fault {
    match refused(name, bytes) {
        Error::Compressed { fault, .. } => fault,
        other => panic!("{other}"),
    }
}
