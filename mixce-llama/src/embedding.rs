//! Token embeddings; positions come in through the rotary embedding.

use candle_core::Tensor;
use mixce_kernels::{Embedded, token_embedding, token_embedding_backward};
use mixce_lm::{Masks, Result};

/// `x = embed_tokens[token]`. The row of a padding token is one like the others, also in training (in torch it gets no gradient here).
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[V, C]`.
    pub(crate) embed_tokens: Tensor,
}

impl mixce_lm::Embedding for Embedding {
    fn forward(&self, tokens: &Embedded, _: Option<Masks>) -> Result<Tensor> {
        Ok(token_embedding(&self.embed_tokens, tokens)?)
    }

    fn backward(&self, tokens: &Embedded, _: Option<Masks>, dx: &Tensor, gradients: &Self) -> Result<()> {
        Ok(token_embedding_backward(tokens, dx, &gradients.embed_tokens)?)
    }
}
