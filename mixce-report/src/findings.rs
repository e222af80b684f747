//! What the result says, in sentences with their uncertainty.

use mixce_eval::metric::Best;

use crate::arm::{Arm, label_of};
use crate::compare::{Comparison, Evidence, Resampling, Scene, Verdict};
use crate::metric::Metric;
use crate::names::{Names, list, percent, signed};
use crate::results::{Chosen, Control, Group, Split, Status};
use crate::study::{Study, System};
use crate::tables::split_title;

/// Sentences about one group, or about the whole report.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// What they are about.
    pub title: String,
    /// The sentences.
    pub sentences: Vec<String>,
}

/// Fewer seeds say little about other training runs.
const FEW_SEEDS: usize = 5;

/// What can be said about every group, and before it about the report as a whole.
pub(crate) fn findings(study: &Study, comparisons: &[Comparison], resampling: &Resampling) -> Vec<Findings> {
    let mut all = Vec::new();
    let general = about_states(study);
    if !general.is_empty() {
        all.push(Findings { title: "State".to_owned(), sentences: general });
    }
    for group in study.groups() {
        let arms = Arm::of_group(study, group);
        let scene = Scene { study, group, split: final_split(&arms), resampling };
        let mine: Vec<&Comparison> =
            comparisons.iter().filter(|c| c.group == *group && c.split == scene.split).collect();
        let mut sentences = Vec::new();
        if let Some(chosen) = study.chosen.iter().find(|chosen| chosen.group == *group) {
            sentences.push(about_choice(chosen, seeds_of(study, chosen)));
        }
        sentences.extend(mine.iter().map(|comparison| sentence(comparison, resampling.level)));
        if mine.is_empty() {
            sentences.extend(arms.iter().filter_map(|arm| values(&scene, arm)));
        }
        sentences.extend(caveats(&scene, &arms, &mine));
        all.push(Findings { title: Names::group_title(group), sentences });
    }
    all
}

