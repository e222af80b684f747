//! Keys and values of sequences that are being sampled.
//!
//! Legend: B sequences, H heads, D head size, C = H D, P longest prompt, S capacity in tokens.
//!
//! Sequences are aligned at their ends, so that every sequence writes its next token in the same column; columns before the
//! beginning of a shorter prompt are masked.

use candle_core::{D, DType, Device, Tensor};
use mixce_kernels::sublayer::is_fused;
use mixce_kernels::{Columns, CuSeqlens, decode_attention, fill_cache};

use crate::error::Result;

/// Keys and values of every layer for a batch of sequences.
#[derive(Debug)]
pub struct KvCache {
    /// One pair `[B, H, S, D]` a layer.
    layers: Vec<(Tensor, Tensor)>,
    /// The tokens of each sequence so far.
    lengths: Vec<u32>,
    /// Columns in use: the longest sequence.
    columns: usize,
    capacity: usize,
    heads: usize,
    /// `[B P]`: where each column of the prompts is found in a packed batch; padding points behind its end.
    gather: Tensor,
    /// The column in which each sequence begins.
    first: Vec<usize>,
    /// `[B, 1, 1, S]`: minus infinity in columns before a sequence begins, else 0.
    mask: Tensor,
}

impl KvCache {
    pub(crate) fn new(prompts: &CuSeqlens, heads: usize, new_tokens: usize, device: &Device) -> Result<Self> {
        let columns = prompts.spans().map(|(_, t)| t).max().unwrap_or(0);
        let capacity = columns + new_tokens;
        let (mut gather, mut mask) = (Vec::new(), Vec::new());
        for (start, t) in prompts.spans() {
            let padding = columns - t;
            gather.extend(std::iter::repeat_n(prompts.tokens() as u32, padding));
            gather.extend((start..start + t).map(|i| i as u32));
            mask.extend((0..capacity).map(|column| if column < padding { f32::NEG_INFINITY } else { 0.0 }));
        }
        let batch = prompts.documents();
        Ok(Self {
            layers: Vec::new(),
            first: prompts.spans().map(|(_, t)| columns - t).collect(),
            lengths: prompts.spans().map(|(_, t)| t as u32).collect(),
            columns,
            capacity,
            heads,
            gather: Tensor::from_vec(gather, batch * columns, device)?,
            mask: Tensor::from_vec(mask, (batch, 1, 1, capacity), device)?,
        })
    }

    /// The tokens of each sequence so far.
    #[must_use]
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// Adds the next layer's keys and values of the packed prompts, those that the cache was made for, from its `qkv` `[N, 3 C]`.
    pub(crate) fn push_prompt(&mut self, qkv: &Tensor, prompts: &CuSeqlens) -> Result<()> {
        let c = qkv.dim(1)? / 3;
        let (b, h) = (self.lengths.len(), self.heads);
        if is_fused(qkv) && qkv.device().is_cpu() {
            let zeros = || Tensor::zeros((b, h, self.capacity, c / h), qkv.dtype(), qkv.device());
            let pair = (zeros()?, zeros()?);
            fill_cache(qkv, prompts, self.columns, (&pair.0, &pair.1))?;
            self.layers.push(pair);
            return Ok(());
        }
        let padded = |part: usize| -> Result<Tensor> {
            let values = qkv.narrow(1, part * c, c)?;
            let values = Tensor::cat(&[&values, &Tensor::zeros((1, c), qkv.dtype(), qkv.device())?], 0)?;
            let values = values.index_select(&self.gather, 0)?.reshape((b, self.columns, h, c / h))?;
            let all = Tensor::zeros((b, h, self.capacity, c / h), qkv.dtype(), qkv.device())?;
            all.slice_set(&values.transpose(1, 2)?.contiguous()?, 2, 0)?;
            Ok(all)
        };
        let pair = (padded(1)?, padded(2)?);
        self.layers.push(pair);
        Ok(())
    }

    /// Attention `[B, C]` of one new token a sequence, whose keys and values join the cache of `layer`.
    pub(crate) fn attend(&mut self, layer: usize, qkv: &Tensor, scale: f64) -> Result<Tensor> {
        if self.columns >= self.capacity {
            let message = format!("the cache is full: it has room for {} tokens a sequence", self.capacity);
            return Err(candle_core::Error::Msg(message).into());
        }
        self.attend_at(self.columns, layer, qkv, scale)
    }

    /// [`KvCache::attend`] for the last token of each sequence, which the cache has already.
    pub(crate) fn attend_again(&self, layer: usize, qkv: &Tensor, scale: f64) -> Result<Tensor> {
        self.attend_at(self.columns.saturating_sub(1), layer, qkv, scale)
    }

    fn attend_at(&self, column: usize, layer: usize, qkv: &Tensor, scale: f64) -> Result<Tensor> {
        let (b, c3) = qkv.dims2()?;
        let (c, h) = (c3 / 3, self.heads);
        if is_fused(qkv) {
            let (keys, values) = &self.layers[layer];
            let columns = Columns { first: &self.first, new: column };
            return Ok(decode_attention(qkv, (keys, values), columns, scale)?);
        }
        let part = |i: usize| qkv.narrow(1, i * c, c)?.reshape((b, h, 1, c / h))?.contiguous();
        let (keys, values) = &self.layers[layer];
        keys.slice_set(&part(1)?, 2, column)?;
        values.slice_set(&part(2)?, 2, column)?;
        let seen = column + 1;
        let scores = part(0)?.matmul(&keys.narrow(2, 0, seen)?.t()?)?.to_dtype(DType::F32)?;
        let scores = (scores * scale)?.broadcast_add(&self.mask.narrow(3, 0, seen)?)?;
        let probabilities = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(qkv.dtype())?;
        Ok(probabilities.matmul(&values.narrow(2, 0, seen)?)?.reshape((b, c))?)
    }

    /// Counts the token that every layer has seen.
    pub(crate) fn advance(&mut self) {
        self.columns += 1;
        self.lengths.iter_mut().for_each(|length| *length += 1);
    }

    /// Keeps only the sequences with these indices, in this order.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn keep(&mut self, sequences: &[usize]) -> Result<()> {
        let ids: Vec<u32> = sequences.iter().map(|i| *i as u32).collect();
        let ids = Tensor::new(ids.as_slice(), self.mask.device())?;
        for (keys, values) in &mut self.layers {
            *keys = keys.index_select(&ids, 0)?;
            *values = values.index_select(&ids, 0)?;
        }
        self.mask = self.mask.index_select(&ids, 0)?;
        self.first = sequences.iter().map(|i| self.first[*i]).collect();
        self.lengths = sequences.iter().map(|i| self.lengths[*i]).collect();
        Ok(())
    }
}
