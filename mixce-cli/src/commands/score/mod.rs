//! `mixce score`: compares generated with human texts.

mod args;
mod cache;
mod embed;
mod features;
mod featurize;
mod metric_flags;
mod models;
mod prepare;
mod prompts;
mod settings;
mod table;
mod texts;
mod windows;

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use candle_core::Device;
use mixce_eval::metric::{Need, Resampling, ScoreTable, Scorer, Scores, SetScores, TextCounts};

use crate::commands::evaluate::Compat;
use crate::context::{Context, device_name};
use crate::files::{self, OutputFile};
use crate::progress;
pub(crate) use args::{DEFAULT_FEATURIZER, ScoreArgs, check_resampling};
use features::FeatureFiles;
pub(crate) use featurize::Featurizer;
use models::Models;
use prepare::Preparation;
use prompts::Split;
use settings::Settings;
use texts::{TextSet, Words};

pub(crate) fn run(args: &ScoreArgs, context: &Context) -> Result<()> {
    let scorer = args.scorer(context.seed())?;
    if let Some(path) = &args.per_text {
        files::refuse_existing(path, args.overwrite)?;
        files::refuse_input(path, args.human.iter().chain(&args.model_text).map(PathBuf::as_path))?;
    }
    let human =
        args.human.as_ref().map(|path| TextSet::read(path, "human".to_owned(), &args.reading)).transpose()?;
    let named = if args.model_text.is_empty() { &args.model_features } else { &args.model_text };
    let names = texts::names(named);
    let systems = args.model_text.iter().zip(&names);
    let systems: Vec<TextSet> = systems
        .map(|(path, name)| TextSet::read(path, name.clone(), &args.reading))
        .collect::<Result<_>>()?;
    let device = context.start()?;
    let features = FeatureFiles::read(args.human_features.as_deref(), &args.model_features)?;
    let models = Models::load(args, &scorer.needs(), features.is_some(), &device)?;
    let preparation = Preparation {
        args,
        needs: scorer.needs(),
        models: &models,
        files: features.as_ref(),
        split: match args.compat {
            Some(Compat::Authors) => Split::CommonPrefix,
            None => Split::known(models.tokenizer(), args.prompt_length),
        },
        human: human.as_ref(),
        systems: &systems,
        words: models.tokenizer().map_or_else(|| Words::Whitespace(HashMap::new()), Words::Tokens),
        seed: context.seed(),
    };
    let resampling = Resampling { resamples: args.resamples, level: args.confidence, seed: context.seed() };
    let settings = settings_of(&preparation, &scorer, &resampling, &device)?;
    let table = score(preparation, &scorer, &names, &resampling)?;
    if let Some(path) = &args.per_text {
        let mut file = OutputFile::claim(path, args.overwrite)?;
        file.put(format!("{}\n", table::per_text(&table)).as_bytes())?;
        file.finish()?;
    }
    context.output.either(&table::json(&table, &settings)?, || table::text(&table, &settings))
}

/// Scores every set, the human one first, and compares the systems.
fn score(
    mut preparation: Preparation<'_>,
    scorer: &Scorer,
    names: &[String],
    resampling: &Resampling,
) -> Result<ScoreTable> {
    let reference = preparation.reference()?;
    let bar = progress::bar(names.len() as u64 + u64::from(preparation.human.is_some()), "sets scored");
    let finished = |name: &str, set: Option<&TextSet>, scores: Scores| {
        bar.inc(1);
        scores.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        SetScores { name: name.to_owned(), texts: set.map(count), scores }
    };
    let human = match preparation.human {
        Some(set) => {
            let scores = scorer.score_human(&preparation.human(set)?.inputs(&reference))?;
            Some(finished(&set.name, Some(set), scores))
        }
        None => None,
    };
    let mut systems = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let scores = scorer.score_system(name, &preparation.system(index)?.inputs(&reference))?;
        systems.push(finished(name, preparation.systems.get(index), scores));
    }
    bar.finish_and_clear();
    Ok(ScoreTable::new(human, systems, resampling))
}

/// Counts the texts, with a warning if some are empty.
fn count(set: &TextSet) -> TextCounts {
    let (texts, empty) = (set.texts.len(), set.empty());
    if empty > 0 {
        tracing::warn!("{}: {empty} of {texts} texts are empty and not scored", set.name);
    }
    TextCounts { texts, empty }
}

/// The settings in the output. Refuses sets that cannot be split into prompts and continuations.
fn settings_of(
    preparation: &Preparation<'_>,
    scorer: &Scorer,
    resampling: &Resampling,
    device: &Device,
) -> Result<Settings> {
    let Preparation { args, needs, models, .. } = preparation;
    let needs = |need: Need| needs.contains(&need);
    let sets: Vec<&TextSet> = preparation.human.into_iter().chain(preparation.systems).collect();
    let mut tokenizer = models.tokenizer_record(args)?.map(Some);
    if needs(Need::TokenIds) && tokenizer.is_none() {
        tracing::warn!(
            "no `--tokenizer`: n-grams and lengths are in whitespace words; the paper uses GPT-2's tokens"
        );
        tokenizer = Some(None);
    }
    if needs(Need::Embeddings) {
        preparation.split.check(&sets)?;
    }
    let of_windows = needs(Need::WindowFeatures) || needs(Need::WindowEmbeddings);
    Ok(Settings {
        version: env!("CARGO_PKG_VERSION"),
        metrics: scorer.metrics().map(|metric| metric.name).collect(),
        seed: resampling.seed,
        resamples: resampling.resamples,
        confidence: resampling.level,
        device: device_name(device),
        unit: needs(Need::TokenIds).then(|| preparation.words.unit()),
        tokenizer,
        featurizer: models.featurizer_record(args),
        features: preparation.files.filter(|_| needs(Need::Features)).map(|files| files.paths.clone()),
        embedder: models.embedder.as_ref().map(embed::Embedder::record),
        prompts: needs(Need::Embeddings).then(|| preparation.split.record()),
        windows: of_windows.then(|| args.windows.record(&sets, args.prompt_length, resampling.seed)),
        of_metrics: scorer.settings().clone(),
    })
}
