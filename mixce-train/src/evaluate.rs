//! Negative log-likelihood of a corpus under a model.
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use mixce_core::{Objective, lm_head_log_q};
use mixce_kernels::Precision;
pub use mixce_lm::DEFAULT_BATCH_TOKENS;
use mixce_lm::{LanguageModel, ScoringOptions};
use serde::Serialize;

use crate::data::Examples;
use crate::distributed::{Alone, Communicator};
use crate::error::{Error, Result};
use crate::packing::Packed;

/// The result of an evaluation. Sums run over all target tokens of the corpus in f64, so the numbers do not depend on the
/// batches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean of `-log q` in nats per target token.
    pub nll: f64,
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Mean of the objective's `w(q) (-log q)` in nats per target token.
    #[serde(skip)]
    pub loss: f64,
    /// Mean of the objective's potential, which training minimises.
    #[serde(skip)]
    pub potential: f64,
    /// Target tokens.
    pub tokens: u64,
    /// Examples (documents, or blocks).
    pub documents: u64,
}

/// The scores of one example: position in the corpus, its token ids, and `log q` (nats) of each token but the first.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// Position in the corpus.
    pub index: usize,
    /// Its token ids (in a confined block each piece is reported separately).
    pub tokens: &'a [u32],
    /// `log q` of `tokens[1..]`.
    pub log_q: &'a [f32],
}

/// Scores every example with detached parameters and without dropout, in order.
///
/// `on_example` receives each of them (for per-token output, or progress).
///
/// # Errors
/// [`Error::NothingToEvaluate`] without examples; [`Error::TokenOutOfRange`]; [`Error::NonFiniteLikelihood`] for a non-finite `log q`; errors
/// of the model and of `on_example`.
pub fn evaluate(
    model: &dyn LanguageModel,
    examples: &Examples,
    objective: &dyn Objective,
    options: ScoringOptions,
    on_example: &mut dyn FnMut(Scored<'_>) -> Result<()>,
) -> Result<Evaluation> {
    evaluate_on(&Alone, model, examples, objective, options, on_example)
}

/// [`evaluate`] by several ranks, to which the batches are dealt in turn: the result is the same on all, but `on_example` hears of this rank's
/// examples alone. If one rank's `on_example` returns [`Error::Interrupted`], all ranks do.
///
/// # Errors
/// As [`evaluate`]; those of the ranks.
pub fn evaluate_on(
    ranks: &dyn Communicator,
    model: &dyn LanguageModel,
    examples: &Examples,
    objective: &dyn Objective,
    options: ScoringOptions,
    on_example: &mut dyn FnMut(Scored<'_>) -> Result<()>,
) -> Result<Evaluation> {
    let mut sums = Sums::default();
    let mut add_batches = || -> Result<()> {
        // The last token of a document is only a target: no embedding is looked up for it.
        examples.store().require_vocabulary(model.spec().vocabulary)?;
        let model = model.detached()?;
        for batch in batches(examples, options.batch_tokens).skip(ranks.rank()).step_by(ranks.size()) {
            let batch: Vec<(usize, Vec<u32>)> = batch
                .flat_map(|index| examples.pieces(index).into_iter().map(move |piece| (index, piece)))
                .collect();
            let pieces: Vec<&[u32]> = batch.iter().map(|(_, tokens)| tokens.as_slice()).collect();
            let log_q = score(&*model, &pieces, options.precision)?;
            let mut rest = log_q.as_slice();
            for (document, tokens) in &batch {
                let (own, others) = rest.split_at(tokens.len() - 1);
                if let Some(&log_q) = own.iter().find(|log_q| !log_q.is_finite()) {
                    return Err(Error::NonFiniteLikelihood { document: *document, log_q, step: None });
                }
                sums.add(own, objective);
                on_example(Scored { index: *document, tokens, log_q: own })?;
                rest = others;
            }
        }
        Ok(())
    };
    let outcome = add_batches();
    if ranks.size() > 1 && matches!(outcome, Ok(()) | Err(Error::Interrupted)) {
        sums.over_ranks(ranks, outcome.is_err())?;
    }
    outcome?;
    sums.finish(examples.len() as u64)
}

/// [`evaluate_on`], after which `on_example` hears of all examples in order on rank 0, and of none on the others. All ranks end with
/// [`Error::Interrupted`] when `stop` becomes true on one. With one rank it is [`evaluate`].
///
/// # Errors
/// As [`evaluate_on`].
pub fn evaluate_for_first_rank(
    ranks: &dyn Communicator,
    model: &dyn LanguageModel,
    examples: &Examples,
    objective: &dyn Objective,
    options: ScoringOptions,
    stop: &AtomicBool,
    on_example: &mut dyn FnMut(Scored<'_>) -> Result<()>,
) -> Result<Evaluation> {
    let go_on = || if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) };
    if ranks.size() == 1 {
        let mut heard = |scored: Scored<'_>| on_example(scored).and_then(|()| go_on());
        return evaluate(model, examples, objective, options, &mut heard);
    }
    let mut own = Vec::new();
    let mut keep = |Scored { index, log_q, .. }: Scored<'_>| {
        own.extend((index as u64).to_le_bytes());
        own.extend((log_q.len() as u64).to_le_bytes());
        own.extend(log_q.iter().flat_map(|value| value.to_le_bytes()));
        go_on()
    };
    let evaluation = evaluate_on(ranks, model, examples, objective, options, &mut keep)?;
    let all = ranks.all_gather(own)?;
    if ranks.rank() > 0 {
        return Ok(evaluation);
    }
    let mut scores: Vec<(usize, Vec<f32>)> = all.iter().flat_map(|bytes| kept(bytes)).collect();
    // The pieces of an example are on one rank, in order.
    scores.sort_by_key(|(index, _)| *index);
    for of_example in scores.chunk_by(|(a, _), (b, _)| a == b) {
        let index = of_example[0].0;
        for (tokens, (_, log_q)) in examples.pieces(index).iter().zip(of_example) {
            on_example(Scored { index, tokens, log_q })?;
        }
    }
    Ok(evaluation)
}

