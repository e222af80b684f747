//! Batched sampling of continuations.

use candle_core::Tensor;
use mixce_kernels::all_finite;
use mixce_kernels::rng::{Stream, purpose};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::sampling::Sampling;

/// What to sample and when to stop.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Maximum number of new tokens; fewer if the model's context length is reached.
    pub max_new_tokens: usize,
    /// The tokens that end a text; not part of the continuation.
    pub eos: Vec<u32>,
    /// Sequences per batch. Affects memory; the texts do not depend on it (up to rounding in the logits).
    pub batch_size: usize,
    /// Seed of the samples; sample number `i` draws from its own stream.
    pub seed: u64,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model chose an end-of-text token.
    Eos,
    /// The token limit or the model's context length was reached.
    Length,
}

/// One sampled continuation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// The number of the sample.
    pub index: u64,
    /// The new tokens, without the prompt and without the end-of-text token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A sequence in progress.
struct Sequence {
    slot: usize,
    index: u64,
    stream: Stream,
    tokens: Vec<u32>,
    limit: usize,
}

impl Sequence {
    /// Chooses the next token; `Some` when that ends the sequence.
    fn step(&mut self, logits: &[f32], options: &GenerateOptions) -> Result<Option<Finish>> {
        if self.tokens.len() >= self.limit {
            return Ok(Some(Finish::Length));
        }
        if !all_finite(logits) {
            return Err(Error::BrokenLogits { sample: self.index, tokens: self.tokens.len() });
        }
        let token = options.sampling.choose(logits, self.stream.uniform(self.tokens.len() as u64));
        if options.eos.contains(&token) {
            return Ok(Some(Finish::Eos));
        }
        self.tokens.push(token);
        Ok((self.tokens.len() >= self.limit).then_some(Finish::Length))
    }
}

/// Samples a continuation for every prompt, `(index, token ids)`, and returns them in the order of the prompts.
///
/// The stream of a sample is `Stream::new(seed).fold(purpose::SAMPLING).fold(index)` and number `t` of it chooses token `t`, so
/// a sample depends only on model, prompt, seed and index. `progress` is called with the number of finished samples and of
/// new tokens since the last call. Finished sequences are removed from the batch.
///
/// # Errors
/// When a prompt is empty, too long or holds an unknown token, a sampling parameter is out of range, the model's logits are not
/// finite, or a tensor operation fails.
pub fn generate(
    model: &dyn Decoder,
    prompts: &[(u64, &[u32])],
    options: &GenerateOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Continuation>> {
    options.sampling.validate()?;
    if let Some((prompt, _)) = prompts.iter().find(|(_, ids)| ids.is_empty()) {
        return Err(Error::EmptyPrompt { prompt: *prompt });
    }
    let mut results = vec![None; prompts.len()];
    let batch_size = options.batch_size.max(1);
    for (chunk, results) in prompts.chunks(batch_size).zip(results.chunks_mut(batch_size)) {
        generate_batch(model, chunk, options, results, progress)?;
    }
    Ok(results.into_iter().flatten().collect())
}

fn generate_batch(
    model: &dyn Decoder,
    prompts: &[(u64, &[u32])],
    options: &GenerateOptions,
    results: &mut [Option<Continuation>],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let texts: Vec<&[u32]> = prompts.iter().map(|(_, ids)| *ids).collect();
    let batch = model.pack(&texts)?;
    let root = Stream::new(options.seed).fold(purpose::SAMPLING);
    let positions = model.spec().positions;
    let start = |(slot, (index, ids)): (usize, &(u64, &[u32]))| Sequence {
        slot,
        index: *index,
        stream: root.fold(*index),
        tokens: Vec::new(),
        limit: options.max_new_tokens.min(positions - ids.len()),
    };
    let mut sequences: Vec<Sequence> = prompts.iter().enumerate().map(start).collect();
    let room = sequences.iter().map(|s| s.limit).max().unwrap_or(0);
    let (mut hidden, mut cache) = in_pool(|| model.prefill(&batch, room))?;
    let mut logits = Vec::new();
    loop {
        let finished = in_pool(|| choose_tokens(model, &hidden, &mut logits, &mut sequences, options))?;
        let ended = finished.iter().flatten().count();
        progress(ended, sequences.len());
        if ended > 0 {
            retire(&mut sequences, &finished, &mut cache, results)?;
        }
        if sequences.is_empty() {
            return Ok(());
        }
        let ids: Vec<u32> = sequences.iter().filter_map(|s| s.tokens.last().copied()).collect();
        hidden = in_pool(|| model.decode(&ids, &mut cache))?;
    }
}

/// Runs `f` on a thread of the rayon pool, so that its many short parallel loops avoid the latency of waking a pool thread.
fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

fn choose_tokens(
    model: &dyn Decoder,
    hidden: &Tensor,
    logits: &mut Vec<f32>,
    sequences: &mut [Sequence],
    options: &GenerateOptions,
) -> Result<Vec<Option<Finish>>> {
    model.logits(hidden, logits)?;
    let rows = logits.par_chunks(model.spec().vocabulary);
    sequences.par_iter_mut().zip(rows).map(|(sequence, row)| sequence.step(row, options)).collect()
}

/// Moves finished sequences to the results and removes them from the cache.
fn retire(
    sequences: &mut Vec<Sequence>,
    finished: &[Option<Finish>],
    cache: &mut KvCache,
    results: &mut [Option<Continuation>],
) -> Result<()> {
    let kept: Vec<usize> = (0..sequences.len()).filter(|i| finished[*i].is_none()).collect();
    let all = std::mem::take(sequences);
    for (sequence, finish) in all.into_iter().zip(finished) {
        match finish {
            Some(finish) => {
                let Sequence { slot, index, tokens, .. } = sequence;
                results[slot] = Some(Continuation { index, tokens, finish: *finish });
            }
            None => sequences.push(sequence),
        }
    }
    if kept.is_empty() { Ok(()) } else { cache.keep(&kept) }
}
