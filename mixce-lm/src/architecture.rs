//! What an architecture writes: its embedding, its block, and how both are found among the parameters.
//!
//! Legend: N packed tokens, B sequences, C channels.

use std::fmt::Debug;

use candle_core::{Device, Tensor};
use mixce_kernels::rng::Stream;
use mixce_kernels::{AffineGradients, CuSeqlens, Dropout, Embedded, Norm, Precision, causal_attention};

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
    /// The residual stream `[N, C]`; with a stream of random numbers, after dropout.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn forward(&self, tokens: &Embedded, dropout: Option<Stream>) -> Result<Tensor>;

    /// Adds the gradients of the tables to `gradients`, given that of the residual stream.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn backward(
        &self,
        tokens: &Embedded,
        dropout: Option<Stream>,
        dx: &Tensor,
        gradients: &Self,
    ) -> Result<()>;
}

/// A transformer block: written once for training, sampling, scoring and candle's graph.
pub trait Block: Debug + Clone + Send + Sync + 'static {
    /// The activations that [`Block::backward`] needs, beside the block's input.
    type Saved: Debug + Send;
    /// Sums of the gradients of its parameters.
    type Gradients: Debug;

    /// The block's output, given its input `x` `[N, C]`, and, if `save` is set, the activations to save.
    ///
    /// Where `attention` asks for some rows alone ([`Attention::rows`]) the output has these.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn forward(
        &self,
        x: &Tensor,
        options: LayerOptions,
        attention: &mut Attention<'_>,
        save: bool,
    ) -> Result<(Tensor, Option<Self::Saved>)>;

    /// Turns `dx`, which holds the gradient of the output, into that of the input `x` in place, and adds the gradients of the
    /// parameters to `gradients`. `options` and `documents` are those of the forward pass.
    ///
    /// # Errors
    /// When a tensor operation fails.
    fn backward(
        &self,
        x: &Tensor,
        saved: Self::Saved,
        options: LayerOptions,
        documents: &CuSeqlens,
        dx: &Tensor,
        gradients: &Self::Gradients,
    ) -> Result<()>;

    /// The same block with its matrices packed for the products of sampling, where there are such.
    ///
    /// # Errors
    /// When this CPU has no products in `precision`.
    fn pack(self, precision: Precision) -> Result<Self>;
}

/// How a layer is computed in one pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerOptions {
    /// The layer's stream of dropout masks; without one there is no dropout.
    pub dropout: Option<Stream>,
    /// The number format of the products' operands.
    pub precision: Precision,
}

/// The shape of multi-head attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// How many there are.
    pub count: usize,
    /// The factor of the scores.
    pub scale: f64,
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
    /// The attended values `[N, C]` of queries, keys and values `[N, 3 C]`, or of the rows that are wanted.
    ///
    /// # Errors
    /// When the cache is full or a tensor operation fails.
    pub fn attend(&mut self, qkv: &Tensor, heads: Heads, dropout: Option<Dropout>) -> Result<Tensor> {
        match self {
            Self::Documents(documents) => {
                Ok(causal_attention(qkv, documents, heads.count, heads.scale, dropout)?)
            }
            Self::Prompts { documents, cache, layer, rows } => {
                cache.push_prompt(qkv, documents)?;
                match rows {
                    Some(rows) => cache.attend_again(*layer, &qkv.index_select(rows, 0)?, heads.scale),
                    None => Ok(causal_attention(qkv, documents, heads.count, heads.scale, dropout)?),
                }
            }
            Self::Cached { cache, layer } => cache.attend(*layer, qkv, heads.scale),
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
