//! Features of texts: the final hidden state at the last token.

use candle_core::{DType, Device, Tensor};
use mixce_kernels::upload;

use crate::error::{Error, Result};
use crate::model::{LanguageModel, ScoringOptions};

/// See [`LanguageModel::last_hidden_states`].
pub(crate) fn last_hidden_states<M: LanguageModel + ?Sized>(
    model: &M,
    texts: &[&[u32]],
    options: ScoringOptions,
) -> Result<Tensor> {
    if let Some(text) = texts.iter().position(|ids| ids.is_empty()) {
        return Err(Error::EmptyText { text });
    }
    let mut batches = Vec::new();
    let mut rest = texts;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |ids: &&&[u32]| {
            tokens += ids.len();
            tokens <= options.batch_tokens
        };
        let (batch, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        batches.push(last_of_batch(model, batch, options)?);
        rest = others;
    }
    match batches.is_empty() {
        true => Ok(Tensor::zeros((0, model.spec().channels), DType::F32, &Device::Cpu)?),
        false => Ok(Tensor::cat(&batches, 0)?),
    }
}

fn last_of_batch<M: LanguageModel + ?Sized>(
    model: &M,
    texts: &[&[u32]],
    options: ScoringOptions,
) -> Result<Tensor> {
    let batch = model.pack(texts)?;
    let last: Vec<u32> = batch.cu_seqlens.offsets()[1..].iter().map(|end| *end as u32 - 1).collect();
    let hidden = model.scoring_states(&batch, options.precision)?;
    let last = upload(&last, texts.len(), hidden.device())?;
    Ok(hidden.index_select(&last, 0)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?)
}
