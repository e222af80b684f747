//! Keys and values of sequences that are being sampled.
//!
//! Legend: N packed tokens, B sequences, H heads of queries, K heads of keys and values, D head size.
//!
//! Sequences are aligned at their ends, so that every sequence writes its next token in the same column; columns before the
//! beginning of a shorter prompt are masked.

use candle_core::{Device, Tensor};
use mixce_kernels::{Columns, CuSeqlens, Heads, KeyValues, Positions, decode_attention, fill_cache};

use crate::error::Result;

/// Keys and values of every layer for a batch of sequences.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<KeyValues>,
    /// The tokens of each sequence so far, which is the position of its next one.
    lengths: Positions,
    /// Columns in use: the longest sequence.
    columns: usize,
    capacity: usize,
    /// The column in which each sequence begins.
    first: Vec<usize>,
    device: Device,
}

fn positions(of_sequences: impl Iterator<Item = u32>) -> Positions {
    Positions::new(of_sequences.collect::<Vec<_>>())
}

impl KvCache {
    pub(crate) fn new(prompts: &CuSeqlens, new_tokens: usize, device: &Device) -> Self {
        let columns = prompts.longest();
        Self {
            layers: Vec::new(),
            first: prompts.spans().map(|(_, t)| columns - t).collect(),
            lengths: positions(prompts.spans().map(|(_, t)| t as u32)),
            columns,
            capacity: columns + new_tokens,
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
        fill_cache(qkv, prompts, self.columns, &cache, heads)?;
        self.layers.push(cache);
        Ok(())
    }

    /// Attention `[B, H D]` of one new token a sequence, whose keys and values join the cache of `layer`.
    pub(crate) fn attend(&mut self, layer: usize, qkv: &Tensor, heads: Heads) -> Result<Tensor> {
        if self.columns >= self.capacity {
            let message = format!("the cache is full: it has room for {} tokens a sequence", self.capacity);
            return Err(candle_core::Error::Msg(message).into());
        }
        self.attend_at(self.columns, layer, qkv, heads)
    }

    /// [`KvCache::attend`] for the last token of each sequence, which the cache has already.
    pub(crate) fn attend_again(&self, layer: usize, qkv: &Tensor, heads: Heads) -> Result<Tensor> {
        self.attend_at(self.columns.saturating_sub(1), layer, qkv, heads)
    }

    fn attend_at(&self, column: usize, layer: usize, qkv: &Tensor, heads: Heads) -> Result<Tensor> {
        let columns = Columns { first: &self.first, new: column };
        Ok(decode_attention(qkv, &self.layers[layer], columns, heads)?)
    }

    /// Counts the token that every layer has seen.
    pub(crate) fn advance(&mut self) {
        self.columns += 1;
        self.lengths = positions(self.lengths().iter().map(|length| length + 1));
    }

    /// Keeps only the sequences with these indices, in this order.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn keep(&mut self, sequences: &[usize]) -> Result<()> {
        let ids: Vec<u32> = sequences.iter().map(|i| *i as u32).collect();
        let ids = Tensor::new(ids.as_slice(), &self.device)?;
        for cache in &mut self.layers {
            *cache = cache.select(&ids)?;
        }
        self.first = sequences.iter().map(|i| self.first[*i]).collect();
        self.lengths = positions(sequences.iter().map(|i| self.lengths()[*i]));
        Ok(())
    }
}
