//! Keys and values of sequences that are being sampled.
//!
//! Legend: N packed tokens, B sequences, H heads of queries, K heads of keys and values, D head size.
//!
//! The token at position p of a sequence has column p; what lies behind a shorter sequence is not read.

use candle_core::{Device, Tensor};
use mixce_kernels::{CuSeqlens, Heads, KeyValues, Positions, decode_attention, fill_cache, upload};

use crate::error::Result;

/// Keys and values of every layer for a batch of sequences. Clones share them.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<KeyValues>,
    /// The tokens of each sequence so far, which is the position of its next one.
    lengths: Positions,
    /// Tokens that a sequence may have.
    capacity: usize,
    device: Device,
}

fn positions(of_sequences: impl Iterator<Item = u32>) -> Positions {
    Positions::new(of_sequences.collect::<Vec<_>>())
}

impl KvCache {
    pub(crate) fn new(prompts: &CuSeqlens, new_tokens: usize, device: &Device) -> Self {
        Self {
            layers: Vec::new(),
            lengths: positions(prompts.spans().map(|(_, t)| t as u32)),
            capacity: prompts.longest() + new_tokens,
            device: device.clone(),
        }
    }

    /// The tokens of each sequence so far.
    #[must_use]
    pub fn lengths(&self) -> &[u32] {
        self.lengths.as_slice()
    }

    /// The position of each sequence's next token: its length.
    pub(crate) fn positions(&self) -> &Positions {
        &self.lengths
    }

    /// Adds the next layer's keys and values of the packed prompts, those that the cache was made for, from its `qkv`
    /// `[N, (H + 2 K) D]`.
    pub(crate) fn push_prompt(&mut self, qkv: &Tensor, prompts: &CuSeqlens, heads: Heads) -> Result<()> {
        let d = heads.head_size("the cache of prompts", qkv.dim(1)?)?;
        let shape = [self.lengths().len(), heads.kv, self.capacity, d];
        let cache = KeyValues::zeros(shape, qkv.dtype(), qkv.device())?;
        fill_cache(qkv, prompts, &cache, heads)?;
        self.layers.push(cache);
        Ok(())
    }

    /// Refuses one more token a sequence where there is no room for it.
    pub(crate) fn check_room(&self) -> Result<()> {
        if self.room() == 0 {
            let message = format!("the cache is full: it has room for {} tokens a sequence", self.capacity);
            return Err(candle_core::Error::Msg(message).into());
        }
        Ok(())
    }

    /// Attention `[B, H D]` of one new token a sequence, whose keys and values join the cache of `layer`.
    pub(crate) fn attend(&mut self, layer: usize, qkv: &Tensor, heads: Heads) -> Result<Tensor> {
        self.check_room()?;
        Ok(decode_attention(qkv, &self.layers[layer], &self.lengths, heads)?)
    }

    /// [`KvCache::attend`] for the last token of each sequence, which the cache has already.
    pub(crate) fn attend_again(&self, layer: usize, qkv: &Tensor, heads: Heads) -> Result<Tensor> {
        let last = positions(self.lengths().iter().map(|length| length.saturating_sub(1)));
        Ok(decode_attention(qkv, &self.layers[layer], &last, heads)?)
    }

    /// Counts the tokens at these positions, which every layer has seen.
    pub(crate) fn count(&mut self, at: &[u32]) {
        self.set_lengths(positions(at.iter().map(|position| position + 1)));
    }

    /// The tokens of each sequence; attention puts a new one behind them.
    pub(crate) fn set_lengths(&mut self, lengths: Positions) {
        self.lengths = lengths;
    }

    /// Tokens that every sequence may still get.
    pub(crate) fn room(&self) -> usize {
        let longest = self.lengths().iter().max().map_or(0, |length| *length as usize);
        self.capacity.saturating_sub(longest)
    }

    /// Keeps only the sequences with these indices, in this order.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn keep(&mut self, sequences: &[usize]) -> Result<()> {
        let ids: Vec<u32> = sequences.iter().map(|i| *i as u32).collect();
        let ids = upload(&ids, ids.len(), &self.device)?;
        for cache in &mut self.layers {
            *cache = cache.select(&ids)?;
        }
        self.lengths = positions(sequences.iter().map(|i| self.lengths()[*i]));
        Ok(())
    }
}
