//! Chooses the next tokens of a batch: on a GPU where the model is on one, else on the host.

use candle_core::{DType, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::{Draws, Positions, Weight, all_finite, has_backward_kernels, read_tokens, sample_on_gpu};
use rayon::prelude::*;

use crate::error::Result;
use crate::sampling::Sampling;

/// How the tokens of a batch of sequences are chosen.
#[derive(Debug)]
pub struct Sampler<'a> {
    sampling: &'a Sampling,
    draws: Draws,
    /// Room for the logits on the host.
    logits: Vec<f32>,
}

impl<'a> Sampler<'a> {
    /// For sequences with these streams, all of one seed, and prompts of so many tokens: number `t` of a stream chooses token `t` behind the
    /// prompt.
    #[must_use]
    pub fn new(sampling: &'a Sampling, of_sequences: impl IntoIterator<Item = (Stream, u32)>) -> Self {
        Self { sampling, draws: Draws::new(of_sequences), logits: Vec::new() }
    }

    /// Keeps only the sequences with these indices, in this order.
    pub fn keep(&mut self, sequences: &[usize]) {
        let all: Vec<(Stream, u32)> = self.draws.iter().collect();
        self.draws = Draws::new(sequences.iter().map(|i| all[*i]));
    }

    /// Lets all sequences but those with these indices begin anew, with 0 tokens.
    pub(crate) fn restart_all_but(&mut self, sequences: &[usize]) {
        let all = self.draws.iter().enumerate();
        self.draws = Draws::new(
            all.map(|(i, (stream, start))| (stream, if sequences.contains(&i) { start } else { 0 })),
        );
    }

    /// The next token of each sequence, given its hidden state `[B, C]` and its tokens so far; `None` where a logit is not finite.
    pub(crate) fn choose(
        &mut self,
        lm_head: &Weight,
        hidden: &Tensor,
        lengths: &Positions,
    ) -> Result<Vec<Option<u32>>> {
        if has_backward_kernels(hidden) && hidden.device().is_cuda() {
            let tokens = Tensor::zeros(hidden.dim(0)?, DType::U32, hidden.device())?;
            self.choose_on_gpu(lm_head, hidden, lengths, &tokens)?;
            return Ok(read_tokens(&tokens)?);
        }
        lm_head.product(hidden, &mut self.logits)?;
        let (numbers, (_, vocabulary)) = (self.draws.numbers(lengths.as_slice())?, lm_head.dims2()?);
        let rows = self.logits.par_chunks(vocabulary).zip(numbers);
        let choose = |(logits, number): (&[f32], f64)| {
            all_finite(logits).then(|| self.sampling.choose(logits, number))
        };
        Ok(rows.map(choose).collect())
    }

    /// [`Sampler::choose`] of f32 on CUDA: the tokens go to `tokens` `[B]` u32, for [`read_tokens`].
    pub(crate) fn choose_on_gpu(
        &self,
        lm_head: &Weight,
        hidden: &Tensor,
        lengths: &Positions,
        tokens: &Tensor,
    ) -> Result<()> {
        let (logits, (_, vocabulary)) = (lm_head.product_on_gpu(hidden)?, lm_head.dims2()?);
        Ok(sample_on_gpu((&logits, vocabulary), self.sampling.choice(), &self.draws, lengths, tokens)?)
    }

    /// Another one for the same sequences.
    pub(crate) fn fork(&self) -> Self {
        Self { sampling: self.sampling, draws: self.draws.clone(), logits: Vec::new() }
    }
}
