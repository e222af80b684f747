//! `mixce score`: how human the texts of some systems are.

mod cache;
mod distances;
mod featurize;
mod report;
mod significance;
mod surface;
mod texts;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::context::{Context, device_name};
use crate::error::Problem;
use crate::{models, progress};
use cache::Cache;
use distances::{FeatureFiles, MauveFlags};
use featurize::Featurizer;
use report::Report;
use significance::Resampling;
use surface::Scores;
use texts::{TextSet, Words};

/// The model that the MixCE authors take MAUVE's features from.
const DEFAULT_FEATURIZER: &str = "openai-community/gpt2-large";

/// Score texts against human ones: diversity, repetition, lengths, MAUVE, with intervals and paired tests
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mixce score --human test.txt --model-text mle.jsonl mixce.jsonl --tokenizer openai-community/gpt2\n\n\
    A file has one text a line, or is .jsonl with `text`, or with `prompt` and `continuation` (or `text`), as `mixce generate --json` writes."
)]
pub(crate) struct ScoreArgs {
    /// Texts that people wrote
    #[arg(long, value_name = "FILE", required_unless_present = "human_features")]
    human: Option<PathBuf>,
    /// Texts that systems wrote, one file a system, named by its stem
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "human_features")]
    model_text: Vec<PathBuf>,
    /// What to compute [default: all that needs no further model, MAUVE with features or a featurizer]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "METRICS")]
    metrics: Vec<Metric>,
    /// Folder or hub id of the tokenizer of n-grams and lengths [default: the featurizer's, else whitespace words]
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
    /// Folder or hub id of the GPT-2 that MAUVE takes its features from
    #[arg(long, value_name = "MODEL")]
    featurizer: Option<String>,
    /// Features of the human texts, .npy or .safetensors, one row a text
    #[arg(long, value_name = "FILE", requires = "model_features", conflicts_with = "featurizer")]
    human_features: Option<PathBuf>,
    /// Features of the systems' texts, in the order of `--model-text` if that is given
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "human_features")]
    model_features: Vec<PathBuf>,
    #[command(flatten)]
    mauve: MauveFlags,
    /// Tokens of a text that MAUVE's features see
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    max_length: usize,
    /// Tokens that go through a model together; memory only
    #[arg(long, default_value_t = 4096, value_name = "TOKENS")]
    batch_tokens: usize,
    /// Folder of the features that were computed before [default: $XDG_CACHE_HOME/mixce/features]
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
    /// Neither read nor keep features on disk
    #[arg(long, conflicts_with = "cache_dir")]
    no_cache: bool,
    /// Self-BLEU compares this many texts, the first of a file
    #[arg(long, default_value_t = 1000, value_name = "N")]
    self_bleu_texts: usize,
    /// Resamples of an interval and sign patterns of a paired test; 0: neither
    #[arg(long, default_value_t = 2000, value_name = "N")]
    resamples: usize,
    /// Level of the confidence intervals, between 0 and 1
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    confidence: f64,
}

/// What can be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(super) enum Metric {
    /// Distinct n-grams within each text, as in the paper
    Diversity,
    /// Spans repeated three times or more, as in the paper
    Repetition,
    /// Tokens and words of the texts
    Length,
    /// distinct-n, pooled diversity, share of distinct texts
    Distinct,
    /// Repeated n-grams, n = 2 to 4, and the product of their complements
    RepN,
    /// How much the texts resemble each other
    SelfBleu,
    /// Slope of token frequencies over ranks
    Zipf,
    /// MAUVE, MAUVE* and the frontier integral
    Mauve,
}

