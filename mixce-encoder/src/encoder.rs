//! The encoder, which maps texts to unit vectors.
//!
//! Legend: B texts of a batch, T tokens of the longest of them, C channels.

use std::fmt;
use std::path::Path;

use candle_core::{DType, Device, IndexOp as _, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use mixce_base::digest::{Digest as _, Sha256, hex};
use mixce_lm::Tokenizer;
use rayon::prelude::*;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::pooling::{Pooling, Recipe, object};
use crate::weights;

/// A BERT (Devlin et al., NAACL 2019) for sentence embeddings: SimCSE (Gao et al., EMNLP 2021), or a sentence-transformers model.
pub struct SentenceEncoder {
    bert: BertModel,
    /// Weight `[C, C]` (inputs last) and bias of the pooler, where the pooling has one.
    pooler: Option<(Tensor, Tensor)>,
    pooling: Pooling,
    tokenizer: Tokenizer,
    max_tokens: usize,
    width: usize,
    fingerprint: String,
}

impl fmt::Debug for SentenceEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentenceEncoder")
            .field("pooling", &self.pooling)
            .field("max_tokens", &self.max_tokens)
            .field("width", &self.width)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl SentenceEncoder {
    /// Loads `config.json`, weights (safetensors or PyTorch's) and tokenizer (`tokenizer.json` or `vocab.txt`) of a folder.
    ///
    /// `name` is the checkpoint's name, the only indication that a SimCSE checkpoint is unsupervised. Texts are truncated to `max_tokens`
    /// tokens, or to the limit of the model's positions or its sentence-transformers settings if that is lower.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another architecture than BERT or another pooling than [`Pooling`] has, [`Error::Weights`] when
    /// tensors are missing or misshapen, [`Error::Checkpoint`] for damaged files.
    pub fn load(folder: &Path, name: &str, device: &Device, max_tokens: usize) -> Result<Self> {
        let path = folder.join("config.json");
        let config = config(&path)?;
        let recipe = Recipe::of(folder, name)?;
        let tokenizer = Tokenizer::from_dir(folder)?;
        if tokenizer.vocab_size() > config.vocab_size {
            let (tokenizer, model) = (tokenizer.vocab_size(), config.vocab_size);
            return Err(mixce_lm::Error::VocabularyTooLarge { tokenizer, model }.into());
        }
        let (tensors, digest) = weights::load(folder, device)?;
        let unfit = |problem: String| Error::Weights { path: folder.to_owned(), problem };
        let width = config.hidden_size;
        let pooler = match recipe.pooling {
            Pooling::ClsPooler => {
                let get = |part: &str, shape: &[usize]| match tensors.get(&format!("pooler.dense.{part}")) {
                    Some(tensor) if tensor.dims() == shape => Ok(tensor.clone()),
                    Some(tensor) => {
                        let got = tensor.dims();
                        Err(unfit(format!("`pooler.dense.{part}`: expected {shape:?}, got {got:?}")))
                    }
                    None => Err(unfit(format!("no `pooler.dense.{part}`, which SimCSE's pooling needs"))),
                };
                Some((get("weight", &[width, width])?, get("bias", &[width])?))
            }
            Pooling::Cls | Pooling::Mean => None,
        };
        let builder = VarBuilder::from_tensors(tensors, DType::F32, device);
        let bert = BertModel::load(builder, &config).map_err(|error| unfit(error.to_string()))?;
        let limits = [config.max_position_embeddings, recipe.max_tokens.unwrap_or(usize::MAX)];
        let max_tokens = limits.into_iter().fold(max_tokens, usize::min);
        let mut hash = Sha256::new();
        hash.update(format!("{config:?}\0{recipe:?}\0{}\0", tokenizer.fingerprint()?));
        hash.update(digest);
        let fingerprint = hex(&hash.finalize());
        Ok(Self { bert, pooler, pooling: recipe.pooling, tokenizer, max_tokens, width, fingerprint })
    }

    /// The pooling method.
    #[must_use]
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// The dimension of a vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The maximum number of tokens of a text, `[CLS]` and `[SEP]` included.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// SHA-256, in hex, of everything that determines the vectors, except [`SentenceEncoder::max_tokens`].
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The concatenated unit vectors of texts (a zero vector stays zero). An empty text is `[CLS] [SEP]`.
    ///
    /// Texts of similar lengths are batched, with about `batch_tokens` tokens per batch including padding. The batch size affects time and
    /// memory, and the vectors only by rounding.
    ///
    /// # Errors
    /// When the tokenizer or a tensor operation fails.
    pub fn embed<T: AsRef<str> + Sync>(&self, texts: &[T], batch_tokens: usize) -> Result<Vec<f32>> {
        let ids: Vec<Vec<u32>> = texts
            .par_iter()
            .map(|text| self.tokenizer.encode_in_template(text.as_ref(), self.max_tokens))
            .collect::<mixce_lm::Result<_>>()?;
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&text| ids[text].len());
        // candle's operations between the matrix products are single-threaded: parallel batches use the other threads.
        let vectors: Vec<(&[usize], Vec<f32>)> = batches(&order, &ids, batch_tokens)
            .into_par_iter()
            .map(|batch| Ok((batch, self.embed_batch(batch, &ids)?)))
            .collect::<Result<_>>()?;
        let mut all = vec![0.0; ids.len() * self.width];
        for (batch, vectors) in vectors {
            for (&text, vector) in batch.iter().zip(vectors.chunks_exact(self.width)) {
                all[text * self.width..][..self.width].copy_from_slice(vector);
            }
        }
        Ok(all)
    }

    /// The vectors of some texts, padded to the longest of them.
    fn embed_batch(&self, batch: &[usize], ids: &[Vec<u32>]) -> Result<Vec<f32>> {
        let longest = batch.iter().map(|&text| ids[text].len()).max().unwrap_or(0);
        let padded = |row: &dyn Fn(u32) -> u32| -> Result<Tensor> {
            let mut values = vec![0u32; batch.len() * longest];
            for (row_values, &text) in values.chunks_exact_mut(longest.max(1)).zip(batch) {
                row_values.iter_mut().zip(&ids[text]).for_each(|(value, &id)| *value = row(id));
            }
            Ok(Tensor::from_vec(values, (batch.len(), longest), &self.bert.device)?)
        };
        let (ids_bt, mask_bt) = (padded(&|id| id)?, padded(&|_| 1)?);
        let hidden_btc = self.bert.forward(&ids_bt, &ids_bt.zeros_like()?, Some(&mask_bt))?;
        let pooled_bc = match (self.pooling, &self.pooler) {
            (Pooling::Mean, _) => {
                let mask_bt1 = mask_bt.to_dtype(DType::F32)?.unsqueeze(2)?;
                let sum_bc = hidden_btc.broadcast_mul(&mask_bt1)?.sum(1)?;
                sum_bc.broadcast_div(&mask_bt1.sum(1)?)?
            }
            (_, None) => hidden_btc.i((.., 0))?,
            (_, Some((weight, bias))) => {
                let cls_bc = hidden_btc.i((.., 0))?.contiguous()?;
                cls_bc.matmul(&weight.t()?)?.broadcast_add(bias)?.tanh()?
            }
        };
        let mut vectors: Vec<f32> = pooled_bc.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        vectors.chunks_exact_mut(self.width).for_each(normalise);
        Ok(vectors)
    }
}