/// What a rank has kept for the first: index and `log q` of each piece.
fn kept(mut bytes: &[u8]) -> Vec<(usize, Vec<f32>)> {
    let mut scores = Vec::new();
    while let Some((number, rest)) = bytes.split_first_chunk()
        && let Some((length, rest)) = rest.split_first_chunk()
    {
        let length = (u64::from_le_bytes(*length) as usize).saturating_mul(4).min(rest.len());
        let (values, rest) = rest.split_at(length);
        let log_q = values.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        scores.push((u64::from_le_bytes(*number) as usize, log_q));
        bytes = rest;
    }
    scores
}

/// The examples of each batch: as many as have `batch_tokens` target tokens together, at least one.
fn batches(examples: &Examples, batch_tokens: usize) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    std::iter::from_fn(move || {
        let (start, mut tokens) = (end, 0);
        while end < examples.len() {
            let more = examples.length(end) - 1;
            if end > start && tokens + more > batch_tokens {
                break;
            }
            (end, tokens) = (end + 1, tokens + more);
        }
        (end > start).then_some(start..end)
    })
}

/// `log q` of every target of some examples, concatenated.
fn score(model: &dyn LanguageModel, batch: &[&[u32]], precision: Precision) -> Result<Vec<f32>> {
    let packed = Packed::new(model, batch)?;
    let hidden = model.scoring_states(&packed.inputs, precision)?;
    let log_q = lm_head_log_q(&hidden, model.lm_head(), &packed.targets, precision)?;
    log_q.to_vec1().map_err(Error::tensor("log-likelihoods"))
}

#[derive(Default)]
struct Sums {
    nll: f64,
    loss: f64,
    potential: f64,
    tokens: u64,
}

impl Sums {
    /// The sums of all ranks.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if one of them was; those of the ranks.
    fn over_ranks(&mut self, ranks: &dyn Communicator, interrupted: bool) -> Result<()> {
        let interrupted = f64::from(u8::from(interrupted));
        let mut sums = [interrupted, self.nll, self.loss, self.potential, self.tokens as f64];
        ranks.all_reduce_f64(&mut sums)?;
        let [interrupted, nll, loss, potential, tokens] = sums;
        // Fewer tokens than 2^53.
        *self = Self { nll, loss, potential, tokens: tokens as u64 };
        if interrupted > 0.0 { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn add(&mut self, log_q: &[f32], objective: &dyn Objective) {
        for &log_q in log_q {
            let log_q = f64::from(log_q);
            self.nll -= log_q;
            self.loss += objective.loss(log_q);
            self.potential += objective.potential(log_q);
        }
        self.tokens += log_q.len() as u64;
    }

    fn finish(&self, documents: u64) -> Result<Evaluation> {
        if self.tokens == 0 {
            return Err(Error::NothingToEvaluate);
        }
        let n = self.tokens as f64;
        let nll = self.nll / n;
        let (loss, potential) = (self.loss / n, self.potential / n);
        Ok(Evaluation { nll, perplexity: nll.exp(), loss, potential, tokens: self.tokens, documents })
    }
}
