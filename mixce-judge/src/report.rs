//! The statistics of a study.

use std::collections::BTreeMap;

use mixce_base::rng::{Stream, purpose};
use mixce_eval::resample::{Interval, bootstrap_ratio, quantile};
use serde::Serialize;

use crate::error::Error;
use crate::export::{Judged, answers};
use crate::stats::{Level, alpha, pairwise_agreement, sign_test};
use crate::study::{Header, Kind, Study};

/// The settings of [`report()`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ReportSettings {
    /// Resamples of the bootstrap; 0 leaves the intervals out.
    pub resamples: usize,
    /// Confidence level of the intervals.
    pub level: f64,
    /// A judge who failed a larger share of the attention checks is dropped from the second set of results.
    pub max_failed_checks: f64,
    /// Whether to list every item.
    pub items: bool,
}

impl Default for ReportSettings {
    fn default() -> Self {
        Self { resamples: 2000, level: 0.95, max_failed_checks: 0.25, items: false }
    }
}

/// The statistics of a study.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `study.json`.
    pub study: Header,
    /// Answers so far, checks included.
    pub answered: usize,
    /// Answers of the complete study.
    pub planned: usize,
    /// Results from all judges.
    pub all: Results,
    /// Results without the judges that failed too many checks; null when nobody did.
    pub attentive: Option<Results>,
    /// Each judge.
    pub judges: Vec<JudgeReport>,
    /// Time of a comparison.
    pub seconds: Option<Seconds>,
    /// Every item, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<ItemReport>>,
    /// The settings.
    pub settings: ReportSettings,
}

/// Results from a set of judges; attention checks do not count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Results {
    /// Judges with an answer.
    pub judges: usize,
    /// Answers.
    pub answers: usize,
    /// Each pair of systems.
    pub pairs: Vec<PairReport>,
    /// Agreement over the comparisons of all pairs.
    pub agreement: Agreement,
}

/// Two systems.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairReport {
    /// One system.
    pub first: String,
    /// The other.
    pub second: String,
    /// Items with an answer.
    pub items: usize,
    /// Answers.
    pub answers: usize,
    /// Answers by value, from `second` much better to `first` much better.
    pub counts: Vec<usize>,
    /// Share of answers for `first`.
    pub wins: Estimate,
    /// Share of answers without a difference.
    pub ties: Estimate,
    /// Share of answers for `second`.
    pub losses: Estimate,
    /// Wins minus losses.
    pub net: Estimate,
    /// Items that most of their judges gave to `first`.
    pub items_won: usize,
    /// Items with as many answers for one as for the other.
    pub items_tied: usize,
    /// Items that most of their judges gave to `second`.
    pub items_lost: usize,
    /// Exact two-sided sign test of items won against items lost.
    pub p_value: f64,
}

/// A share of answers (null without any), and its bootstrap interval over items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The share.
    pub share: Option<f64>,
    /// Its interval.
    pub interval: Option<Interval>,
}

/// How far the judges of an item agree; null where it is not defined.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Krippendorff's alpha, values equal or not.
    pub alpha_nominal: Option<f64>,
    /// Krippendorff's alpha, values in order.
    pub alpha_ordinal: Option<f64>,
    /// Share of equal values among all pairs of answers for one item.
    pub raw: Option<f64>,
    /// Items with two answers or more.
    pub items: usize,
}

/// A judge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JudgeReport {
    /// Judge, from 1.
    pub judge: usize,
    /// Name.
    pub name: String,
    /// Answers, checks included.
    pub answered: usize,
    /// Tasks in the plan.
    pub planned: usize,
    /// Attention checks answered.
    pub checks: usize,
    /// Attention checks in which the human text was not called better.
    pub failed_checks: usize,
    /// Whether the judge is left out of `attentive`.
    pub dropped: bool,
    /// Median time of a comparison.
    pub median_seconds: Option<f64>,
}

/// Quartiles of the time of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Seconds {
    /// Lower quartile.
    pub lower_quartile: f64,
    /// Median.
    pub median: f64,
    /// Upper quartile.
    pub upper_quartile: f64,
}

/// An item with its answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemReport {
    /// Item, from 0.
    pub item: usize,
    /// What it is for.
    pub kind: Kind,
    /// The prompt.
    pub prompt: String,
    /// The first system and its text.
    pub first: crate::Candidate,
    /// The second system and its text.
    pub second: crate::Candidate,
    /// Its answers.
    pub answers: Vec<Judged>,
}

/// Reads the answers so far and computes the statistics; also while the study is served.
///
/// # Errors
/// When the answers cannot be read, or a setting is out of range.
pub fn report(study: &Study, settings: ReportSettings) -> Result<Report, Error> {
    let range = |name, expected: &str, got: f64| {
        Err(Error::Setting { name, expected: expected.into(), got: got.to_string() })
    };
    if !(settings.level > 0.0 && settings.level < 1.0) {
        return range("confidence", "a number between 0 and 1", settings.level);
    }
    if !(0.0..=1.0).contains(&settings.max_failed_checks) {
        return range("max_failed_checks", "a share from 0 to 1", settings.max_failed_checks);
    }
    let answers = answers(study)?;
    let judges: Vec<JudgeReport> =
        (1..=study.header.judges).map(|judge| judge_report(study, &answers, judge, &settings)).collect();
    let is_dropped = |answer: &&Judged| judges[answer.judge - 1].dropped;
    let compared: Vec<&Judged> = answers.iter().filter(|a| a.kind == Kind::Comparison).collect();
    let kept: Vec<&Judged> = compared.iter().copied().filter(|a| !is_dropped(a)).collect();
    let dropped = judges.iter().any(|judge| judge.dropped);
    Ok(Report {
        study: study.header.clone(),
        answered: answers.len(),
        planned: study.plan.iter().map(Vec::len).sum(),
        all: results(study, &compared, &settings),
        attentive: dropped.then(|| results(study, &kept, &settings)),
        seconds: seconds(&compared),
        items: settings.items.then(|| items(study, &answers)),
        judges,
        settings,
    })
}

