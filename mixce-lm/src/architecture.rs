//! What an architecture writes: its embedding, its block, and how both are found among the parameters.
//!
//! Legend: N packed tokens, B sequences, C channels, H heads of queries, K heads of keys and values, D head size.

use std::fmt::Debug;

use candle_core::{Device, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::sublayer::{Branch, BranchGradient, Normed};
use mixce_kernels::{
    AffineGradients, CuSeqlens, DrawnDropout, Dropout, Embedded, Heads, Norm, Positions, Precision,
    causal_attention_saving,
};

use crate::cache::KvCache;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::params::Parameters;

/// A configuration from which a [`Transformer`](crate::Transformer) is made.
pub trait Architecture: ModelConfig + Clone + 'static {
    /// What turns token ids into the first residual stream.
    type Embedding: Embedding;
    /// A transformer block.
    type Block: Block;
    /// What all blocks read beside the parameters, such as the tables of a rotary embedding. Cloning is cheap.
    type Shared: Debug + Clone + Send + Sync + 'static;

    /// What all blocks share, made once for a model on `device`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn shared(&self, device: &Device) -> Result<Self::Shared>;

    /// The embedding's tensors.
    ///
    /// # Errors
    /// When one is missing.
    fn embedding(&self, parameters: &Parameters) -> Result<Self::Embedding>;

    /// The tensors of block `layer`, from 0.
    ///
    /// # Errors
    /// When one is missing.
    fn block(&self, parameters: &Parameters, shared: &Self::Shared, layer: usize) -> Result<Self::Block>;

    /// The sums of gradients of block `layer`, from 0.
    ///
    /// # Errors
    /// When one is missing.
    fn block_gradients(&self, sums: &Parameters, layer: usize) -> Result<<Self::Block as Block>::Gradients>;

    /// The last norm.
    ///
    /// # Errors
    /// When a tensor is missing.
    fn final_norm(&self, parameters: &Parameters) -> Result<Norm>;

    /// The sums of gradients of the last norm.
    ///
    /// # Errors
    /// When one is missing.
    fn final_norm_gradients(&self, sums: &Parameters) -> Result<AffineGradients>;
}

/// What turns token ids into the first residual stream.
pub trait Embedding: Debug + Clone + Send + Sync + 'static {
    /// The residual stream `[N, C]`; with masks, after dropout.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn forward(&self, tokens: &Embedded, dropout: Option<Masks>) -> Result<Tensor>;

    /// Adds the gradients of the tables to `gradients`, given that of the residual stream.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn backward(
        &self,
        tokens: &Embedded,
        dropout: Option<Masks>,
        dx: &Tensor,
        gradients: &Self,
    ) -> Result<()>;
}

/// The residual stream between two blocks.
#[derive(Debug)]
pub struct ResidualStream {
    /// `[N, C]`.
    pub x: Tensor,
    /// Its rows normalised by the norm that the next block begins with, where the block before has computed them.
    pub normed: Option<Normed>,
}

impl From<Tensor> for ResidualStream {
    fn from(x: Tensor) -> Self {
        Self { x, normed: None }
    }
}

/// The gradient of a [`ResidualStream`] in a backward pass.
#[derive(Debug)]
pub struct StreamGradient {
    /// `[N, C]`, changed in place from block to block.
    pub dx: Tensor,
    /// That of the branch that ends in the stream, where the block behind it has computed it.
    pub branch: Option<BranchGradient>,
}

/// A transformer block: written once for training, sampling, scoring and candle's graph.
pub trait Block: Debug + Clone + Send + Sync + 'static {
    /// The activations that [`Block::backward`] needs, beside the block's input.
    type Saved: Debug + Send;
    /// Sums of the gradients of its parameters.
    type Gradients: Debug;

    /// The norm that the block begins with.
    fn norm(&self) -> &Norm;

    /// The block's output, given its input, and, if `save` is set, the activations to save. `next` is the norm that the next block begins
    /// with, by which the output may be normalised.
    ///
    /// Where `attention` asks for some rows alone ([`Attention::rows`]) the output has these.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn forward(
        &self,
        input: ResidualStream,
        options: LayerOptions,
        attention: &mut Attention<'_>,
        save: bool,
        next: Option<&Norm>,
    ) -> Result<(ResidualStream, Option<Self::Saved>)>;

    /// The branch that ends in the block's output. `options` are those of the forward pass.
    fn last_branch<'a>(&self, options: LayerOptions, gradients: &'a Self::Gradients) -> Branch<'a>;

    /// Turns the gradient of the output into that of the input, and adds the gradients of the parameters to `gradients`. `options` and
    /// `documents` are those of the forward pass; `below` is the [`Block::last_branch`] of the block before, whose gradient may be computed,
    /// too.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn backward(
        &self,
        input_and_saved: (&Tensor, Self::Saved),
        options: LayerOptions,
        documents: &CuSeqlens,
        gradient: StreamGradient,
        gradients: &Self::Gradients,
        below: Option<Branch<'_>>,
    ) -> Result<StreamGradient>;

    /// The same block with its matrices prepared for the products of sampling ([`Weight::pack`](mixce_kernels::Weight::pack)).
    ///
    /// # Errors
    /// When this device has no products in `precision`.
    fn pack(self, precision: Precision) -> Result<Self>;
}

/// How a layer is computed in one pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerOptions {
    /// The layer's dropout masks; without them there is no dropout.
    pub dropout: Option<Masks>,
    /// The number format of the products' operands.
    pub precision: Precision,
}

/// The dropout masks of a pass, of a layer or of a site in it.
#[derive(Clone, Copy, Debug)]
pub struct Masks {
    /// Their random numbers.
    pub stream: Stream,
    /// The batch's [`PackedBatch::first_row`](crate::PackedBatch::first_row).
    pub first_row: usize,
}