/// Test texts if any system was scored on them, else development texts.
pub(crate) fn final_split(arms: &[Arm<'_>]) -> Split {
    let is_tested = arms.iter().any(|arm| arm.measured(Split::Test).next().is_some());
    if is_tested { Split::Test } else { Split::Valid }
}

fn about_states(study: &Study) -> Vec<String> {
    let count = |status: Status| study.systems.iter().filter(|system| system.status == status).count();
    let (all, failed, waiting) = (study.systems.len(), count(Status::Failed), count(Status::Waiting));
    let mut parts = Vec::new();
    if failed > 0 {
        parts.push(format!("{failed} failed"));
    }
    if waiting > 0 {
        parts.push(format!("{waiting} {} not computed yet", if waiting == 1 { "is" } else { "are" }));
    }
    let mut sentences = Vec::new();
    if !parts.is_empty() {
        let others = all - failed - waiting;
        sentences
            .push(format!("Of {all} systems {}; all numbers are those of the other {others}.", list(&parts)));
    }
    let unfinished = |system: &System| {
        let how_far = system.unfinished.as_ref()?;
        Some(format!(
            "The training of `{}` is not finished ({how_far}): its numbers are those of its models so far.",
            system.id
        ))
    };
    sentences.extend(study.systems.iter().filter_map(unfinished));
    sentences
}

/// How many training runs of the chosen objective have development scores.
fn seeds_of(study: &Study, chosen: &Chosen) -> usize {
    let is_chosen = |system: &&System| {
        system.group == chosen.group && system.objective == chosen.objective && system.control.is_none()
    };
    study.systems.iter().filter(is_chosen).filter(|system| system.valid.is_some()).count()
}

fn about_choice(chosen: &Chosen, seeds: usize) -> String {
    let metric = Metric::of(&chosen.metric);
    let value = format!("{:.*}", metric.decimals, chosen.mean);
    let name = label_of(&chosen.objective);
    let spread = match chosen.std {
        Some(std) if seeds > 1 => {
            format!("{value} \u{b1} {std:.*} over {} seeds", metric.decimals, chosen.n)
        }
        Some(std) => format!(
            "{value} \u{b1} {std:.*} over {} sampling runs of a single training run, so another seed might choose another one",
            metric.decimals, chosen.n
        ),
        None => format!("{value} in a single run, so another run might choose another one"),
    };
    let ties: Vec<String> = chosen.ties.iter().map(|objective| label_of(objective)).collect();
    let ties = match ties.len() {
        0 => String::new(),
        1 => format!(" {} is within its noise, so the choice between them is a tie.", ties[0]),
        _ => format!(" {} are within its noise, so the choice among them is a tie.", list(&ties)),
    };
    let subject = if chosen.objective == "mle" { "Maximum likelihood itself".to_owned() } else { name };
    format!("{subject} has the best {} on the development texts: {spread}.{ties}", metric.title)
}

/// The values of an arm that there is nothing to compare with.
fn values(scene: &Scene<'_>, arm: &Arm<'_>) -> Option<String> {
    let value = |metric: &Metric| {
        let decimals = metric.decimals;
        let found = arm.estimate(metric, scene.split)?.mean();
        let human = scene
            .human(metric)
            .map_or_else(String::new, |human| format!(" (human texts {human:.decimals$})"));
        Some(format!("{} {found:.decimals$}{human}", metric.title))
    };
    let values: Vec<String> = Metric::headline().iter().filter_map(value).collect();
    let what = list(&values);
    (!what.is_empty())
        .then(|| format!("{} has {what} on the {} texts.", arm.label(), split_title(scene.split)))
}

/// The two values, the human one, and what follows.
fn sentence(comparison: &Comparison, level: f64) -> String {
    let Comparison { metric, first, second, means: [a, b], human, evidence, .. } = comparison;
    let decimals = metric.decimals;
    let human = human.map_or_else(String::new, |human| format!(", human texts {human:.decimals$}"));
    let values = format!(
        "{} on the {} texts: {first} {a:.decimals$}, {second} {b:.decimals$}{human}.",
        capitalised(&metric.title),
        split_title(comparison.split)
    );
    format!("{values} {}", conclusion(comparison, level, evidence))
}

fn conclusion(comparison: &Comparison, level: f64, evidence: &Evidence) -> String {
    let Comparison { metric, first, second, .. } = comparison;
    let level = percent(level);
    let over = match evidence {
        Evidence::Prompts { test, .. } => format!("{} prompts, given these models", test.pairs),
        Evidence::Seeds { seeds: [a, b], .. } => format!("seeds ({a} and {b} runs)"),
        Evidence::None { seeds: [a, b] } => {
            return format!(
                "With {a} and {b} training runs and no scores of single prompts, nothing says whether a difference would be there again."
            );
        }
    };
    let (difference, interval) = match (evidence, metric.best) {
        (Evidence::Prompts { closeness: Some(closeness), .. }, Best::AsHuman) => {
            (closeness.difference, closeness.interval)
        }
        _ => match evidence.interval() {
            Some(found) => found,
            None => return String::new(),
        },
    };
    let decimals = metric.decimals.max(3);
    let range = format!(
        "{level} interval over {over}: {} to {}",
        signed(interval.low, decimals),
        signed(interval.high, decimals)
    );
    let (winner, loser) = match comparison.verdict {
        Verdict::First => (first, second),
        Verdict::Second => (second, first),
        Verdict::Tie => {
            let of = if metric.best == Best::AsHuman {
                "the difference of their distances to human"
            } else {
                tested(comparison)
            };
            return format!(
                "A tie: {of} is {}, {range}, and does not stand out from chance after adjusting for the number of tests.",
                signed(difference, decimals)
            );
        }
        Verdict::Untested => {
            return format!(
                "They differ ({range}), but which is closer to human was not tested: the human texts have no scores of single prompts."
            );
        }
    };
    match metric.best {
        Best::AsHuman => format!(
            "{winner} is closer to the human texts than {loser}: the difference of the distances is {}, {range}.",
            signed(difference, decimals)
        ),
        Best::Highest => format!(
            "{winner} is higher than {loser}: {} is {}, {range}.",
            tested(comparison),
            signed(difference, decimals)
        ),
        Best::Lowest => format!(
            "{winner} is lower than {loser}: {} is {}, {range}.",
            tested(comparison),
            signed(difference, decimals)
        ),
    }
}

fn tested(comparison: &Comparison) -> &'static str {
    match (&comparison.evidence, comparison.metric.key.as_str()) {
        (Evidence::Prompts { .. }, "perplexity") => {
            "the difference of the negative log-likelihood of a document, in nats,"
        }
        _ => "the difference",
    }
}

