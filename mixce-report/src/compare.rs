//! Comparisons of systems, each with the evidence that the results hold.
//!
//! What is a mean over prompts (diversity, repetition, coherence, negative log-likelihood of a document) is tested by resampling prompts, given
//! these models. MAUVE is no mean over prompts; like everything without values of single prompts it is compared over seeds. A difference counts
//! only if its interval excludes zero and its p-value, adjusted for all tests of the group and split (Holm), is small enough.

use mixce_eval::holm::holm;
use mixce_eval::metric::Best;
use mixce_eval::paired::{Closeness, closeness};
use mixce_eval::resample::{Interval, PairedTest, paired_test};
use mixce_eval::welch::{Welch, welch};

use crate::arm::Arm;
use crate::metric::Metric;
use crate::results::{Group, Split};
use crate::study::Study;

/// How intervals and tests are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resampling {
    /// Resamples of an interval and sign patterns of a test.
    pub resamples: usize,
    /// Level of the intervals, between 0 and 1.
    pub level: f64,
    /// Seed of the resampling.
    pub seed: u64,
}

/// Two arms compared in one metric.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The group.
    pub group: Group,
    /// The part of the corpus.
    pub split: Split,
    /// The metric.
    pub metric: Metric,
    /// Name of the first arm.
    pub first: String,
    /// Name of the second arm.
    pub second: String,
    /// The metric of both.
    pub means: [f64; 2],
    /// The metric of the human texts.
    pub human: Option<f64>,
    /// What the comparison rests on.
    pub evidence: Evidence,
    /// Its p-value adjusted for the number of tests.
    pub adjusted_p: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
}

/// What a comparison rests on.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// The same prompts, resampled.
    Prompts {
        /// First minus second.
        test: PairedTest,
        /// Distances to the human texts, where closeness to them is what counts.
        closeness: Option<Closeness>,
    },
    /// Training runs with several seeds.
    Seeds {
        /// First minus second; of distances to the human value, where closeness to it is what counts.
        welch: Welch,
        /// Seeds of both.
        seeds: [usize; 2],
    },
    /// Nothing that says whether the difference would be there again.
    None {
        /// Seeds of both.
        seeds: [usize; 2],
    },
}

/// What follows from a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first is better.
    First,
    /// The second is better.
    Second,
    /// They cannot be told apart.
    Tie,
    /// There is nothing to tell them apart by.
    Untested,
}

impl Verdict {
    /// `first`, `second`, `tie` or `untested`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Tie => "tie",
            Self::Untested => "untested",
        }
    }
}

impl Evidence {
    /// The difference and its interval: first minus second.
    #[must_use]
    pub fn interval(&self) -> Option<(f64, Interval)> {
        match self {
            Self::Prompts { test, .. } => Some((test.difference, test.interval)),
            Self::Seeds { welch, .. } => Some((welch.difference, welch.interval)),
            Self::None { .. } => None,
        }
    }

    /// What was resampled or repeated: `prompts`, `seeds`; none without a test.
    #[must_use]
    pub fn over(&self) -> Option<&'static str> {
        match self {
            Self::Prompts { .. } => Some("prompts"),
            Self::Seeds { .. } => Some("seeds"),
            Self::None { .. } => None,
        }
    }

    /// The p-value, not adjusted.
    #[must_use]
    pub fn p_value(&self) -> Option<f64> {
        match self {
            Self::Prompts { test, .. } => Some(test.p_value),
            Self::Seeds { welch, .. } => Some(welch.p_value),
            Self::None { .. } => None,
        }
    }

    /// Which is better at this level, given the p-value after adjustment.
    #[must_use]
    pub fn verdict(&self, best: Best, p_value: f64, level: f64) -> Verdict {
        let Some((_, interval)) = self.interval() else { return Verdict::Untested };
        if p_value > 1.0 - level {
            return Verdict::Tie;
        }
        match (self, best) {
            (Self::Prompts { closeness: Some(closeness), .. }, Best::AsHuman) => {
                lower_is_better(closeness.interval)
            }
            (Self::Prompts { closeness: None, .. }, Best::AsHuman) => Verdict::Untested,
            // Differences of distances to the human value.
            (_, Best::Lowest | Best::AsHuman) => lower_is_better(interval),
            (_, Best::Highest) => lower_is_better(Interval { low: -interval.high, high: -interval.low }),
        }
    }
}

