//! Systems that differ in nothing but the seed: a row of the tables.

use mixce_eval::paired::prompt_means;

use crate::metric::Metric;
use crate::results::{Control, Decoding, Group, Split, Status};
use crate::study::{Measured, Study, System};

/// An objective, or a control, with all its seeds.
#[derive(Clone, Debug)]
pub struct Arm<'a> {
    /// The objective.
    pub objective: &'a str,
    /// The control.
    pub control: Option<Control>,
    /// What tells it from other runs of the objective.
    pub variant: Option<&'a str>,
    /// The systems, in the order of their seeds.
    pub systems: Vec<&'a System>,
}

/// A metric over the seeds of an arm.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Mean of each seed's sampling runs.
    pub by_seed: Vec<f64>,
    /// Each seed's sampling runs.
    pub samplings: Vec<Vec<f64>>,
}

/// What a standard deviation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Over {
    /// Training runs with different seeds.
    Seeds,
    /// Sampling runs of the only training run.
    Samplings,
}

impl Estimate {
    fn of(samplings: Vec<Vec<f64>>) -> Option<Self> {
        let by_seed: Vec<f64> = samplings.iter().map(|runs| mean(runs)).collect();
        (!by_seed.is_empty()).then_some(Self { by_seed, samplings })
    }

    /// Mean over seeds.
    #[must_use]
    pub fn mean(&self) -> f64 {
        mean(&self.by_seed)
    }

    /// Standard deviation (divisor `n - 1`) over seeds, or over the sampling runs of a single one; none for a single number.
    #[must_use]
    pub fn spread(&self) -> Option<(f64, Over)> {
        let (values, over) = match self.samplings.as_slice() {
            [runs] => (runs, Over::Samplings),
            _ => (&self.by_seed, Over::Seeds),
        };
        std(values).map(|std| (std, over))
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn std(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() as f64 - 1.0)).sqrt())
}

impl<'a> Arm<'a> {
    /// The arms of a group: MLE, its controls, then the other objectives by name and parameters.
    #[must_use]
    pub fn of_group(study: &'a Study, group: &Group) -> Vec<Self> {
        let mut arms: Vec<Self> = Vec::new();
        for system in study.systems.iter().filter(|system| system.group == *group) {
            let (objective, control) = (system.objective.as_str(), system.control);
            let variant = system.variant.as_deref();
            let same =
                |arm: &&mut Self| (arm.objective, arm.control, arm.variant) == (objective, control, variant);
            match arms.iter_mut().find(same) {
                Some(arm) => arm.systems.push(system),
                None => arms.push(Self { objective, control, variant, systems: vec![system] }),
            }
        }
        arms.iter_mut().for_each(|arm| arm.systems.sort_by_key(|system| system.seed));
        arms.sort_by(|a, b| {
            let key = |arm: &Self| (arm.objective != "mle", arm.control, name_of(arm.objective).to_owned());
            key(a)
                .cmp(&key(b))
                .then_with(|| parameters(a.objective).total_cmp_by_value(&parameters(b.objective)))
                .then_with(|| a.variant.cmp(&b.variant))
        });
        arms
    }

    /// Whether it is maximum likelihood, sampled without modification.
    #[must_use]
    pub fn is_mle(&self) -> bool {
        self.objective == "mle" && self.control.is_none()
    }

    /// The value of the objective's parameter `eta`; 1 for MLE, which MixCE with eta 1 is.
    #[must_use]
    pub fn eta(&self) -> Option<f64> {
        match name_of(self.objective) {
            "mle" if self.control.is_none() => Some(1.0),
            "mixce" => {
                parameters(self.objective).0.iter().find(|(name, _)| *name == "eta").map(|(_, value)| *value)
            }
            _ => None,
        }
    }

    /// Its name in tables and sentences.
    #[must_use]
    pub fn label(&self) -> String {
        let name = match self.variant {
            Some(variant) => format!("{}, {variant}", label_of(self.objective)),
            None => label_of(self.objective),
        };
        let Some(control) = self.control else { return name };
        let (what, value): (_, fn(&Decoding) -> f64) = match control {
            Control::TopP => ("top-p", |decoding| decoding.top_p),
            Control::Temperature => ("temperature", |decoding| decoding.temperature),
        };
        let mut values: Vec<f64> =
            self.systems.iter().filter_map(|system| system.decoding.as_ref()).map(value).collect();
        values.sort_by(f64::total_cmp);
        match (values.first(), values.last()) {
            (Some(low), Some(high)) if low == high => format!("{name}, {what} {}", rounded(*low)),
            (Some(low), Some(high)) => format!("{name}, {what} {} to {}", rounded(*low), rounded(*high)),
            _ => format!("{name}, tuned {what}"),
        }
    }

