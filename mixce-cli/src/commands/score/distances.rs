//! MAUVE between the human texts and each system's.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use mixce_eval::features::Features;
use mixce_eval::mauve::{FEW_SAMPLES, Mauve, MauveSettings, mauve};
use serde_json::{Value, json};

use super::featurize::Featurizer;
use super::surface::Scores;
use super::texts::TextSet;
use crate::error::Problem;
use crate::progress;

/// How MAUVE is computed.
#[derive(Debug, Args)]
pub(super) struct MauveFlags {
    /// Seeds of k-means, each giving a score; mean and deviation are reported
    #[arg(long, default_value_t = 5, value_name = "N")]
    mauve_seeds: usize,
    /// Clusters [default: a tenth of the smaller set]
    #[arg(long, value_name = "K")]
    mauve_buckets: Option<usize>,
    /// Constant of the divergence curve
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    mauve_scaling: f64,
}

/// More seeds than anyone waits for.
const MAX_SEEDS: usize = 100_000;

impl MauveFlags {
    /// The settings; seeds count up from `seed`.
    pub(super) fn settings(&self, seed: u64) -> Result<MauveSettings> {
        if !(1..=MAX_SEEDS).contains(&self.mauve_seeds) {
            let got = self.mauve_seeds;
            return Err(
                Problem::new(format!("`--mauve-seeds`: expected 1 to {MAX_SEEDS}, got `{got}`")).into()
            );
        }
        let seeds = (0..self.mauve_seeds as u64).map(|i| seed.wrapping_add(i)).collect();
        let (buckets, scaling) = (self.mauve_buckets, self.mauve_scaling);
        Ok(MauveSettings { seeds, buckets, scaling, ..MauveSettings::default() })
    }
}

/// Features of the human side and of each system.
#[derive(Clone, Debug)]
pub(super) struct FeatureFiles {
    human: Features,
    systems: Vec<Features>,
    paths: Vec<PathBuf>,
}

impl FeatureFiles {
    /// Reads files, if they were given.
    pub(super) fn read(human: Option<&Path>, systems: &[PathBuf]) -> Result<Option<Self>> {
        let Some(path) = human else { return Ok(None) };
        let human = Features::read(path)?;
        let paths = std::iter::once(path.to_owned()).chain(systems.iter().cloned()).collect();
        let systems = systems.iter().map(|path| Ok(Features::read(path)?)).collect::<Result<_>>()?;
        Ok(Some(Self { human, systems, paths }))
    }

    /// Computes them from texts.
    pub(super) fn extract(featurizer: &Featurizer, human: &TextSet, systems: &[TextSet]) -> Result<Self> {
        let human = featurizer.features(&human.wholes)?;
        let systems = systems.iter().map(|set| featurizer.features(&set.wholes)).collect::<Result<_>>()?;
        Ok(Self { human, systems, paths: Vec::new() })
    }

    /// The files they came from.
    pub(super) fn names(&self) -> Value {
        json!(self.paths)
    }
}

/// Adds MAUVE and its relatives to each system's scores.
pub(super) fn add(
    scores: &mut [Scores],
    names: &[String],
    features: &FeatureFiles,
    settings: &MauveSettings,
) -> Result<()> {
    let bar = progress::bar((names.len() * settings.seeds.len()) as u64, "MAUVE seeds");
    for ((scores, name), system) in scores.iter_mut().zip(names).zip(&features.systems) {
        let found = measure(&features.human, system, settings, name, &mut || bar.inc(1))?;
        scores.values.insert("mauve".to_owned(), json!(found.mauve));
        scores.values.insert("mauve_star".to_owned(), json!(found.mauve_star));
        scores.values.insert("frontier_integral".to_owned(), json!(found.frontier_integral));
        scores.values.insert(
            "mauve_facts".to_owned(),
            json!({
                "buckets": found.buckets, "components": found.components, "explained_variance": found.explained_variance,
                "human_samples": found.human_samples, "model_samples": found.model_samples,
            }),
        );
    }
    bar.finish_and_clear();
    Ok(())
}

/// MAUVE of one system, with a warning where it says little.
pub(super) fn measure(
    human: &Features,
    system: &Features,
    settings: &MauveSettings,
    name: &str,
    on_seed: &mut dyn FnMut(),
) -> Result<Mauve> {
    let few = human.rows().min(system.rows());
    if few < FEW_SAMPLES {
        tracing::warn!(
            "MAUVE of `{name}` with {few} samples says little: its bias and noise fall with the number, use {FEW_SAMPLES} or more, 5000 if you can"
        );
    }
    mauve(human, system, settings, on_seed)
        .map_err(|error| anyhow::Error::new(error).context(format!("MAUVE of `{name}`")))
}
