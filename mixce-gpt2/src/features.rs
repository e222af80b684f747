//! Features of texts: the final hidden state at the last token.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::model::Gpt2;

impl Gpt2 {
    /// The final hidden state (after the last layer norm) at the last token of each text: `[B, C]` on the CPU, in f32. It is what
    /// MAUVE compares.
    ///
    /// The texts go through the model packed, about `batch_tokens` tokens at a time; that is a matter of memory, the numbers do not
    /// depend on it but for rounding. Cheapest on a model outside of any gradient graph ([`Gpt2::detached`]).
    ///
    /// # Errors
    /// When a text is empty, longer than the model's positions or has a token outside the vocabulary, and when a tensor operation
    /// fails.
    pub fn last_hidden_states(&self, texts: &[&[u32]], batch_tokens: usize) -> Result<Tensor> {
        if let Some(text) = texts.iter().position(|ids| ids.is_empty()) {
            return Err(Error::EmptyText { text });
        }
        let mut batches = Vec::new();
        let mut rest = texts;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |ids: &&&[u32]| {
                tokens += ids.len();
                tokens <= batch_tokens
            };
            let (batch, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            batches.push(self.last_of_batch(batch)?);
            rest = others;
        }
        match batches.is_empty() {
            true => Ok(Tensor::zeros((0, self.config().n_embd), DType::F32, &candle_core::Device::Cpu)?),
            false => Ok(Tensor::cat(&batches, 0)?),
        }
    }

    fn last_of_batch(&self, texts: &[&[u32]]) -> Result<Tensor> {
        let batch = self.pack(texts)?;
        let last: Vec<u32> = batch.cu_seqlens.offsets()[1..].iter().map(|end| *end as u32 - 1).collect();
        let hidden = self.hidden_states(&batch, None)?;
        let last = Tensor::from_vec(last, texts.len(), hidden.device())?;
        Ok(hidden.index_select(&last, 0)?.to_dtype(DType::F32)?.to_device(&candle_core::Device::Cpu)?)
    }
}
