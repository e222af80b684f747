//! Packed batches: the concatenated documents of a microbatch, without padding.

use candle_core::Device;
use mixce_kernels::rng::Stream;
use mixce_kernels::{CuSeqlens, Embedded};

use crate::architecture::Masks;
use crate::config::ModelSpec;
use crate::error::{Error, Result};

/// Token ids of several texts in one `[N]` axis.
///
/// Attention never crosses a text's boundary and positions restart at 0, so the results are those of each text alone, without
/// computation for padding.
#[derive(Debug, Clone)]
pub struct PackedBatch {
    /// Token ids, and each token's position in its text, from 0.
    pub(crate) embedded: Embedded,
    /// The boundaries of the texts.
    pub cu_seqlens: CuSeqlens,
    /// Where its first token is in the larger batch that it is a part of, so that it gets its part of that batch's dropout masks; 0 for a
    /// whole batch. On CUDA dropout is refused elsewhere.
    pub first_row: usize,
}

impl PackedBatch {
    /// Packs texts (any may be empty) for a model of these sizes.
    ///
    /// # Errors
    /// If a token id is outside the vocabulary or a text exceeds the model's context length.
    pub fn new(texts: &[&[u32]], spec: &ModelSpec, device: &Device) -> Result<Self> {
        for (text, ids) in texts.iter().enumerate() {
            if ids.len() > spec.positions {
                return Err(Error::TextTooLong { text, tokens: ids.len(), positions: spec.positions });
            }
            if let Some(position) = ids.iter().position(|id| *id as usize >= spec.vocabulary) {
                let (id, vocabulary) = (ids[position], spec.vocabulary);
                return Err(Error::TokenOutOfRange { id, position, text, vocabulary });
            }
        }
        let input_ids: Vec<u32> = texts.concat();
        let cu_seqlens = CuSeqlens::from_lengths(texts.iter().map(|ids| ids.len()));
        let embedded = Embedded::of_documents(&input_ids, &cu_seqlens, device)?;
        Ok(Self { embedded, cu_seqlens, first_row: 0 })
    }

    /// The number of tokens of all texts.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.cu_seqlens.tokens()
    }

    /// The masks that it gets from a stream.
    pub(crate) fn masks(&self, stream: Option<Stream>) -> Option<Masks> {
        stream.map(|stream| Masks { stream, first_row: self.first_row })
    }
}
