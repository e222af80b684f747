//! TensorBoard event files with scalars. The format is small enough to write by hand.
//!
//! A file is a sequence of records: length (`u64`), masked CRC-32C of those 8 bytes, data, masked CRC-32C of the data; all little-endian
//! (TFRecord, `tensorflow/core/lib/io/record_writer.h`). The data is a protocol buffer `Event`
//! (`tensorflow/core/util/event.proto`): `wall_time` = 1 (double), `step` = 2 (int64), `file_version` = 3 (string), `summary` = 5,
//! `session_log` = 7. A `Summary` holds `value` = 1, each with `tag` = 1 (string) and `simple_value` = 2 (float).
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::observer::{EvaluationReport, RunPlan, StepReport, TrainObserver};

/// Prefix of event file names.
const PREFIX: &str = "events.out.tfevents.";

/// Appends scalars to an event file, which is created by its first event.
#[derive(Debug)]
pub struct TensorBoardWriter {
    path: PathBuf,
    file: Option<File>,
}

impl TensorBoardWriter {
    /// A writer for `events.out.tfevents.SECONDS.PID` in `folder`, which is not created yet.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let seconds = seconds_since_epoch() as u64;
        let path = folder.join(format!("{PREFIX}{seconds:010}.{}", std::process::id()));
        Self { path, file: None }
    }

    /// The event file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends scalars of one step.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | WIRE_32_BIT);
            entry.extend_from_slice(&(*value as f32).to_le_bytes());
            put_bytes(&mut summary, 1, &entry);
        }
        let mut event = event_head(step);
        put_bytes(&mut event, 5, &summary);
        self.write_record(&event)
    }

    /// Whether the folder already has an event file, such as that of a run killed before its first checkpoint.
    fn has_older_file(&self) -> Result<bool> {
        let Some(folder) = self.path.parent().filter(|folder| folder.is_dir()) else { return Ok(false) };
        for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
            let entry = entry.map_err(Error::io("read", folder))?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells TensorBoard that the run restarts at `step`, which invalidates later points of older files.
    fn restart(&mut self, step: u64) -> Result<()> {
        let mut event = event_head(step);
        // SessionLog { status: START }.
        put_bytes(&mut event, 7, &[1 << 3 | WIRE_VARINT, 1]);
        self.write_record(&event)
    }

    fn write_record(&mut self, data: &[u8]) -> Result<()> {
        let path = &self.path;
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                let file = none.insert(file.map_err(Error::io("create", path))?);
                let mut version = event_head(0);
                put_bytes(&mut version, 3, b"brain.Event:2");
                file.write_all(&record(&version)).map_err(Error::io("write", path))?;
                file
            }
        };
        file.write_all(&record(data)).map_err(Error::io("write", path))
    }
}

/// Length, its checksum, data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc32c(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked_crc32c(data).to_le_bytes());
    record
}

impl TrainObserver for TensorBoardWriter {
    fn on_start(&mut self, plan: &RunPlan) -> Result<()> {
        if plan.steps_done > 0 || self.has_older_file()? { self.restart(plan.steps_done + 1) } else { Ok(()) }
    }

    fn on_log(&mut self, report: &StepReport) -> Result<()> {
        let scalars = [
            ("train/loss", report.loss),
            ("train/nll", report.nll),
            ("train/mean_weight", report.mean_weight),
            ("train/lr", report.lr),
            ("train/grad_norm", report.grad_norm),
            ("train/tokens_per_s", report.tokens_per_s),
        ];
        self.scalars(report.step, &scalars)
    }

    fn on_evaluation(&mut self, report: &EvaluationReport) -> Result<()> {
        let scalars = [
            ("valid/loss", report.valid_loss),
            ("valid/nll", report.valid_nll),
            ("valid/potential", report.valid_potential),
            ("valid/perplexity", report.valid_perplexity),
        ];
        let scalars: Vec<(&str, f64)> =
            scalars.into_iter().chain(report.valid_mauve.map(|score| ("valid/mauve", score))).collect();
        self.scalars(report.step, &scalars)
    }
}

const WIRE_VARINT: u8 = 0;
const WIRE_64_BIT: u8 = 1;
const WIRE_BYTES: u8 = 2;
const WIRE_32_BIT: u8 = 5;

fn seconds_since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// `wall_time` and `step`.
fn event_head(step: u64) -> Vec<u8> {
    let mut event = vec![1 << 3 | WIRE_64_BIT];
    event.extend_from_slice(&seconds_since_epoch().to_le_bytes());
    event.push(2 << 3 | WIRE_VARINT);
    put_varint(&mut event, step);
    event
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length-delimited field; field numbers up to 15.
fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | WIRE_BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// CRC-32C rotated right by 15 and shifted by a constant, as TFRecord stores it.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli; reflected polynomial `0x82f63b78`), bit by bit: records are a few hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::super::jsonl::tests::{evaluation, plan, step};
    use super::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn crc32c_has_its_published_values() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }

    /// All fields of a message: number and raw content (varints as 8 bytes).
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    found.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            let (content, rest) = bytes.split_at(length);
            found.push((key >> 3, content.to_vec()));
            bytes = rest;
        }
        found
    }

    /// Reads a file back: step, then tag and value of each scalar.
    fn read(path: &Path) -> Vec<(u64, Vec<(String, f32)>)> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(masked_crc32c(&rest[..8]).to_le_bytes(), rest[8..12]);
            let data = &rest[12..12 + length];
            assert_eq!(masked_crc32c(data).to_le_bytes(), rest[12 + length..16 + length]);
            rest = &rest[16 + length..];
            let mut event = (0, Vec::new());
            for (field, content) in fields(data) {
                match field {
                    2 => event.0 = u64::from_le_bytes(content.try_into().unwrap()),
                    5 => {
                        for (_, value) in fields(&content) {
                            let parts = fields(&value);
                            let tag = String::from_utf8(parts[0].1.clone()).unwrap();
                            let value = f32::from_le_bytes(parts[1].1.clone().try_into().unwrap());
                            event.1.push((tag, value));
                        }
                    }
                    _ => {}
                }
            }
            events.push(event);
        }
        events
    }

    #[test]
    fn a_start_beside_an_older_file_voids_its_steps() {
        let folder = tempfile::tempdir().unwrap();
        let mut fresh = TensorBoardWriter::new(folder.path());
        fresh.on_start(&plan(0)).unwrap();
        assert!(!fresh.path().exists(), "a first run has nothing to void");
        std::fs::write(folder.path().join("events.out.tfevents.0000000001.1"), "").unwrap();
        fresh.on_start(&plan(0)).unwrap();
        let events = read(fresh.path());
        assert_eq!(events, [(0, Vec::new()), (1, Vec::new())]);
    }

    #[test]
    fn scalars_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TensorBoardWriter::new(folder.path());
        writer.on_log(&step(300)).unwrap();
        writer.on_evaluation(&evaluation(301)).unwrap();
        let events = read(writer.path());
        assert_eq!(events.len(), 3);
        assert_eq!(events[1].0, 300);
        assert!(events[1].1.contains(&("train/nll".into(), 1.25)));
        assert_eq!(events[2].1[1], ("valid/nll".into(), 1.0));
        assert_eq!(events[2].1[2], ("valid/potential".into(), 0.75));
    }
}
