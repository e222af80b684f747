//! Token and position embeddings.

use candle_core::Tensor;
use mixce_kernels::{Dropout, Embedded, embedding_backward, embedding_sum};
use mixce_lm::{Masks, Result};

/// `x = dropout(wte[token] + wpe[position])`.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[V, C]`.
    pub(crate) wte: Tensor,
    /// `[T, C]`.
    pub(crate) wpe: Tensor,
    /// The probability of dropout.
    pub(crate) embd_pdrop: f64,
}

impl Embedding {
    fn dropout(&self, masks: Option<Masks>) -> Option<Dropout> {
        masks.map(|masks| masks.dropout(self.embd_pdrop))
    }
}

impl mixce_lm::Embedding for Embedding {
    fn forward(&self, tokens: &Embedded, dropout: Option<Masks>) -> Result<Tensor> {
        Ok(embedding_sum(&self.wte, &self.wpe, tokens, self.dropout(dropout))?)
    }

    fn backward(
        &self,
        tokens: &Embedded,
        dropout: Option<Masks>,
        dx: &Tensor,
        gradients: &Self,
    ) -> Result<()> {
        Ok(embedding_backward(tokens, dx, self.dropout(dropout), &gradients.wte, &gradients.wpe)?)
    }
}