/// What the reader should hold against these numbers.
fn caveats(scene: &Scene<'_>, arms: &[Arm<'_>], comparisons: &[&Comparison]) -> Vec<String> {
    let mut caveats = Vec::new();
    let seeds =
        arms.iter().map(|arm| arm.measured(scene.split).count()).filter(|n| *n > 0).min().unwrap_or(0);
    match seeds {
        0 => return vec!["No finished system has scores here yet.".to_owned()],
        1 if arms.len() == 1 => caveats.push("This is a single training run: how much another seed would change its numbers is unknown.".to_owned()),
        1 => caveats.push("There is a single training run of some system: how much another seed would change its numbers is unknown.".to_owned()),
        2..FEW_SEEDS => caveats.push(format!("{seeds} seeds are few: a standard deviation over them is itself uncertain, and the intervals over seeds are wide.")),
        _ => {}
    }
    if comparisons.iter().any(|comparison| comparison.metric.key == "mauve") {
        caveats.push("MAUVE compares two sets of texts and is no mean over prompts: its uncertainty here is its spread over seeds and sampling runs.".to_owned());
    }
    if comparisons.is_empty() && arms.iter().any(|arm| arm.objective != "mle") {
        caveats.push(
            "There is no MLE model with the same data, base model and length to compare with.".to_owned(),
        );
        return caveats;
    }
    let has = |control: Control| {
        arms.iter().any(|arm| arm.control == Some(control) && arm.measured(scene.split).next().is_some())
    };
    let has_others = arms.iter().any(|arm| arm.objective != "mle");
    if has_others && !(has(Control::TopP) && has(Control::Temperature)) {
        caveats.push("A control is missing (MLE at a tuned top-p, or at the temperature of equal diversity), so it is open whether sharper sampling from MLE would do the same.".to_owned());
    }
    if comparisons
        .iter()
        .any(|c| c.metric.is_mean_over_prompts() && !matches!(c.evidence, Evidence::Prompts { .. }))
    {
        caveats.push("Some scores of single prompts are missing, so not every mean over prompts was tested by resampling prompts.".to_owned());
    }
    if scene.split == Split::Valid && scene.study.chosen.iter().any(|chosen| chosen.group == *scene.group) {
        caveats.push("These are the development texts that the objective was chosen on, which favours the chosen one; test results are not there yet.".to_owned());
    }
    caveats
}