impl Metric {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// More resamples than anyone waits for; above it a number is a slip.
const MAX_RESAMPLES: usize = 10_000_000;

impl ScoreArgs {
    /// The metrics that were asked for, or those that can be had without another download.
    fn wanted(&self) -> Result<HashSet<Metric>> {
        let has_texts = self.human.is_some() && !self.model_text.is_empty();
        let default = |metric: &Metric| match metric {
            Metric::Mauve => self.featurizer.is_some() || self.human_features.is_some(),
            _ => has_texts,
        };
        let wanted: HashSet<Metric> = if self.metrics.is_empty() {
            Metric::value_variants().iter().copied().filter(default).collect()
        } else {
            self.metrics.iter().copied().collect()
        };
        match wanted.iter().filter(|metric| **metric != Metric::Mauve).min() {
            Some(metric) if !has_texts => Err(Problem::new(format!(
                "metric `{}` needs texts: `--human` and `--model-text`",
                metric.name()
            ))
            .into()),
            _ => Ok(wanted),
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |flag: &str, expected: &str, got: String| {
            Err(Problem::new(format!("`{flag}`: expected {expected}, got `{got}`")).into())
        };
        if self.max_length == 0 {
            return refuse("--max-length", "at least 1", "0".to_owned());
        }
        if self.resamples > MAX_RESAMPLES {
            return refuse("--resamples", &format!("at most {MAX_RESAMPLES}"), self.resamples.to_string());
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return refuse("--confidence", "a number between 0 and 1", self.confidence.to_string());
        }
        if !self.model_features.is_empty()
            && !self.model_text.is_empty()
            && self.model_features.len() != self.model_text.len()
        {
            let expected = format!("one file for each of the {} of `--model-text`", self.model_text.len());
            return refuse("--model-features", &expected, self.model_features.len().to_string());
        }
        Ok(())
    }

    fn cache(&self) -> Option<Cache> {
        let folder = self.cache_dir.clone().or_else(Cache::default_folder);
        folder.filter(|_| !self.no_cache).map(Cache::new)
    }
}

pub(crate) fn run(args: &ScoreArgs, context: &Context) -> Result<()> {
    args.check()?;
    let wanted = args.wanted()?;
    let settings = args.mauve.settings(context.seed())?;
    let files = if args.model_text.is_empty() { &args.model_features } else { &args.model_text };
    let names = texts::names(files);
    let human = args.human.as_deref().map(|path| TextSet::read(path, "human".to_owned())).transpose()?;
    let systems: Vec<TextSet> = args
        .model_text
        .iter()
        .zip(&names)
        .map(|(path, name)| TextSet::read(path, name.clone()))
        .collect::<Result<_>>()?;
    let device = context.start()?;
    let features = FeatureFiles::read(args.human_features.as_deref(), &args.model_features)?;
    let featurizer = (wanted.contains(&Metric::Mauve) && features.is_none()).then(|| {
        let name = args.featurizer.as_deref().unwrap_or(DEFAULT_FEATURIZER);
        Featurizer::load(name, &device, args.max_length, args.batch_tokens, args.cache())
    });
    let featurizer = featurizer.transpose()?;

    let resampling = Resampling { resamples: args.resamples, level: args.confidence, seed: context.seed() };
    let mut report = Report::new(&wanted, resampling);
    report.setting("device", json!(device_name(&device)));
    let sets: Vec<&TextSet> = human.iter().chain(&systems).collect();
    let mut scores = surface_scores(args, &sets, &wanted, featurizer.as_ref(), &mut report)?;
    if !systems.is_empty() || features.is_none() {
        sets.iter().for_each(|set| report.count(set));
    }
    // Without texts there are features alone, and nothing to say about the human side.
    let mut system_scores = if scores.is_empty() { Vec::new() } else { scores.split_off(1) };
    system_scores.resize_with(names.len(), Scores::default);
    if wanted.contains(&Metric::Mauve) {
        let pairs = match (&features, &featurizer, &human) {
            (Some(features), ..) => {
                report.setting("features", features.names());
                features.clone()
            }
            (None, Some(featurizer), Some(human)) => {
                report.setting("featurizer", featurizer_settings(args, featurizer));
                FeatureFiles::extract(featurizer, human, &systems)?
            }
            _ => return Err(Problem::new("MAUVE needs texts, or features of both sides").into()),
        };
        report.setting("mauve", json!(settings));
        distances::add(&mut system_scores, &names, &pairs, &settings)?;
    }
    report.finish(scores.pop(), names.into_iter().zip(system_scores).collect());
    context.output.either(&report.json(), || report.text())
}

/// The metrics of the surface for each set, with the tokens they are made of.
fn surface_scores(
    args: &ScoreArgs,
    sets: &[&TextSet],
    wanted: &HashSet<Metric>,
    featurizer: Option<&Featurizer>,
    report: &mut Report,
) -> Result<Vec<Scores>> {
    if !wanted.iter().any(|metric| *metric != Metric::Mauve) {
        return Ok(sets.iter().map(|_| Scores::default()).collect());
    }
    let named = args.tokenizer.as_deref();
    let own = named
        .map(|name| models::tokenizer_for(Some(name), std::path::Path::new("."), models::Network::Allowed))
        .transpose()?;
    let mut words = match own.as_ref().or_else(|| featurizer.map(Featurizer::tokenizer)) {
        Some(tokenizer) => {
            let name = named.or(args.featurizer.as_deref()).unwrap_or(DEFAULT_FEATURIZER);
            report.setting("tokenizer", json!({"model": name, "fingerprint": tokenizer.fingerprint()?}));
            Words::Tokens(tokenizer)
        }
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

fn featurizer_settings(args: &ScoreArgs, featurizer: &Featurizer) -> Value {
    json!({
        "model": args.featurizer.as_deref().unwrap_or(DEFAULT_FEATURIZER),
        "fingerprint": featurizer.fingerprint,
        "max_length": featurizer.max_tokens,
    })
}
