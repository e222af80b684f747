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
use std::sync::Arc;

use anyhow::Result;
use candle_core::Device;
use mixce_eval::metric::{Need, Resampling, ScoreTable, Scorer, Scores, SetScores, TextCounts};
use mixce_train::distributed::{Communicator, Launched, first_rank_first, lead, require_same};

use crate::commands::evaluate::Compat;
use crate::context::{Context, device_name};
use crate::files::{self, OutputFile};
use crate::{progress, ranks};
pub(crate) use args::{DEFAULT_FEATURIZER, ScoreArgs, check_resampling};
use cache::RowSource;
use features::FeatureFiles;
pub(crate) use featurize::Featurizer;
use models::Models;
use prepare::Preparation;
use prompts::Split;
use settings::Settings;
use texts::{TextSet, Words};

pub(crate) fn run(args: &ScoreArgs, context: &Context) -> Result<()> {
    let scorer = args.scorer(context.seed())?;
    let launched = Launched::of_environment()?;
    let ranks = ranks::connect(launched, args.patience.timeout())?;
    if let Some(path) = args.per_text.as_ref().filter(|_| ranks.rank() == 0) {
        files::refuse_existing(path, args.overwrite)?;
        files::refuse_input(path, args.human.iter().chain(&args.model_text).map(PathBuf::as_path))?;
    }
    let scored = scored(args, &scorer, context, launched, ranks.clone())?;
    ranks::disconnect(ranks);
    let Some((table, settings)) = scored else { return Ok(()) };
    if let Some(path) = &args.per_text {
        let mut file = OutputFile::claim(path, args.overwrite)?;
        file.put(format!("{}\n", table::per_text(&table)).as_bytes())?;
        file.finish()?;
    }
    context.output.either(&table::json(&table, &settings)?, || table::text(&table, &settings))
}

/// The scores and their settings on the first process, which reads the texts and computes the metrics; all share the passes of models.
fn scored(
    args: &ScoreArgs,
    scorer: &Scorer,
    context: &Context,
    launched: Option<Launched>,
    ranks: Arc<dyn Communicator>,
) -> Result<Option<(ScoreTable, Settings)>> {
    let named = if args.model_text.is_empty() { &args.model_features } else { &args.model_text };
    let names = texts::names(named);
    let (human, systems) = ranks::from_first(&*ranks, || read(args, &names))?;
    let device = context.start_rank(None, ranks::threads(launched), launched.as_ref())?;
    let features = FeatureFiles::read(args.human_features.as_deref(), &args.model_features)?;
    let source = RowSource::new(ranks.clone(), || args.cache());
    let load = || Models::load(args, &scorer.needs(), features.is_some(), &device, &source);
    let models = first_rank_first(&*ranks, load)?;
    require_same(&*ranks, "model", models.fingerprint())?;
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
    let settings = settings_of(&preparation, scorer, &resampling, &device)?;
    let table = score(&*ranks, preparation, scorer, &names, &resampling)?;
    Ok(table.map(|table| (table, settings)))
}

/// The human texts and those of the systems.
fn read(args: &ScoreArgs, names: &[String]) -> Result<(Option<TextSet>, Vec<TextSet>)> {
    let read = |path: &PathBuf, name: &str| TextSet::read(path, name.to_owned(), &args.reading);
    let human = args.human.as_ref().map(|path| read(path, "human")).transpose()?;
    let systems = args.model_text.iter().zip(names).map(|(path, name)| read(path, name));
    Ok((human, systems.collect::<Result<_>>()?))
}

/// Scores every set, the human one first, and compares the systems. All ranks prepare the inputs; rank 0 alone has a result.
fn score(
    ranks: &dyn Communicator,
    mut preparation: Preparation<'_>,
    scorer: &Scorer,
    names: &[String],
    resampling: &Resampling,
) -> Result<Option<ScoreTable>> {
    let reference = preparation.reference()?;
    let bar = progress::bar(names.len() as u64 + u64::from(preparation.human.is_some()), "sets scored");
    let finished = |name: &str, set: Option<&TextSet>, scores: Scores| {
        bar.inc(1);
        scores.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        SetScores { name: name.to_owned(), texts: set.map(count), scores }
    };
    let human = match preparation.human {
        Some(set) => {
            let prepared = preparation.human(set)?;
            let score = || -> Result<_> { Ok(scorer.score_human(&prepared.inputs(&reference))?) };
            lead(ranks, score)?.map(|scores| finished(&set.name, Some(set), scores))
        }
        None => None,
    };
    let mut systems = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let prepared = preparation.system(index)?;
        let score = || -> Result<_> { Ok(scorer.score_system(name, &prepared.inputs(&reference))?) };
        let scores = lead(ranks, score)?;
        systems.extend(scores.map(|scores| finished(name, preparation.systems.get(index), scores)));
    }
    bar.finish_and_clear();
    lead(ranks, || Ok(ScoreTable::new(human, systems, resampling)))
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
