//! Batched sampling of continuations.

use mixce_kernels::rng::{Stream, purpose};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::sampler::Sampler;
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
    tokens: Vec<u32>,
    limit: usize,
}

impl Sequence {
    /// Takes the next token, or none where the logits are broken; `Some` when that ends the sequence.
    fn take(&mut self, token: Option<u32>, options: &GenerateOptions) -> Result<Option<Finish>> {
        if self.tokens.len() >= self.limit {
            return Ok(Some(Finish::Length));
        }
        let Some(token) = token else {
            return Err(Error::BrokenLogits { sample: self.index, tokens: self.tokens.len() });
        };
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
    let mut go_on = |samples: usize, tokens: usize| {
        progress(samples, tokens);
        true
    };
    Ok(generate_while(model, prompts, options, &mut go_on)?.unwrap_or_default())
}

/// [`generate`] that ends early, without samples, once `go_on` returns false; it is called like `progress`.
///
/// # Errors
/// As [`generate`].
pub fn generate_while(
    model: &dyn Decoder,
    prompts: &[(u64, &[u32])],
    options: &GenerateOptions,
    go_on: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Option<Vec<Continuation>>> {
    options.sampling.validate()?;
    if let Some((prompt, _)) = prompts.iter().find(|(_, ids)| ids.is_empty()) {
        return Err(Error::EmptyPrompt { prompt: *prompt });
    }
    let mut results = vec![None; prompts.len()];
    let batch_size = options.batch_size.max(1);
    for (chunk, results) in prompts.chunks(batch_size).zip(results.chunks_mut(batch_size)) {
        if !generate_batch(model, chunk, options, results, go_on)? {
            return Ok(None);
        }
    }
    Ok(Some(results.into_iter().flatten().collect()))
}

/// False if `go_on` has ended it.
fn generate_batch(
    model: &dyn Decoder,
    prompts: &[(u64, &[u32])],
    options: &GenerateOptions,
    results: &mut [Option<Continuation>],
    go_on: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<bool> {
    let texts: Vec<&[u32]> = prompts.iter().map(|(_, ids)| *ids).collect();
    let batch = model.pack(&texts)?;
    let root = Stream::new(options.seed).fold(purpose::SAMPLING);
    let positions = model.spec().positions;
    let start = |(slot, (index, ids)): (usize, &(u64, &[u32]))| Sequence {
        slot,
        index: *index,
        tokens: Vec::new(),
        limit: options.max_new_tokens.min(positions - ids.len()),
    };
    let mut sequences: Vec<Sequence> = prompts.iter().enumerate().map(start).collect();
    let room = sequences.iter().map(|s| s.limit).max().unwrap_or(0);
    let draws = prompts.iter().map(|(index, ids)| (root.fold(*index), ids.len() as u32));
    let sampler = Sampler::new(&options.sampling, draws);
    let (mut tokens, mut session) = in_pool(|| model.start(&batch, room, sampler))?;
    loop {
        let step = sequences.iter_mut().zip(tokens).map(|(sequence, token)| sequence.take(token, options));
        let finished = step.collect::<Result<Vec<_>>>()?;
        let ended = finished.iter().flatten().count();
        if !go_on(ended, sequences.len()) {
            return Ok(false);
        }
        if ended > 0 {
            let kept = retire(&mut sequences, &finished, results);
            if kept.is_empty() {
                return Ok(true);
            }
            session.keep(&kept)?;
        }
        let ids: Vec<u32> = sequences.iter().filter_map(|s| s.tokens.last().copied()).collect();
        tokens = in_pool(|| session.next(&ids))?;
    }
}

/// Runs `f` on a thread of the rayon pool, so that its many short parallel loops avoid the latency of waking a pool thread.
fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Moves finished sequences to the results and returns the indices of the others.
fn retire(
    sequences: &mut Vec<Sequence>,
    finished: &[Option<Finish>],
    results: &mut [Option<Continuation>],
) -> Vec<usize> {
    let mut kept = Vec::new();
    let all = std::mem::take(sequences).into_iter().zip(finished).enumerate();
    for (i, (sequence, finish)) in all {
        match finish {
            Some(finish) => {
                let Sequence { slot, index, tokens, .. } = sequence;
                results[slot] = Some(Continuation { index, tokens, finish: *finish });
            }
            None => {
                kept.push(i);
                sequences.push(sequence);
            }
        }
    }
    kept
}
