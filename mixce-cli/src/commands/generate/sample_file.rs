//! A file of samples that is written batch by batch and can be resumed.
//!
//! While incomplete it is called `.NAME.partial` and has one JSON object per line. A kill leaves whole batches and perhaps a partial
//! one, which is dropped on resuming.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mixce_base::files::write_atomic;
use mixce_lm::generate::Finish;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::files;

/// A sample; the output of `--json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    /// The number of the sample, or of the document it continues.
    pub(super) index: u64,
    pub(super) prompt: String,
    /// The continuation.
    pub(super) text: String,
    /// Its tokens.
    pub(super) tokens: Vec<u32>,
    pub(super) seed: u64,
    pub(super) finish: Finish,
}

/// A file of samples, complete or not.
#[derive(Debug)]
pub(super) struct SampleFile {
    path: PathBuf,
    partial: PathBuf,
    file: Option<File>,
    samples: Vec<Sample>,
}

impl SampleFile {
    /// Opens the file that will become `path`, with the samples written so far: all, or whole batches.
    ///
    /// The samples must match `expected`: document numbers in order, and the seed.
    pub(super) fn open(path: PathBuf, expected: &[u64], seed: u64, batch_size: usize) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let partial = path.with_file_name(format!(".{name}.partial"));
        let complete = path.is_file();
        // What is written goes to a file of our own and not to where a link of this name leads.
        if fs::symlink_metadata(&partial).is_ok_and(|found| !found.is_file()) {
            let problem =
                Problem::new(format!("`{}` is in the way: expected a regular file", partial.display()));
            return Err(problem.hint("remove it, or choose another `--out`").into());
        }
        let source = if complete { &path } else { &partial };
        let mut samples = if source.is_file() { read(source)? } else { Vec::new() };
        if !complete {
            samples.truncate(samples.len() / batch_size * batch_size);
        }
        let fits = |(sample, index): (&Sample, &u64)| (sample.index, sample.seed) == (*index, seed);
        let fit = samples.len() <= expected.len() && samples.iter().zip(expected).all(fits);
        if !fit || (complete && samples.len() < expected.len()) {
            let problem = Problem::new(format!("`{}` contains samples of another run", source.display()));
            return Err(problem.hint("remove the file, or choose another `--out`").into());
        }
        let mut file = Self { path, partial, file: None, samples };
        if !complete {
            let whole: String = file.samples.iter().map(line).collect::<Result<_>>()?;
            write_atomic(&file.partial, whole.as_bytes())?;
            let mut options = File::options();
            options.append(true);
            files::follow_no_link(&mut options);
            file.file = Some(options.open(&file.partial).with_context(|| file.cannot_write())?);
        }
        Ok(file)
    }

    fn cannot_write(&self) -> String {
        format!("cannot write `{}`", self.partial.display())
    }

    /// The samples so far.
    pub(super) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Appends a batch of samples and flushes it.
    pub(super) fn add(&mut self, samples: Vec<Sample>) -> Result<()> {
        let lines: String = samples.iter().map(line).collect::<Result<_>>()?;
        let cannot = self.cannot_write();
        let file = self.file.as_mut().context("the file is complete")?;
        file.write_all(lines.as_bytes()).with_context(|| cannot)?;
        self.samples.extend(samples);
        Ok(())
    }

    /// Renames the complete file into place.
    pub(super) fn finish(mut self) -> Result<Vec<Sample>> {
        if let Some(file) = self.file.take() {
            file.sync_all().with_context(|| self.cannot_write())?;
            fs::rename(&self.partial, &self.path)
                .with_context(|| format!("cannot write `{}`", self.path.display()))?;
        }
        Ok(self.samples)
    }
}

fn line(sample: &Sample) -> Result<String> {
    Ok(serde_json::to_string(sample).context("cannot serialize a sample as JSON")? + "\n")
}

/// The samples of a file, up to the first invalid line.
fn read(path: &Path) -> Result<Vec<Sample>> {
    let text = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = text[..whole].split(|byte| *byte == b'\n');
    Ok(lines.map_while(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(indices: std::ops::Range<u64>) -> Vec<Sample> {
        let sample = |index| Sample {
            index,
            prompt: "a".into(),
            text: " b\n".into(),
            tokens: vec![1, 2],
            seed: 7,
            finish: Finish::Eos,
        };
        indices.map(sample).collect()
    }

    #[test]
    fn it_goes_on_after_the_last_whole_batch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dev.sample.jsonl");
        let open = || SampleFile::open(path.clone(), &[0, 1, 2, 3, 4], 7, 2);
        let mut file = open().unwrap();
        file.add(samples(0..2)).unwrap();
        file.add(samples(2..3)).unwrap();
        drop(file);
        let partial = folder.path().join(".dev.sample.jsonl.partial");
        let mut torn = fs::read(&partial).unwrap();
        torn.extend_from_slice(b"{\"index\":3,\"pro");
        fs::write(&partial, torn).unwrap();

        let mut file = open().unwrap();
        assert_eq!(file.samples(), samples(0..2));
        file.add(samples(2..5)).unwrap();
        assert_eq!(file.finish().unwrap(), samples(0..5));
        assert!(!partial.exists());
        let whole = fs::read(&path).unwrap();
        assert_eq!(open().unwrap().finish().unwrap(), samples(0..5));
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn samples_of_another_run_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.jsonl");
        let mut file = SampleFile::open(path.clone(), &[0, 1], 7, 1).unwrap();
        file.add(samples(0..2)).unwrap();
        file.finish().unwrap();
        for (expected, seed) in [(&[0, 1][..], 8), (&[0, 2], 7), (&[0], 7), (&[0, 1, 2], 7)] {
            let error = SampleFile::open(path.clone(), expected, seed, 1).unwrap_err();
            assert!(error.to_string().contains("another run"), "{error}");
        }
    }
}
