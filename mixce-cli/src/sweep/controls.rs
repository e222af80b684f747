//! The controls: other ways to sample the MLE models, tuned on the development texts.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use mixce_report::results::{Control, Decoding, Scores, Split};
use mixce_sweep::choice::{Candidate, Summary, choose};
use mixce_sweep::tuning::{Matched, temperature_of};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Sweep;
use super::child::Failure;
use super::folder::{key_of, read_json, write_json};
use super::lines::Sampling;
use super::steps::{GeneratedFile, Work};

/// The metric that is matched by the temperature.
pub(super) const DIVERSITY: &str = "diversity";
const TUNE: &str = "tune";

/// A value that was tried, and the results of its sampling runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tried {
    at: f64,
    values: Vec<f64>,
}

impl Work<'_> {
    /// The kind, how the values are tried, and the metric and its result that they are compared by.
    fn trial(&self) -> Option<(Sampling, Vec<String>, &'static str)> {
        let controls = &self.sweep.settings.controls;
        let of = |temperatures: &[f64], top_ps: &[f64]| Sampling {
            temperatures: temperatures.to_vec(),
            top_ps: top_ps.to_vec(),
            runs: controls.samplings,
        };
        Some(match self.cell.control? {
            Control::TopP => {
                let metric = self.sweep.metric;
                (of(&[], &controls.top_p), vec![metric.of?.to_owned()], metric.key)
            }
            Control::Temperature => (of(&controls.temperature, &[]), vec![DIVERSITY.to_owned()], DIVERSITY),
        })
    }

    /// What decides the trial.
    fn trial_key(&self, how: &Sampling, metrics: &[String]) -> Value {
        self.scoring_key(&self.sampling_key(Split::Valid, how), metrics)
    }

    fn tried_file(&self) -> PathBuf {
        self.folder.path().join(TUNE).join("values.json")
    }

    /// Samples and scores the development texts with every value.
    pub(super) fn tune(&self) -> Result<(), Failure> {
        let Some((how, metrics, result)) = self.trial() else { return Ok(()) };
        let key = self.trial_key(&how, &metrics);
        self.step(TUNE, &key, || {
            let texts = self.texts(TUNE, &key);
            let told = || format!("cannot create `{}`", texts.display());
            fs::create_dir_all(&texts).with_context(told)?;
            let generated = self.generate(Split::Valid, &texts, &how)?;
            let files: Vec<PathBuf> = generated.iter().map(GeneratedFile::jsonl).collect();
            let scores = self.score(Split::Valid, &files, &metrics, None)?;
            let systems: Vec<Scores> =
                serde_json::from_value(scores["systems"].clone()).context("the scores")?;
            let mut tried: Vec<Tried> = Vec::new();
            for (file, scores) in generated.iter().zip(&systems) {
                let at = file.top_p.unwrap_or(file.temperature);
                if file.run == 0 {
                    tried.push(Tried { at, values: Vec::new() });
                }
                if let (Some(last), Some(value)) = (tried.last_mut(), scores.value(result)) {
                    last.values.push(value);
                }
            }
            Ok(write_json(&self.tried_file(), &tried)?)
        })
    }

    /// The results of the trial, if it is done with these settings.
    fn tried(&self) -> Result<Option<Vec<Tried>>> {
        let Some((how, metrics, _)) = self.trial() else { return Ok(None) };
        match self.folder.has(TUNE, &key_of(&self.trial_key(&how, &metrics)))? {
            true => read_json(&self.tried_file()),
            false => Ok(None),
        }
    }
}

impl Sweep<'_> {
    /// How a group's control samples; none while a trial is missing, or the group is not complete.
    pub(super) fn decoding_of(&self, group: usize, kind: Control) -> Result<Option<Decoding>> {
        let Some(candidates) = self.tried(group, kind)? else { return Ok(None) };
        match kind {
            Control::TopP => {
                let Some(direction) = self.metric.direction(self.human_value(group, self.metric.key)?) else {
                    return Ok(None);
                };
                let choice = choose(&candidates, direction);
                Ok(choice
                    .map(|choice| Decoding { top_p: candidates[choice.best].what, ..Decoding::UNBIASED }))
            }
            Control::Temperature => {
                let matched = self.matched(group, &candidates)?;
                Ok(matched.map(|matched| Decoding { temperature: matched.temperature, ..Decoding::UNBIASED }))
            }
        }
    }

    /// Each value with its results for all seeds; seeds that failed are left out.
    fn tried(&self, group: usize, kind: Control) -> Result<Option<Vec<Candidate<f64>>>> {
        let mut candidates: Vec<Candidate<f64>> = Vec::new();
        for index in self.grid.controls(group, kind) {
            let tried = match Work::new(self, &self.grid.cells[index]).tried()? {
                Some(tried) => tried,
                None if self.has_failed(index) => continue,
                None => return Ok(None),
            };
            for Tried { at, values } in tried {
                match candidates.iter_mut().find(|known| known.what == at) {
                    Some(known) => known.values.push(values),
                    None => candidates.push(Candidate { what: at, values: vec![values] }),
                }
            }
        }
        Ok(Some(candidates))
    }

    /// The temperature at which the MLE models have the diversity of the best other objective.
    pub(super) fn matched(&self, group: usize, tried: &[Candidate<f64>]) -> Result<Option<Matched>> {
        let Some(choice) = self.choice(group)? else { return Ok(None) };
        let Some(rival) = choice.rival else { return Ok(None) };
        let diversity = |objective: &str| -> Result<Option<f64>> {
            let mut values = Vec::new();
            for (_, evaluation) in self.evaluations(group, objective)? {
                values.push(evaluation.scores.iter().filter_map(|scores| scores.value(DIVERSITY)).collect());
            }
            Ok(Summary::of(&values).map(|summary| summary.mean))
        };
        let Some(wanted) = diversity(&rival)? else { return Ok(None) };
        let mean = |candidate: &Candidate<f64>| Some((candidate.what, Summary::of(&candidate.values)?.mean));
        let mut points: Vec<(f64, f64)> = tried.iter().filter_map(mean).collect();
        points.extend(diversity(mixce_sweep::MLE)?.map(|diversity| (1.0, diversity)));
        Ok(temperature_of(&points, wanted))
    }

    /// Warns if no temperature that was tried has the wanted diversity.
    pub(super) fn warn_of_the_range(&self, group: usize) -> Result<()> {
        let Some(tried) = self.tried(group, Control::Temperature)? else { return Ok(()) };
        if let Some(Matched { temperature, reached: false }) = self.matched(group, &tried)? {
            tracing::warn!(
                "{}: no temperature that was tried has the wanted diversity, the nearest is {temperature}: add values to `controls.temperature`",
                self.group_name(group)
            );
        }
        Ok(())
    }
}
