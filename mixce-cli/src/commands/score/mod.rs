//! `mixce score`: how human the texts of some systems are.

mod args;
mod cache;
mod coherence;
mod controlled;
mod distances;
mod embed;
mod featurize;
mod report;
mod significance;
mod surface;
mod texts;

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use candle_core::Device;
use mixce_eval::mauve::MauveSettings;
use mixce_lm::Tokenizer;
use serde_json::{Value, json};

use crate::commands::evaluate::Compat;
use crate::context::{Context, device_name};
use crate::error::Problem;
use crate::models::Network;
use crate::{models, progress};
pub(crate) use args::ScoreArgs;
use args::{DEFAULT_FEATURIZER, Metric};
use coherence::Split;
use controlled::Controlled;
use distances::FeatureFiles;
use embed::{DEFAULT_EMBEDDER, Embedder};
use featurize::Featurizer;
use report::Report;
use significance::Resampling;
use surface::Scores;
use texts::{TextSet, Words};

pub(crate) fn run(args: &ScoreArgs, context: &Context) -> Result<()> {
    args.check()?;
    let wanted = args.wanted()?;
    let settings = args.mauve.settings(context.seed())?;
    let files = if args.model_text.is_empty() { &args.model_features } else { &args.model_text };
    let names = texts::names(files);
    let read = |path: &std::path::PathBuf, name: &str| TextSet::read(path, name.to_owned(), &args.reading);
    let human = args.human.as_ref().map(|path| read(path, "human")).transpose()?;
    let systems: Vec<TextSet> =
        args.model_text.iter().zip(&names).map(|(path, name)| read(path, name)).collect::<Result<_>>()?;
    let device = context.start()?;
    let features = FeatureFiles::read(args.human_features.as_deref(), &args.model_features)?;
    let models = Models::load(args, &wanted, features.is_some(), &device)?;

    let resampling = Resampling { resamples: args.resamples, level: args.confidence, seed: context.seed() };
    let mut report = Report::new(&wanted, resampling);
    report.setting("device", json!(device_name(&device)));
    models.report(args, &mut report)?;
    let sets: Vec<&TextSet> = human.iter().chain(&systems).collect();
    let mut scores = surface_scores(args, &sets, &wanted, &models, &mut report)?;
    if !systems.is_empty() || features.is_none() {
        sets.iter().for_each(|set| report.count(set));
    }
    model_scores(args, (&sets, &mut scores), &wanted, &models, (&settings, context.seed()), &mut report)?;
    // Without texts there are features alone, and nothing to say about the human side.
    let mut system_scores = if scores.is_empty() { Vec::new() } else { scores.split_off(1) };
    system_scores.resize_with(names.len(), Scores::default);
    if wanted.contains(&Metric::Mauve) {
        let pairs = match (&features, &models.featurizer, &human) {
            (Some(features), ..) => {
                report.setting("features", features.names());
                features.clone()
            }
            (None, Some(featurizer), Some(human)) => FeatureFiles::extract(featurizer, human, &systems)?,
            _ => return Err(Problem::new("MAUVE needs texts, or features of both sides").into()),
        };
        distances::add(&mut system_scores, &names, &pairs, &settings)?;
    }
    if wanted.contains(&Metric::Mauve) || wanted.contains(&Metric::ControlledMauve) {
        report.setting("mauve", json!(settings));
    }
    report.finish(scores.pop(), names.into_iter().zip(system_scores).collect());
    context.output.either(&report.json(), || report.text())
}

/// The models that the metrics need.
struct Models {
    featurizer: Option<Featurizer>,
    embedder: Option<Embedder>,
    /// The tokenizer that was named.
    tokenizer: Option<Tokenizer>,
}

