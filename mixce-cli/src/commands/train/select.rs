//! `--select mauve`: at each evaluation, the model continues development documents, and MAUVE compares the continuations with them.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use candle_core::Device;
use mixce_eval::features::Features;
use mixce_eval::mauve::{MauveSettings, mauve};
use mixce_lm::generate::{GenerateOptions, generate_while};
use mixce_lm::sampling::Sampling;
use mixce_lm::{LanguageModel, ScoringOptions, Tokenizer, stop_ids};
use mixce_train::config::{Selection, TrainConfig};
use mixce_train::data::Examples;
use mixce_train::prepare::{Prepared, Sources};
use mixce_train::selector::Selector;

use crate::commands::score::{DEFAULT_FEATURIZER, Featurizer};
use crate::error::Problem;

/// Samples per batch.
const BATCH: usize = 32;

/// Scores a model by MAUVE.
#[derive(Debug)]
pub(super) struct MauveSelector {
    prompts: Vec<Vec<u32>>,
    human: Features,
    featurizer: Featurizer,
    tokenizer: Tokenizer,
    options: GenerateOptions,
    config: TrainConfig,
}

impl MauveSelector {
    /// The selector of a run; none unless it selects by MAUVE.
    pub(super) fn of(
        config: &TrainConfig,
        prepared: &Prepared,
        sources: &Sources,
        device: &Device,
    ) -> Result<Option<Self>> {
        let (Selection::Mauve, Some(valid)) = (config.select, &prepared.valid) else { return Ok(None) };
        let positions = prepared.model.spec().positions;
        let longest = config.max_length_for(positions).min(positions);
        let prompt_tokens = config.select_prompt_length;
        if longest <= prompt_tokens + 1 {
            let problem =
                format!("`--select-prompt-length {prompt_tokens}` leaves no room within {longest} tokens");
            return Err(Problem::new(problem).hint("lower it, or raise `--max-length`").into());
        }
        let documents = documents(valid, config, prepared, longest);
        if documents.len() < 2 {
            let problem = format!(
                "`--select mauve` needs 2 development documents of more than {prompt_tokens} tokens, got {}",
                documents.len()
            );
            return Err(Problem::new(problem).hint("lower `--select-prompt-length`").into());
        }
        let tokenizer = Tokenizer::from_dir(&sources.tokenizer)?;
        let vocabulary = prepared.model.spec().vocabulary;
        let eos = stop_ids(sources.model.as_deref().unwrap_or(&sources.tokenizer), &tokenizer, vocabulary)?;
        let name = config.select_featurizer.as_deref().unwrap_or(DEFAULT_FEATURIZER);
        let precision = config.precision.into();
        let options = ScoringOptions { precision, ..ScoringOptions::default() };
        let featurizer = Featurizer::uncached(name, device, options)?;
        let texts =
            documents.iter().map(|tokens| tokenizer.decode_plain(tokens)).collect::<Result<Vec<_>, _>>()?;
        let human = featurizer.features(&texts)?;
        let options = GenerateOptions {
            sampling: Sampling::default(),
            max_new_tokens: longest - prompt_tokens,
            eos,
            batch_size: BATCH,
            seed: config.seed,
        };
        let prompts = documents.into_iter().map(|mut tokens| {
            tokens.truncate(prompt_tokens);
            tokenizer.opening().into_iter().chain(tokens).collect()
        });
        let prompts = prompts.collect();
        Ok(Some(Self { prompts, human, featurizer, tokenizer, options, config: config.clone() }))
    }

    fn mauve(&self, model: &dyn LanguageModel, stop: &AtomicBool) -> Result<f64> {
        let decoder = model.detached()?.into_decoder(self.config.precision.into())?;
        let mut texts = Vec::with_capacity(self.prompts.len());
        let numbered: Vec<(u64, &[u32])> = (0..).zip(self.prompts.iter().map(Vec::as_slice)).collect();
        let samples =
            generate_while(&*decoder, &numbered, &self.options, &mut |_, _| !stop.load(Ordering::Relaxed))?;
        for sample in samples.ok_or(mixce_train::Error::Interrupted)? {
            let prompt = &self.prompts[usize::try_from(sample.index)?];
            let prompt = &prompt[self.tokenizer.opening().map_or(0, |_| 1)..];
            texts.push(self.tokenizer.decode_plain(&[prompt, &sample.tokens].concat())?);
        }
        let features = self.featurizer.features_unless(stop, &texts)?;
        let features = features.ok_or(mixce_train::Error::Interrupted)?;
        Ok(mauve(&self.human, &features, &MauveSettings::default())?.mauve.mean)
    }
}

impl Selector for MauveSelector {
    fn score(&self, model: &dyn LanguageModel, stop: &AtomicBool) -> mixce_train::Result<f64> {
        self.mauve(model, stop).map_err(|error| {
            if stop.load(Ordering::Relaxed) {
                mixce_train::Error::Interrupted
            } else {
                mixce_train::Error::Selector(error.into())
            }
        })
    }
}

/// The tokens of the first development documents that are longer than a prompt, without BOS and EOS.
fn documents(valid: &Examples, config: &TrainConfig, prepared: &Prepared, longest: usize) -> Vec<Vec<u32>> {
    let store = valid.store();
    let skipped = usize::from(config.add_bos_for(Some(&prepared.tokenizer)));
    let text = |index: usize| {
        let tokens = store.document(index);
        tokens[skipped..tokens.len() - 1].iter().copied().take(longest).collect::<Vec<u32>>()
    };
    let long = (0..store.len()).map(text).filter(|tokens| tokens.len() > config.select_prompt_length);
    long.take(config.select_documents).collect()
}