/// The group's title with the number of its systems, for tables of contents and messages.
pub(crate) fn summary_of(group: &Group, study: &Study) -> String {
    let systems = study.systems.iter().filter(|system| system.group == *group).count();
    let noun = if systems == 1 { "system" } else { "systems" };
    format!("{} ({systems} {noun})", Names::group_title(group))
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cell, chosen, human, measured, study};

    const RESAMPLING: Resampling = Resampling { resamples: 500, level: 0.95, seed: 1 };

    fn told(study: &Study) -> Vec<Findings> {
        let mut all = Vec::new();
        for group in study.groups() {
            let arms = Arm::of_group(study, group);
            let scene = Scene { study, group, split: final_split(&arms), resampling: &RESAMPLING };
            all.extend(scene.compare(&arms));
        }
        findings(study, &all, &RESAMPLING)
    }

    fn prompts(value: f64) -> Vec<Option<f64>> {
        (0..100).map(|i| Some(value + 0.01 * f64::from(i % 5 - 2))).collect()
    }

    fn with(objective: &str, seed: u64, mauve: f64, diversity: f64) -> crate::study::System {
        let mut system = cell(objective, None, seed);
        system.valid = Some(measured(mauve, &prompts(diversity)));
        system
    }

    #[test]
    fn a_clear_result_is_told_with_its_uncertainty() {
        let noise = [0.0, 0.002, 0.004];
        let mut systems: Vec<_> =
            (1..=3).map(|seed| with("mle", seed, 0.8 + noise[seed as usize - 1], 0.9)).collect();
        systems.extend((1..=3).map(|seed| with("mixce:eta=0.1", seed, 0.9 + noise[seed as usize - 1], 0.86)));
        let mut study = study(systems);
        study.humans.push(human(&prompts(0.84)));
        study
            .chosen
            .push(crate::results::Chosen { ties: vec!["mixce:eta=0.3".into()], ..chosen("mixce:eta=0.1") });
        let found = told(&study);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].title, "wiki, gpt2, 1000 training documents, up to 128 tokens");
        let text = found[0].sentences.join("\n");
        for expected in [
            "MixCE (eta = 0.1) has the best MAUVE on the development texts: 0.902 \u{b1} 0.001 over 3 seeds. MixCE (eta = 0.3) is within its noise, so the choice between them is a tie.",
            "Diversity on the development texts: MixCE (eta = 0.1) 0.860, MLE 0.900, human texts 0.840. MixCE (eta = 0.1) is closer to the human texts than MLE: the difference of the distances is \u{2212}0.040, 95 % interval over 100 prompts, given these models: \u{2212}0.04",
            "MixCE (eta = 0.1) is higher than MLE: the difference is +0.100, 95 % interval over seeds (3 and 3 runs): +0.09",
            "3 seeds are few",
            "MAUVE compares two sets of texts and is no mean over prompts",
            "A control is missing",
            "development texts that the objective was chosen on",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    /// The spread of the choice with one seed is that of its sampling runs, which says less.
    #[test]
    fn sampling_runs_are_not_called_seeds() {
        let mut study = study(vec![with("mixce:eta=0.1", 1, 0.9, 0.86)]);
        study.chosen.push(chosen("mixce:eta=0.1"));
        let text = told(&study)[0].sentences.join("\n");
        let expected = "0.902 \u{b1} 0.001 over 3 sampling runs of a single training run, so another seed might choose another one.";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_run_that_is_not_finished_is_said_to_be() {
        let mut run = with("mle", 1, 0.8, 0.9);
        run.unfinished = Some("step 3 of 9".into());
        let found = told(&study(vec![run]));
        assert_eq!(
            (found[0].title.as_str(), found[0].sentences.as_slice()),
            (
                "State",
                ["The training of `mle-None-s1` is not finished (step 3 of 9): its numbers are those of its models so far.".to_owned()]
                    .as_slice()
            )
        );
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let mut waiting = cell("mixce:eta=0.5", None, 1);
        waiting.status = Status::Waiting;
        let mut failed = cell("mixce:eta=0.9", None, 1);
        failed.status = Status::Failed;
        let study =
            study(vec![with("mle", 1, 0.8, 0.9), with("mixce:eta=0.1", 1, 0.99, 0.9), waiting, failed]);
        let found = told(&study);
        assert_eq!(
            found[0].sentences,
            ["Of 4 systems 1 failed and 1 is not computed yet; all numbers are those of the other 2."]
        );
        let text = found[1].sentences.join("\n");
        assert!(!text.contains("is higher") && !text.contains("is closer"), "{text}");
        assert!(text.contains("MAUVE on the development texts: MixCE (eta = 0.1) 0.990, MLE 0.800. With 1 and 1 training runs and no scores of single prompts, nothing says"));
        assert!(
            text.contains("A tie: the difference of their distances to human is")
                || text.contains("Diversity"),
            "{text}"
        );
        assert!(text.contains("a single training run"), "{text}");
    }

    #[test]
    fn a_run_alone_has_its_values_told() {
        let mut study = study(vec![with("mixce:eta=0.1", 1, 0.99, 0.9)]);
        study.humans.push(human(&prompts(0.84)));
        let found = told(&study);
        assert_eq!(
            found[0].sentences,
            [
                "MixCE (eta = 0.1) has perplexity 20.00, diversity 0.900 (human texts 0.840) and MAUVE 0.990 on the development texts.",
                "This is a single training run: how much another seed would change its numbers is unknown.",
                "There is no MLE model with the same data, base model and length to compare with.",
            ]
        );
    }
}
