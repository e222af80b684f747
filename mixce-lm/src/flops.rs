//! Floating-point operations of a model, computed from its shape.

use crate::config::ModelConfig;

/// Floating-point operations of the matrix products of one forward pass over packed texts of `lengths` tokens, with logits for
/// `logit_tokens` of them: two for each multiply-add.
///
/// Embeddings, norms, activations, softmax and dropout are not counted: they are memory-bound, and together below 1 % of the total.
/// For texts that continue a cache, give their final lengths: the arithmetic is the same as in one pass.
#[must_use]
pub fn forward(
    config: &dyn ModelConfig,
    lengths: impl IntoIterator<Item = usize>,
    logit_tokens: usize,
) -> u128 {
    config.forward_flops(&mut lengths.into_iter(), logit_tokens)
}

/// Floating-point operations of a training step over packed texts: three times [`forward`] with logits for every token.
///
/// Each product of the forward pass has two in the backward pass, one for either factor's gradient. Recomputed
/// activations and attention scores are not counted, nor are the loss and the optimizer.
#[must_use]
pub fn training(config: &dyn ModelConfig, lengths: impl IntoIterator<Item = usize>) -> u128 {
    let mut tokens = 0;
    let blocks = forward(config, lengths.into_iter().inspect(|length| tokens += length), 0);
    3 * (blocks + forward(config, [], tokens))
}