impl Models {
    fn load(args: &ScoreArgs, wanted: &HashSet<Metric>, has_features: bool, device: &Device) -> Result<Self> {
        let wants = |metric: Metric| wanted.contains(&metric);
        let featurizer = (wants(Metric::Mauve) && !has_features) || wants(Metric::ControlledMauve);
        let featurizer = featurizer.then(|| {
            let name = args.featurizer.as_deref().unwrap_or(DEFAULT_FEATURIZER);
            Featurizer::load(name, device, args.max_length, args.batch_tokens, args.cache())
        });
        let embedder = (wants(Metric::Coherence) || wants(Metric::ControlledCoherence)).then(|| {
            let name = args.embedder.as_deref().unwrap_or(DEFAULT_EMBEDDER);
            Embedder::load(name, device, args.batch_tokens, args.cache())
        });
        let here = std::path::Path::new(".");
        let named = args.tokenizer.as_deref();
        let tokenizer = named.map(|name| models::tokenizer_for(Some(name), here, Network::Allowed));
        Ok(Self {
            featurizer: featurizer.transpose()?,
            embedder: embedder.transpose()?,
            tokenizer: tokenizer.transpose()?,
        })
    }

    /// The tokenizer that was named, else the featurizer's.
    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref().or_else(|| self.featurizer.as_ref().map(Featurizer::tokenizer))
    }

    fn report(&self, args: &ScoreArgs, report: &mut Report) -> Result<()> {
        let featurizer_name = args.featurizer.as_deref().unwrap_or(DEFAULT_FEATURIZER);
        if let Some(featurizer) = &self.featurizer {
            report.setting(
                "featurizer",
                json!({
                    "model": featurizer_name, "fingerprint": featurizer.fingerprint, "max_length": featurizer.max_tokens,
                }),
            );
        }
        if let Some(embedder) = &self.embedder {
            report.setting("embedder", embedder.settings());
        }
        if let Some(tokenizer) = self.tokenizer() {
            let name = args.tokenizer.as_deref().unwrap_or(featurizer_name);
            report.setting("tokenizer", json!({"model": name, "fingerprint": tokenizer.fingerprint()?}));
        }
        Ok(())
    }
}

/// Coherence and the controlled metrics, which are about both sides.
fn model_scores(
    args: &ScoreArgs,
    (sets, scores): (&[&TextSet], &mut [Scores]),
    wanted: &HashSet<Metric>,
    models: &Models,
    (mauve, seed): (&MauveSettings, u64),
    report: &mut Report,
) -> Result<()> {
    if let Some(embedder) = models.embedder.as_ref().filter(|_| wanted.contains(&Metric::Coherence)) {
        let split = match args.compat {
            Some(Compat::Authors) => Split::CommonPrefix,
            None => Split::known(models.tokenizer(), args.prompt_length),
        };
        report.setting("prompts", split.settings());
        coherence::add(scores, sets, &split, embedder)?;
    }
    if wanted.contains(&Metric::ControlledMauve) || wanted.contains(&Metric::ControlledCoherence) {
        let controlled = Controlled {
            flags: &args.windows,
            wanted,
            featurizer: models.featurizer.as_ref(),
            embedder: models.embedder.as_ref(),
            mauve,
            prompt_tokens: args.prompt_length,
            seed,
        };
        report.setting("windows", controlled.add(scores, sets)?);
    }
    Ok(())
}

/// The metrics of the surface for each set, with the tokens they are made of.
fn surface_scores(
    args: &ScoreArgs,
    sets: &[&TextSet],
    wanted: &HashSet<Metric>,
    models: &Models,
    report: &mut Report,
) -> Result<Vec<Scores>> {
    if !wanted.iter().any(|metric| metric.is_of_surface()) {
        return Ok(sets.iter().map(|_| Scores::default()).collect());
    }
    let mut words = match models.tokenizer() {
        Some(tokenizer) => Words::Tokens(tokenizer),
        None => {
            tracing::warn!(
                "no `--tokenizer`: n-grams and lengths are of whitespace words; the paper's are of GPT-2's tokens"
            );
            report.setting("tokenizer", Value::Null);
            Words::Whitespace(HashMap::new())
        }
    };
    report.setting("unit", json!(words.unit()));
    report.setting("self_bleu_texts", json!(args.self_bleu_texts));
    let bar = progress::bar(sets.len() as u64, "files");
    let mut found = Vec::with_capacity(sets.len());
    for set in sets {
        let mut scores = Scores::default();
        let ids = words.ids(&set.wholes)?;
        surface::add(&mut scores, set, &ids, wanted, args.self_bleu_texts);
        found.push(scores);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(found)
}