fn lower_is_better(interval: Interval) -> Verdict {
    match interval {
        Interval { high, .. } if high < 0.0 => Verdict::First,
        Interval { low, .. } if low > 0.0 => Verdict::Second,
        _ => Verdict::Tie,
    }
}

/// A group on one part of its corpus, with what comparisons need.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// What was read.
    pub study: &'a Study,
    /// The group.
    pub group: &'a Group,
    /// The part of the corpus.
    pub split: Split,
    /// How it is tested.
    pub resampling: &'a Resampling,
}

impl Scene<'_> {
    /// The metric of the human texts.
    #[must_use]
    pub fn human(&self, metric: &Metric) -> Option<f64> {
        metric.value(&self.study.human(self.group, self.split)?.scores)
    }

    /// The evidence for a difference between two arms.
    #[must_use]
    pub fn evidence(&self, first: &Arm<'_>, second: &Arm<'_>, metric: &Metric) -> Evidence {
        self.over_prompts(first, second, metric).unwrap_or_else(|| self.over_seeds(first, second, metric))
    }

    fn over_prompts(&self, first: &Arm<'_>, second: &Arm<'_>, metric: &Metric) -> Option<Evidence> {
        if !metric.is_mean_over_prompts() {
            return None;
        }
        let Resampling { resamples, level, seed } = *self.resampling;
        let [a, b] = [first, second].map(|arm| arm.prompt_values(metric, self.split));
        let (a, b) = (a?, b?);
        if a.len() != b.len() {
            return None;
        }
        let test = paired_test(&a, &b, resamples, level, seed)?;
        let documents = self.study.human(self.group, self.split).and_then(|human| human.documents.as_ref());
        let human = documents
            .and_then(|documents| documents.values(metric.documents_key()).first().map(|v| v.to_vec()));
        let closeness = human.filter(|_| metric.best == Best::AsHuman);
        let closeness = closeness.and_then(|human| closeness_of(&human, &a, &b, self.resampling));
        Some(Evidence::Prompts { test, closeness })
    }

    fn over_seeds(&self, first: &Arm<'_>, second: &Arm<'_>, metric: &Metric) -> Evidence {
        let human = self.human(metric);
        let distance = |value: f64| match (metric.best, human) {
            (Best::AsHuman, Some(human)) => (value - human).abs(),
            _ => value,
        };
        let by_seed = |arm: &Arm<'_>| -> Vec<f64> {
            let estimate = arm.estimate(metric, self.split);
            estimate.map(|found| found.by_seed.into_iter().map(distance).collect()).unwrap_or_default()
        };
        let [a, b] = [by_seed(first), by_seed(second)];
        let seeds = [a.len(), b.len()];
        // Without a human value there is nothing to be close to.
        let has_goal = metric.best != Best::AsHuman || human.is_some();
        match welch(&a, &b, self.resampling.level).filter(|_| has_goal) {
            Some(welch) => Evidence::Seeds { welch, seeds },
            None => Evidence::None { seeds },
        }
    }

    /// The arms that are compared with MLE and its controls: the chosen objective, or the best other one if MLE was chosen; without a choice
    /// all other objectives.
    #[must_use]
    pub fn focus<'b>(&self, arms: &'b [Arm<'b>]) -> Vec<&'b Arm<'b>> {
        let others = arms.iter().filter(|arm| arm.objective != "mle");
        let Some(chosen) = self.study.chosen.iter().find(|chosen| chosen.group == *self.group) else {
            return others.collect();
        };
        if let Some(arm) = others.clone().find(|arm| arm.objective == chosen.objective) {
            return vec![arm];
        }
        let metric = Metric::of(&chosen.metric);
        let human = Scene { split: Split::Valid, ..*self }.human(&metric);
        let valued = others.filter_map(|arm| Some((arm, arm.estimate(&metric, Split::Valid)?.mean())));
        let best = valued.min_by(|(_, a), (_, b)| {
            badness(metric.best, *a, human).total_cmp(&badness(metric.best, *b, human))
        });
        best.map(|(arm, _)| arm).into_iter().collect()
    }

    /// Compares every arm in focus with MLE and its controls.
    #[must_use]
    pub fn compare(&self, arms: &[Arm<'_>]) -> Vec<Comparison> {
        let references: Vec<&Arm<'_>> = arms.iter().filter(|arm| arm.objective == "mle").collect();
        let mut comparisons = Vec::new();
        for first in self.focus(arms) {
            for second in &references {
                let metrics = Metric::headline().into_iter().chain([Metric::of("repetition_rate")]);
                // A control is the MLE model: its perplexity is that of MLE.
                let metrics = metrics.filter(|metric| second.control.is_none() || metric.key != "perplexity");
                comparisons.extend(metrics.filter_map(|metric| self.comparison(first, second, metric)));
            }
        }
        self.judge(&mut comparisons);
        comparisons
    }

    fn comparison(&self, first: &Arm<'_>, second: &Arm<'_>, metric: Metric) -> Option<Comparison> {
        let mean = |arm: &Arm<'_>| Some(arm.estimate(&metric, self.split)?.mean());
        let means = [mean(first)?, mean(second)?];
        Some(Comparison {
            group: self.group.clone(),
            split: self.split,
            first: first.label(),
            second: second.label(),
            means,
            human: self.human(&metric),
            evidence: self.evidence(first, second, &metric),
            adjusted_p: None,
            verdict: Verdict::Untested,
            metric,
        })
    }

    /// Adjusts the p-values for their number and draws the conclusions.
    fn judge(&self, comparisons: &mut [Comparison]) {
        let tested: Vec<usize> =
            (0..comparisons.len()).filter(|i| comparisons[*i].evidence.p_value().is_some()).collect();
        let p_values: Vec<f64> = tested.iter().filter_map(|i| comparisons[*i].evidence.p_value()).collect();
        for (index, adjusted) in tested.into_iter().zip(holm(&p_values)) {
            let comparison = &mut comparisons[index];
            comparison.adjusted_p = Some(adjusted);
            comparison.verdict =
                comparison.evidence.verdict(comparison.metric.best, adjusted, self.resampling.level);
        }
    }
}