    /// The finished systems' results on a part of the corpus.
    pub fn measured(&self, split: Split) -> impl Iterator<Item = &'a Measured> {
        let done = self.systems.iter().filter(|system| system.status == Status::Done);
        done.filter_map(move |system| system.measured(split))
    }

    /// A metric over its seeds.
    #[must_use]
    pub fn estimate(&self, metric: &Metric, split: Split) -> Option<Estimate> {
        let of_system = |measured: &Measured| -> Vec<f64> {
            match metric.key.as_str() {
                "perplexity" => measured.perplexity.into_iter().collect(),
                _ => measured.scores.iter().filter_map(|scores| metric.value(scores)).collect(),
            }
        };
        Estimate::of(self.measured(split).map(of_system).filter(|values| !values.is_empty()).collect())
    }

    /// The value of each prompt, mean over seeds and sampling runs; none unless every one of them has the values of the same number of prompts.
    #[must_use]
    pub fn prompt_values(&self, metric: &Metric, split: Split) -> Option<Vec<Option<f64>>> {
        let mut sets: Vec<&[Option<f64>]> = Vec::new();
        for measured in self.measured(split) {
            let values = measured.documents.as_ref()?.values(metric.documents_key());
            if values.is_empty() {
                return None;
            }
            sets.extend(values);
        }
        prompt_means(&sets)
    }
}

/// The name of an objective, without its parameters.
fn name_of(objective: &str) -> &str {
    objective.split(':').next().unwrap_or(objective)
}

/// An objective's parameters by name.
struct Parameters<'a>(Vec<(&'a str, f64)>);

impl Parameters<'_> {
    fn total_cmp_by_value(&self, other: &Self) -> std::cmp::Ordering {
        let values = |parameters: &Self| parameters.0.iter().map(|(_, value)| *value).collect::<Vec<_>>();
        let (ours, theirs) = (values(self), values(other));
        let first = ours.iter().zip(&theirs).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne());
        first.unwrap_or_else(|| ours.len().cmp(&theirs.len()))
    }
}

fn parameters(objective: &str) -> Parameters<'_> {
    let parameters = objective.split_once(':').map_or("", |(_, parameters)| parameters).split(',');
    Parameters(
        parameters
            .filter_map(|part| part.split_once('='))
            .filter_map(|(k, v)| Some((k, v.parse().ok()?)))
            .collect(),
    )
}

/// An objective as people write it: `MixCE (eta = 0.3)`.
pub(crate) fn label_of(objective: &str) -> String {
    let name = match name_of(objective) {
        "mle" => "MLE",
        "mixce" => "MixCE",
        "tailr" => "TaiLr",
        "dft" => "DFT",
        "trsft" => "TrSFT",
        other => other,
    };
    match objective.split_once(':') {
        Some((_, parameters)) => format!("{name} ({})", parameters.replace('=', " = ").replace(',', ", ")),
        None => name.to_owned(),
    }
}

/// At most three digits after the point.
fn rounded(value: f64) -> String {
    format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cell, study};

    #[test]
    fn arms_are_ordered_and_named() {
        let study = study(vec![
            cell("mixce:eta=1", None, 1),
            cell("mixce:eta=0.1", None, 1),
            cell("mixce:eta=0.01", None, 2),
            cell("mixce:eta=0.01", None, 1),
            cell("mle", Some((Control::Temperature, 0.875)), 1),
            cell("mle", Some((Control::Temperature, 0.9)), 2),
            cell("mle", Some((Control::TopP, 0.95)), 1),
            cell("mle", None, 1),
            cell("alpha:alpha=2", None, 1),
        ]);
        let arms = Arm::of_group(&study, study.groups()[0]);
        let labels: Vec<String> = arms.iter().map(Arm::label).collect();
        assert_eq!(
            labels,
            [
                "MLE",
                "MLE, top-p 0.95",
                "MLE, temperature 0.875 to 0.9",
                "alpha (alpha = 2)",
                "MixCE (eta = 0.01)",
                "MixCE (eta = 0.1)",
                "MixCE (eta = 1)"
            ]
        );
        assert_eq!(arms[4].systems.iter().map(|system| system.seed).collect::<Vec<_>>(), [1, 2]);
        let etas: Vec<Option<f64>> = arms.iter().map(Arm::eta).collect();
        assert_eq!(etas, [Some(1.0), None, None, None, Some(0.01), Some(0.1), Some(1.0)]);
    }

    #[test]
    fn seeds_come_before_samplings() {
        let two = Estimate::of(vec![vec![1.0, 3.0], vec![5.0, 7.0]]).unwrap();
        assert_eq!((two.mean(), two.spread()), (4.0, Some((8f64.sqrt(), Over::Seeds))));
        let one = Estimate::of(vec![vec![1.0, 3.0]]).unwrap();
        assert_eq!((one.mean(), one.spread()), (2.0, Some((2f64.sqrt(), Over::Samplings))));
        assert_eq!(Estimate::of(vec![vec![1.0]]).unwrap().spread(), None);
        assert_eq!(Estimate::of(vec![]), None);
    }
}