/// Reads and checks the configuration of a BERT.
fn config(path: &Path) -> Result<Config> {
    let object = object(path)?;
    let kind = object.get("model_type").and_then(Value::as_str).unwrap_or("none");
    if kind != "bert" {
        return Err(Error::unsupported(path, format!("`model_type`: expected `bert`, got `{kind}`")));
    }
    if object.get("is_decoder") == Some(&Value::Bool(true)) {
        return Err(Error::unsupported(path, "`is_decoder`: expected false, got true"));
    }
    let config: Config = serde_json::from_value(Value::Object(object))
        .map_err(|error| Error::unsupported(path, format!("not a configuration of a BERT: {error}")))?;
    let (width, heads) = (config.hidden_size, config.num_attention_heads);
    if width == 0 || heads == 0 || width % heads != 0 || config.num_hidden_layers > MAX_LAYERS {
        let problem = format!(
            "`hidden_size` {width}, `num_attention_heads` {heads}, `num_hidden_layers` {}: expected a multiple, and at most {MAX_LAYERS} layers",
            config.num_hidden_layers
        );
        return Err(Error::unsupported(path, problem));
    }
    Ok(config)
}

/// More layers than any BERT has; a larger number means a damaged file.
const MAX_LAYERS: usize = 1000;

/// Runs of texts, in this order, whose number times the longest length is at most `batch_tokens`; at least one text each.
fn batches<'o>(order: &'o [usize], ids: &[Vec<u32>], batch_tokens: usize) -> Vec<&'o [usize]> {
    let mut found = Vec::new();
    let mut rest = order;
    while !rest.is_empty() {
        // The order is by length, so the last one of a run is its longest.
        let fits =
            |&(index, text): &(usize, &usize)| (index + 1).saturating_mul(ids[*text].len()) <= batch_tokens;
        let count = rest.iter().enumerate().take_while(fits).count().max(1);
        let (batch, others) = rest.split_at(count);
        found.push(batch);
        rest = others;
    }
    found
}

fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_what_fits_with_padding() {
        let ids: Vec<Vec<u32>> = [2, 3, 3, 5, 40].iter().map(|&n| vec![0; n]).collect();
        let order = [0, 1, 2, 3, 4];
        assert_eq!(batches(&order, &ids, 9), [&[0usize, 1, 2][..], &[3], &[4]]);
        assert_eq!(batches(&order, &ids, 0).len(), 5);
        assert_eq!(batches(&order, &ids, usize::MAX), [&order[..]]);
        assert!(batches(&[], &ids, 9).is_empty());
    }
}
