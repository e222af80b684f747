//! The experiment behind `mixce quickstart`: does MixCE keep a model inside the support of a distribution that is known?
//!
//! A built-in grammar is the distribution P. The training corpus is a sample of it in which some texts contain a wrong word,
//! as web text does. A small GPT-2 is trained on the corpus by MLE, then finetuned twice with the same data order, dropout, steps
//! and seed, once with MLE and once with MixCE. Both are sampled unbiased. The control is the MLE model sampled at the
//! temperature at which its texts are as diverse as those of MixCE.

mod corpus;
mod figure;
mod report;
mod sampling;
mod settings;
mod training;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use candle_core::Device;
use mixce_synthetic::grammar::Grammar;

pub(crate) use report::Report;
pub(crate) use settings::Settings;

use corpus::Corpus;

/// Progress of a long run: the stage, and how much of it is done.
pub(crate) trait Progress {
    /// A stage of `total` units begins.
    fn begin(&mut self, stage: &str, total: u64);
    /// `done` units of the stage are done; `note` is shown beside them.
    fn update(&mut self, done: u64, note: &str);
    /// The stage is over.
    fn end(&mut self);
}

/// Runs the whole experiment and writes its output below `out`, which must be empty or not exist.
///
/// # Errors
/// If `out` is not empty, a file cannot be written, or training fails.
pub(crate) fn run(
    settings: &Settings,
    out: &Path,
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<Report> {
    let started = Instant::now();
    settings.validate()?;
    mixce_train::run_folder::RunFolder::require_free(out)?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create `{}`", out.display()))?;

    progress.begin("writing the corpus", 1);
    let grammar = Grammar::stories();
    let corpus = Corpus::write(&grammar, settings, &out.join("corpus"))?;
    progress.end();

    let mut trainer = training::Training { settings, corpus: &corpus, device, progress };
    let base = trainer.base(&out.join("base"))?;
    let mle_model = trainer.finetune(&base, None, &out.join("mle"))?;
    let mixce_model = trainer.finetune(&base, Some(settings.eta), &out.join("mixce"))?;

    let mut sampler = sampling::Sampler::new(settings, &grammar, &corpus, &out.join("samples"))?;
    let mle = sampler.score("mle", &mle_model, 1.0, progress)?;
    let mixce = sampler.score("mixce", &mixce_model, 1.0, progress)?;
    let control = sampler.match_diversity("mle-temperature", &mle_model, mixce.diversity, progress)?;
    let gold = sampler.gold()?;

    let systems = report::Systems { mle, mixce, mle_temperature: control };
    let seconds = started.elapsed().as_secs_f64();
    let report = Report { systems, gold, settings: settings.clone(), seed: settings.seed, seconds };
    report.write(out)?;
    figure::write(&report, &out.join("quickstart.svg"))?;
    Ok(report)
}

/// The first of `base`, `base-2`, `base-3`, ... that does not exist, the default output folder.
pub(crate) fn free_folder(base: &Path) -> PathBuf {
    let name = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let numbered = (2u32..).map(|i| base.with_file_name(format!("{name}-{i}")));
    std::iter::once(base.to_owned())
        .chain(numbered)
        .find(|path| !path.exists())
        .unwrap_or_else(|| base.to_owned())
}
