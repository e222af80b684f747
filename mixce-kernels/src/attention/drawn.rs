//! Dropout of the probabilities of attention, drawn once for both passes.
//!
//! Legend: N packed tokens, T tokens of the longest document, H heads of queries.

use candle_core::{DType, Result, Tensor, bail};

use super::Heads;
use crate::cuda::Gpu;
use crate::dropout::Dropout;

/// A dropout of the probabilities of attention as the forward pass has applied it, for the backward pass.
///
/// On tensor cores (see [`causal_attention`](super::causal_attention)) it holds a bit a query and key up to it; elsewhere every pass draws
/// the same numbers itself.
#[derive(Clone, Debug)]
pub struct DrawnDropout {
    pub(super) dropout: Dropout,
    kept: Option<Tensor>,
}

impl From<Dropout> for DrawnDropout {
    /// One that is still to be drawn.
    fn from(dropout: Dropout) -> Self {
        Self { dropout, kept: None }
    }
}

impl DrawnDropout {
    /// The memory that it holds on CUDA in bf16 for N `tokens` in documents of up to T = `longest` tokens, `head_size` channels a head:
    /// `4 H ceil(N (ceil(T / 32) + 1) / 2)` bytes, which is about `H N T / 16`; nothing where attention is not on tensor cores.
    #[must_use]
    pub fn bytes(heads: Heads, head_size: usize, tokens: usize, longest: usize) -> u128 {
        match heads.fit_tensor_cores(head_size) {
            true => 4 * heads.count as u128 * words_of_head(tokens, longest),
            false => 0,
        }
    }

    /// Draws the bits if queries, keys and values like these go to the kernels on tensor cores, and it has not been done before. Kernels for
    /// unaligned tensors, which draw by themselves, do not read them.
    pub(super) fn draw(self, qkv: &Tensor, heads: Heads, documents: (&Tensor, usize)) -> Result<Self> {
        let head_size = heads.head_size("causal_attention", qkv.dim(1)?)?;
        if self.kept.is_some() || qkv.dtype() != DType::BF16 || !heads.fit_tensor_cores(head_size) {
            return Ok(self);
        }
        let Some(gpu) = Gpu::of(qkv.device()) else { bail!("attention dropout: expected a CUDA tensor") };
        let kept = gpu.draw_attention_dropout(documents, heads, self.dropout)?;
        Ok(Self { kept: Some(kept), ..self })
    }

    /// The bits, where they were drawn: a row of [`words_of_head`] 32-bit words a head, laid out as in `cuda/attention_tensor.cu`.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "read by CUDA kernels alone"))]
    pub(crate) fn kept(&self) -> Option<&Tensor> {
        self.kept.as_ref()
    }
}

/// 32-bit words of the last query of a document of `longest` tokens.
pub(crate) fn words_of_query(longest: usize) -> usize {
    longest.div_ceil(32)
}

/// Words of a head: a query's row ends with its own key, so that a token has half of the longest row on average.
pub(crate) fn words_of_head(tokens: usize, longest: usize) -> u128 {
    (tokens as u128 * (words_of_query(longest) as u128 + 1)).div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernels' place of a query: rows of different queries share no word, and the last one ends inside.
    #[test]
    fn every_query_has_its_own_words() {
        for lengths in [vec![1], vec![33, 1, 32, 100], vec![64, 64], vec![1, 1, 1, 200, 31], vec![95, 96, 97]]
        {
            let (n, longest) = (lengths.iter().sum(), *lengths.iter().max().unwrap());
            let words = words_of_query(longest);
            let (mut document, mut free) = (0, 0);
            for length in lengths {
                for position in 0..length {
                    let a = position / 32;
                    let row = (document * (words + 1)).div_ceil(2) + (a + 1) * (16 * a + position % 32);
                    assert!(row >= free, "position {position} of {length} tokens from {document}");
                    free = row + a + 1;
                }
                document += length;
            }
            assert!(free as u128 <= words_of_head(n, longest));
        }
        let heads = Heads::new(12, 0.125);
        assert_eq!(DrawnDropout::bytes(heads, 64, 8192, 1024), 4 * 12 * 8192 * 33 / 2);
        assert_eq!(DrawnDropout::bytes(heads, 20, 8192, 1024), 0);
    }
}