fn judge_report(study: &Study, answers: &[Judged], judge: usize, settings: &ReportSettings) -> JudgeReport {
    let own: Vec<&Judged> = answers.iter().filter(|answer| answer.judge == judge).collect();
    let checks: Vec<&Judged> = own.iter().copied().filter(|answer| answer.kind == Kind::Check).collect();
    // The human text is `first`.
    let failed = checks.iter().filter(|check| check.preference <= 0).count();
    let compared: Vec<&Judged> =
        own.iter().copied().filter(|answer| answer.kind == Kind::Comparison).collect();
    JudgeReport {
        judge,
        name: own.first().map_or_else(|| format!("judge {judge}"), |answer| answer.name.clone()),
        answered: own.len(),
        planned: study.plan[judge - 1].len(),
        checks: checks.len(),
        failed_checks: failed,
        dropped: failed as f64 > settings.max_failed_checks * checks.len() as f64,
        median_seconds: seconds(&compared).map(|seconds| seconds.median),
    }
}

fn results(study: &Study, answers: &[&Judged], settings: &ReportSettings) -> Results {
    let mut by_pair: BTreeMap<(usize, usize), Vec<&Judged>> = BTreeMap::new();
    let systems = &study.header.systems;
    for first in 0..systems.len() {
        for second in first + 1..systems.len() {
            let of_pair = answers.iter().filter(|a| a.first == systems[first] && a.second == systems[second]);
            by_pair.insert((first, second), of_pair.copied().collect());
        }
    }
    let pairs = by_pair.into_iter().map(|((first, second), answers)| {
        pair_report(&systems[first], &systems[second], &answers, &study.header, settings)
    });
    let judges: std::collections::BTreeSet<usize> = answers.iter().map(|answer| answer.judge).collect();
    let units: Vec<Vec<i8>> = by_item(answers).into_values().collect();
    Results {
        judges: judges.len(),
        answers: answers.len(),
        pairs: pairs.collect(),
        agreement: Agreement {
            alpha_nominal: alpha(&units, Level::Nominal),
            alpha_ordinal: alpha(&units, Level::Ordinal),
            raw: pairwise_agreement(&units),
            items: units.iter().filter(|unit| unit.len() >= 2).count(),
        },
    }
}

fn pair_report(
    first: &str,
    second: &str,
    answers: &[&Judged],
    header: &Header,
    settings: &ReportSettings,
) -> PairReport {
    let units: Vec<Vec<i8>> = by_item(answers).into_values().collect();
    let stream = Stream::new(header.seed).fold(purpose::JUDGE).fold(3);
    let estimate = |value: &dyn Fn(i8) -> f64| {
        let of_unit = |unit: &Vec<i8>| (unit.iter().map(|v| value(*v)).sum::<f64>(), unit.len() as f64);
        let sums: Vec<(f64, f64)> = units.iter().map(of_unit).collect();
        let total: f64 = sums.iter().map(|(sum, _)| sum).sum();
        Estimate {
            share: (!answers.is_empty()).then(|| total / answers.len() as f64),
            interval: bootstrap_ratio(&sums, settings.resamples, settings.level, stream),
        }
    };
    let net_of = |unit: &Vec<i8>| unit.iter().map(|v| v.signum()).map(i64::from).sum::<i64>().signum();
    let count = |sign: i64| units.iter().filter(|unit| net_of(unit) == sign).count();
    let (items_won, items_tied, items_lost) = (count(1), count(0), count(-1));
    let extreme = header.scale.extreme();
    PairReport {
        first: first.into(),
        second: second.into(),
        items: units.len(),
        answers: answers.len(),
        counts: (-extreme..=extreme).map(|v| answers.iter().filter(|a| a.preference == v).count()).collect(),
        wins: estimate(&|v| f64::from(u8::from(v > 0))),
        ties: estimate(&|v| f64::from(u8::from(v == 0))),
        losses: estimate(&|v| f64::from(u8::from(v < 0))),
        net: estimate(&|v| f64::from(v.signum())),
        items_won,
        items_tied,
        items_lost,
        p_value: sign_test(items_won, items_lost),
    }
}

/// The preferences of each item.
fn by_item(answers: &[&Judged]) -> BTreeMap<usize, Vec<i8>> {
    let mut items: BTreeMap<usize, Vec<i8>> = BTreeMap::new();
    for answer in answers {
        items.entry(answer.item).or_default().push(answer.preference);
    }
    items
}

fn seconds(answers: &[&Judged]) -> Option<Seconds> {
    let mut all: Vec<f64> = answers.iter().filter_map(|answer| answer.seconds).collect();
    all.sort_unstable_by(f64::total_cmp);
    Some(Seconds {
        lower_quartile: quantile(&all, 0.25)?,
        median: quantile(&all, 0.5)?,
        upper_quartile: quantile(&all, 0.75)?,
    })
}

fn items(study: &Study, answers: &[Judged]) -> Vec<ItemReport> {
    let item = |(number, item): (usize, &crate::Item)| ItemReport {
        item: number,
        kind: item.kind,
        prompt: item.prompt.clone(),
        first: item.first.clone(),
        second: item.second.clone(),
        answers: answers.iter().filter(|answer| answer.item == number).cloned().collect(),
    };
    study.items.iter().enumerate().map(item).collect()
}