fn closeness_of(
    human: &[Option<f64>],
    first: &[Option<f64>],
    second: &[Option<f64>],
    by: &Resampling,
) -> Option<Closeness> {
    closeness(human, first, second, by.resamples, by.level, by.seed)
}

/// A number that is lower for a better value.
pub(crate) fn badness(best: Best, value: f64, human: Option<f64>) -> f64 {
    match best {
        Best::Highest => -value,
        Best::Lowest => value,
        Best::AsHuman => human.map_or(f64::INFINITY, |human| (value - human).abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Control;
    use crate::tests::{cell, human, measured, study};

    const RESAMPLING: Resampling = Resampling { resamples: 500, level: 0.95, seed: 1 };

    /// Two prompts out of three are noisy around `centre`.
    fn values(centre: f64) -> Vec<Option<f64>> {
        (0..60).map(|i| Some(centre + 0.01 * f64::from(i % 3 - 1))).collect()
    }

    fn with(
        objective: &str,
        control: Option<(Control, f64)>,
        seed: u64,
        mauve: f64,
        diversity: f64,
    ) -> crate::study::System {
        let mut system = cell(objective, control, seed);
        system.valid = Some(measured(mauve, &values(diversity)));
        system
    }

    #[test]
    fn the_chosen_objective_is_compared_with_mle_and_its_controls() {
        let mut systems = Vec::new();
        for seed in 1..=3 {
            let noise = 0.001 * seed as f64;
            systems.push(with("mle", None, seed, 0.80 + noise, 0.90));
            systems.push(with("mle", Some((Control::Temperature, 0.9)), seed, 0.85 + noise, 0.85));
            systems.push(with("mixce:eta=0.1", None, seed, 0.90 + noise, 0.86));
            systems.push(with("mixce:eta=0.5", None, seed, 0.81 + noise, 0.88));
        }
        let mut study = study(systems);
        study.humans.push(human(&values(0.84)));
        study.chosen.push(crate::tests::chosen("mixce:eta=0.1"));
        let group = study.groups()[0].clone();
        let arms = Arm::of_group(&study, &group);
        let scene = Scene { study: &study, group: &group, split: Split::Valid, resampling: &RESAMPLING };
        let found = scene.compare(&arms);
        let told: Vec<(&str, &str, Verdict)> =
            found.iter().map(|c| (c.second.as_str(), c.metric.key.as_str(), c.verdict)).collect();
        assert_eq!(
            told,
            [
                // Perplexity has no values of documents and no spread over seeds: equal in all of them.
                ("MLE", "perplexity", Verdict::Tie),
                ("MLE", "diversity", Verdict::First),
                ("MLE", "mauve", Verdict::First),
                ("MLE, temperature 0.9", "diversity", Verdict::Second),
                ("MLE, temperature 0.9", "mauve", Verdict::First),
            ]
        );
        let Evidence::Prompts { test, closeness: Some(closeness) } = &found[1].evidence else {
            panic!("{found:?}")
        };
        assert!((test.difference + 0.04).abs() < 1e-9 && (closeness.difference - (0.02 - 0.06)).abs() < 1e-9);
        assert!(found[1].adjusted_p > found[1].evidence.p_value());
        assert!(matches!(found[2].evidence, Evidence::Seeds { seeds: [3, 3], .. }));
    }

    #[test]
    fn one_seed_says_nothing_about_mauve_and_noise_is_a_tie() {
        let mut study =
            study(vec![with("mle", None, 1, 0.8, 0.9), with("mixce:eta=0.1", None, 1, 0.9, 0.9001)]);
        study.humans.push(human(&values(0.84)));
        let group = study.groups()[0].clone();
        let arms = Arm::of_group(&study, &group);
        let scene = Scene { study: &study, group: &group, split: Split::Valid, resampling: &RESAMPLING };
        let found = scene.compare(&arms);
        assert_eq!(found[2].evidence, Evidence::None { seeds: [1, 1] });
        assert_eq!(found[2].verdict, Verdict::Untested);
        // Other numbers of prompts are not the same prompts.
        study.systems[1].valid.as_mut().unwrap().documents.as_mut().unwrap().samplings[0]
            .get_mut("diversity")
            .unwrap()
            .pop();
        let arms = Arm::of_group(&study, &group);
        let scene = Scene { study: &study, group: &group, split: Split::Valid, resampling: &RESAMPLING };
        assert!(matches!(scene.compare(&arms)[1].evidence, Evidence::None { .. }));
    }

    #[test]
    fn mle_as_the_choice_leaves_the_best_other_objective_in_focus() {
        let systems = vec![
            with("mle", None, 1, 0.95, 0.9),
            with("mixce:eta=0.1", None, 1, 0.7, 0.9),
            with("mixce:eta=0.5", None, 1, 0.9, 0.9),
        ];
        let mut study = study(systems);
        study.chosen.push(crate::tests::chosen("mle"));
        let group = study.groups()[0].clone();
        let arms = Arm::of_group(&study, &group);
        let scene = Scene { study: &study, group: &group, split: Split::Valid, resampling: &RESAMPLING };
        assert_eq!(scene.focus(&arms).iter().map(|arm| arm.objective).collect::<Vec<_>>(), ["mixce:eta=0.5"]);
    }
}