impl Masks {
    /// Independent masks.
    #[must_use]
    pub fn fold(self, label: u64) -> Self {
        Self { stream: self.stream.fold(label), ..self }
    }

    /// Dropout with these masks.
    #[must_use]
    pub fn dropout(self, p: f64) -> Dropout {
        Dropout { p, stream: self.stream, first_row: self.first_row }
    }
}

/// Where the queries of a pass find their keys and values.
#[derive(Debug)]
pub enum Attention<'a> {
    /// In their own document, up to their own position.
    Documents(&'a CuSeqlens),
    /// The same for prompts, whose keys and values join the cache.
    Prompts {
        /// Where each prompt begins.
        documents: &'a CuSeqlens,
        /// Takes the keys and values of this layer.
        cache: &'a mut KvCache,
        /// The layer, from 0.
        layer: usize,
        /// The rows whose output is wanted, `[B]` u32: in the last layer the last token of each prompt.
        rows: Option<&'a Tensor>,
    },
    /// In the cache, which the one new token of each sequence joins.
    Cached {
        /// Holds the sequences so far.
        cache: &'a mut KvCache,
        /// The layer, from 0.
        layer: usize,
    },
}

impl Attention<'_> {
    /// The position in its text of each row that a block is given.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        match self {
            Self::Documents(documents) | Self::Prompts { documents, .. } => documents.positions(),
            Self::Cached { cache, .. } => cache.positions(),
        }
    }

    /// The attended values `[N, H D]` of queries, keys and values `[N, (H + 2 K) D]`, or of the rows that are wanted, and the dropout
    /// as it was drawn, for the backward pass.
    ///
    /// # Errors
    /// When the cache is full or a tensor operation fails.
    pub fn attend(
        &mut self,
        qkv: &Tensor,
        heads: Heads,
        dropout: Option<Dropout>,
    ) -> Result<(Tensor, Option<DrawnDropout>)> {
        match self {
            Self::Documents(documents) => Ok(causal_attention_saving(qkv, documents, heads, dropout)?),
            Self::Prompts { documents, cache, layer, rows } => {
                cache.push_prompt(qkv, documents, heads)?;
                match rows {
                    Some(rows) => Ok((cache.attend_again(*layer, &qkv.index_select(rows, 0)?, heads)?, None)),
                    None => Ok(causal_attention_saving(qkv, documents, heads, dropout)?),
                }
            }
            Self::Cached { cache, layer } => Ok((cache.attend(*layer, qkv, heads)?, None)),
        }
    }

    /// The rows of `x` that go on behind attention: all of them but in the last layer of prompts.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn rows(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Prompts { rows: Some(rows), .. } => Ok(x.index_select(rows, 0)?),
            _ => Ok(x.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn random(rows: usize, channels: usize, seed: u64) -> Tensor {
        let stream = Stream::new(seed);
        let values: Vec<f32> = (0..(rows * channels) as u64).map(|i| stream.normal(i) as f32).collect();
        Tensor::from_vec(values, (rows, channels), &Device::Cpu).unwrap()
    }

    fn assert_close(got: &Tensor, want: &Tensor) {
        assert_eq!(got.dims(), want.dims());
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (got, want) in values(got).into_iter().zip(values(want)) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }

    /// Prompts and then token after token through the cache give the rows of whole documents, at their positions.
    #[test]
    fn a_cache_gives_the_rows_of_documents() -> Result<()> {
        let (d, lengths, new_tokens) = (4, [3, 5], 2);
        for (kv, window) in [(4, None), (2, None), (2, Some(3)), (1, Some(1))] {
            let heads = Heads { kv, window, ..Heads::new(4, 0.5) };
            let texts = [0, 1].map(|i| random(lengths[i] + new_tokens, (4 + 2 * kv) * d, i as u64));
            // Row `row` behind the prompt's last, of both texts.
            let rows = |of: &[Tensor; 2], row: usize| {
                let rows = [0, 1].map(|i| of[i].narrow(0, lengths[i] - 1 + row, 1).unwrap());
                Tensor::cat(&rows, 0).unwrap()
            };
            let whole = [0, 1].map(|i| {
                let document = CuSeqlens::from_lengths([lengths[i] + new_tokens]);
                Attention::Documents(&document).attend(&texts[i], heads, None).unwrap().0
            });
            let prompts = [0, 1].map(|i| texts[i].narrow(0, 0, lengths[i]).unwrap());
            let (qkv, documents) = (Tensor::cat(&prompts, 0)?, CuSeqlens::from_lengths(lengths));
            let (mut cache, last) =
                (KvCache::new(&documents, new_tokens, &Device::Cpu), Tensor::new(&[2u32, 7], &Device::Cpu)?);
            let (documents, rows_wanted) = (&documents, Some(&last));
            let mut attention =
                Attention::Prompts { documents, cache: &mut cache, layer: 0, rows: rows_wanted };
            assert_eq!(attention.positions().as_slice(), [0, 1, 2, 0, 1, 2, 3, 4]);
            assert_close(&attention.attend(&qkv, heads, None)?.0, &rows(&whole, 0));
            for step in 1..=new_tokens {
                let mut attention = Attention::Cached { cache: &mut cache, layer: 0 };
                assert_eq!(attention.positions().as_slice(), [2 + step as u32, 4 + step as u32]);
                assert_close(&attention.attend(&rows(&texts, step), heads, None)?.0, &rows(&whole, step));
                let positions = cache.lengths().to_vec();
                cache.count(&positions);
            }
            let full =
                Attention::Cached { cache: &mut cache, layer: 0 }.attend(&rows(&texts, 0), heads, None);
            assert!(full.unwrap_err().to_string().contains("the cache is full"));
        }
        Ok(())
    }
}
