//! Samples continuations of documents, file by file and batch by batch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::ProgressBar;
use mixce_base::files::AtomicFile;
use mixce_lm::generate::{GenerateOptions, generate};
use mixce_lm::sampling::Sampling;
use mixce_lm::{Decoder, Tokenizer};
use mixce_train::distributed::{Communicator, deal, lead};

use super::documents::Document;
use super::sample_file::{Sample, SampleFile};
use crate::error::Problem;
use crate::ranks;

/// One pass over all documents with one sampling method.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) sampling: Sampling,
    pub(super) run: usize,
    pub(super) seed: u64,
    /// The text file; the JSON lines are in a file of this name plus `.jsonl`.
    pub(super) path: PathBuf,
}

impl Job {
    fn jsonl(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".jsonl");
        name.into()
    }
}

/// What all jobs share.
pub(super) struct Sampler<'a> {
    pub(super) documents: &'a [Document],
    pub(super) prompt_tokens: usize,
    pub(super) batch_size: usize,
    pub(super) decoder: &'a dyn Decoder,
    pub(super) tokenizer: &'a Tokenizer,
    /// The tokens that end a sample.
    pub(super) ends: &'a [u32],
    pub(super) ranks: &'a dyn Communicator,
}

impl Sampler<'_> {
    /// All samples of a file, the existing ones and the missing ones, on rank 0, which writes; `None` on the others.
    ///
    /// The batches are those of one process, and dealt to the ranks in turn.
    pub(super) fn samples(&self, job: &Job, bar: &ProgressBar) -> Result<Option<Vec<Sample>>> {
        let indices: Vec<u64> = self.documents.iter().map(|document| document.index).collect();
        let open = || SampleFile::open(job.jsonl(), &indices, job.seed, self.batch_size);
        let mut file = lead(self.ranks, open)?;
        let existing = || Ok(file.as_ref().map_or(0, |file| file.samples().len()));
        let mut done = ranks::from_first(self.ranks, existing)?;
        crate::progress::set_message(bar, &job.path.file_name().unwrap_or_default().to_string_lossy());
        bar.inc(done as u64);
        bar.reset_eta();
        let batches: Vec<&[Document]> = self.documents[done..].chunks(self.batch_size).collect();
        for round in batches.chunks(self.ranks.size()) {
            if ranks::is_stopped(self.ranks)? {
                let (all, path) = (indices.len(), job.path.display());
                let problem = format!("interrupted: {done} of {all} samples of `{path}`");
                return Err(Problem::interrupted(problem)
                    .hint("continue with the same command and `--resume`")
                    .into());
            }
            let draw =
                |batch: &&[Document]| -> Result<_> { Ok(serde_json::to_vec(&self.batch(batch, job, bar)?)?) };
            let drawn = deal(self.ranks, round, draw)?;
            done += round.iter().map(|batch| batch.len()).sum::<usize>();
            if let Some(file) = &mut file {
                for samples in drawn {
                    file.add(serde_json::from_slice(&samples)?)?;
                }
                // The others' samples, too.
                bar.inc(round[1..].iter().map(|batch| batch.len() as u64).sum());
            }
        }
        let finish = || {
            let Some(file) = file else { return Ok(None) };
            self.write_text(&job.path, file.samples())?;
            file.finish().map(Some)
        };
        Ok(lead(self.ranks, finish)?.flatten())
    }

    fn batch(&self, batch: &[Document], job: &Job, bar: &ProgressBar) -> Result<Vec<Sample>> {
        let opening = self.tokenizer.opening();
        let prompt_of = |document: &Document| -> Vec<u32> {
            opening.into_iter().chain(document.tokens[..self.prompt_tokens].iter().copied()).collect()
        };
        let prompts: Vec<Vec<u32>> = batch.iter().map(prompt_of).collect();
        // Documents are batched with others of the same maximum length.
        let mut by_length: BTreeMap<usize, Vec<(u64, &[u32])>> = BTreeMap::new();
        for (document, prompt) in batch.iter().zip(&prompts) {
            by_length.entry(document.length_tokens).or_default().push((document.index, prompt));
        }
        let mut samples = Vec::with_capacity(batch.len());
        for (length_tokens, prompts) in by_length {
            let options = GenerateOptions {
                sampling: job.sampling.clone(),
                max_new_tokens: length_tokens - self.prompt_tokens,
                eos: self.ends.to_vec(),
                batch_size: self.batch_size,
                seed: job.seed,
            };
            let drawn = generate(self.decoder, &prompts, &options, &mut |ended, _| bar.inc(ended as u64))?;
            for (continuation, (index, prompt)) in drawn.into_iter().zip(prompts) {
                samples.push(Sample {
                    index,
                    prompt: self.tokenizer.decode_plain(prompt)?,
                    text: self.tokenizer.decode_plain(&continuation.tokens)?,
                    tokens: continuation.tokens,
                    seed: job.seed,
                    finish: continuation.finish,
                });
            }
        }
        samples.sort_by_key(|sample| sample.index);
        Ok(samples)
    }

    /// One text per line. Prompt and continuation are decoded together, because a character may span the boundary.
    fn write_text(&self, path: &Path, samples: &[Sample]) -> Result<()> {
        let mut file = AtomicFile::create(path)?;
        for (sample, document) in samples.iter().zip(self.documents) {
            let tokens = [&document.tokens[..self.prompt_tokens], &sample.tokens].concat();
            file.put((one_line(&self.tokenizer.decode_plain(&tokens)?) + "\n").as_bytes())?;
        }
        Ok(file.finish()?)
    }
}

/// Replaces line breaks with spaces, as in the authors' files.
pub(super) fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
