//! Human evaluations that belong to a report.

use std::path::{Path, PathBuf};

use mixce_judge::{Estimate, PairReport, ReportSettings, Results};

use crate::compare::Resampling;
use crate::error::Result;
use crate::findings::Findings;
use crate::names::{list, percent, signed};
use crate::study::Study;

/// A study of `mixce judge` with its statistics.
#[derive(Clone, Debug)]
pub struct JudgedStudy {
    /// Its folder.
    pub folder: PathBuf,
    /// The statistics, with every item.
    pub report: mixce_judge::Report,
}

impl JudgedStudy {
    /// The folder's name.
    pub(crate) fn name(&self) -> String {
        self.folder.file_name().unwrap_or(self.folder.as_os_str()).to_string_lossy().into_owned()
    }

    /// The results of all judges and, if that leaves some out, of the attentive ones.
    pub(crate) fn results(&self) -> impl Iterator<Item = (&'static str, &Results)> {
        let attentive = self.report.attentive.as_ref().map(|results| ("attentive", results));
        std::iter::once(("all", &self.report.all)).chain(attentive)
    }
}

impl Study {
    /// Adds the folder of a human evaluation with the answers so far.
    ///
    /// # Errors
    /// When it is no such folder, was edited, or the answers cannot be read.
    pub fn add_judged(&mut self, folder: &Path, resampling: &Resampling) -> Result<()> {
        let study = mixce_judge::Study::open(folder)?;
        let defaults = ReportSettings::default();
        let Resampling { resamples, level, .. } = *resampling;
        let report =
            mixce_judge::report(&study, ReportSettings { resamples, level, items: true, ..defaults })?;
        self.judged.push(JudgedStudy { folder: folder.to_owned(), report });
        Ok(())
    }
}

/// What the judges say of each pair, how far they agree, and whether they were attentive.
pub(crate) fn findings(study: &Study, level: f64) -> Vec<Findings> {
    study.judged.iter().map(|judged| of_study(judged, level)).collect()
}

fn of_study(judged: &JudgedStudy, level: f64) -> Findings {
    let report = &judged.report;
    let mut sentences = Vec::new();
    if report.answered < report.planned {
        sentences.push(format!(
            "{} of {} planned answers are given: what follows may change.",
            report.answered, report.planned
        ));
    }
    sentences.extend(report.all.pairs.iter().filter_map(|pair| of_pair(pair, level)));
    let agreement = report.all.agreement;
    if let (Some(raw), Some(alpha)) = (agreement.raw, agreement.alpha_ordinal) {
        sentences.push(format!(
            "The judges agree in {} of the pairs of answers for one item (Krippendorff's alpha, ordinal: {}).",
            percent(rounded(raw)),
            signed(alpha, 2).trim_start_matches('+')
        ));
    }
    sentences.push(attention(judged));
    Findings { title: format!("Human judgement: {}", judged.name()), sentences }
}

/// Shares, items, and what the sign test and the interval say together.
fn of_pair(pair: &PairReport, level: f64) -> Option<String> {
    let PairReport { first, second, items, answers, items_won, items_tied, items_lost, p_value, .. } = pair;
    let share = |estimate: &Estimate| Some(with_interval(estimate, estimate.share?));
    let (wins, ties, losses) = (share(&pair.wins)?, share(&pair.ties)?, share(&pair.losses)?);
    let shown = match (pair.net.interval, pair.net.share?) {
        (Some(interval), net) if (interval.low > 0.0 || interval.high < 0.0) && *p_value <= 1.0 - level => {
            format!("the judges prefer {}", if net > 0.0 { first } else { second })
        }
        _ => "no preference is shown".to_owned(),
    };
    Some(format!(
        "{first} against {second}: {wins} of {answers} answers prefer {first}, {losses} prefer {second}, {ties} see no difference. \
        Of {items} items {first} wins {items_won}, {second} {items_lost}, {items_tied} are tied (sign test p = {p_value:.3}): {shown}."
    ))
}

fn with_interval(estimate: &Estimate, share: f64) -> String {
    let share = percent(rounded(share));
    match estimate.interval {
        None => share,
        Some(interval) => {
            format!("{share} [{}, {}]", percent(rounded(interval.low)), percent(rounded(interval.high)))
        }
    }
}

/// To tenths of a per cent.
fn rounded(share: f64) -> f64 {
    (1000.0 * share).round() / 1000.0
}

fn attention(judged: &JudgedStudy) -> String {
    let judges = &judged.report.judges;
    let dropped: Vec<String> =
        judges.iter().filter(|judge| judge.dropped).map(|judge| judge.name.clone()).collect();
    let (failed, checks) =
        judges.iter().fold((0, 0), |sum, judge| (sum.0 + judge.failed_checks, sum.1 + judge.checks));
    let most = percent(judged.report.settings.max_failed_checks);
    match dropped.as_slice() {
        _ if checks == 0 => "No attention check has been answered.".to_owned(),
        [] => format!("{failed} of {checks} attention checks failed; nobody failed more than {most}."),
        names => format!(
            "{failed} of {checks} attention checks failed; {} failed more than {most}, and the results are repeated without.",
            list(names)
        ),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use mixce_judge::{Agreement, Candidate, Header, ItemReport, JudgeReport, Judged, Kind, Report, Scale};

    use super::*;

    fn estimate(share: f64) -> Estimate {
        let interval = mixce_eval::resample::Interval { low: share - 0.1, high: share + 0.1 };
        Estimate { share: Some(share), interval: Some(interval) }
    }

    fn results() -> Results {
        let pair = PairReport {
            first: "mixce".into(),
            second: "mle".into(),
            items: 40,
            answers: 120,
            counts: vec![30, 18, 72],
            wins: estimate(0.6),
            ties: estimate(0.15),
            losses: estimate(0.25),
            net: estimate(0.35),
            items_won: 25,
            items_tied: 5,
            items_lost: 10,
            p_value: 0.0167,
        };
        let agreement =
            Agreement { alpha_nominal: Some(0.25), alpha_ordinal: Some(0.3125), raw: Some(0.5), items: 40 };
        Results { judges: 3, answers: 120, pairs: vec![pair], agreement }
    }

    /// A study of three judges, one of whom was inattentive; one item, whose texts are hostile.
    pub(crate) fn judged() -> JudgedStudy {
        let judge = |judge: usize, failed_checks: usize| JudgeReport {
            judge,
            name: format!("judge <{judge}>"),
            answered: 44,
            planned: 44,
            checks: 4,
            failed_checks,
            dropped: failed_checks > 1,
            median_seconds: Some(12.5),
        };
        let candidate = |system: &str, text: &str| Candidate { system: system.into(), text: text.into() };
        let answer = Judged {
            judge: 1,
            name: "judge <1>".into(),
            item: 0,
            kind: Kind::Comparison,
            prompt: String::new(),
            first: "mixce".into(),
            second: "mle".into(),
            shown_as_a: "mle".into(),
            preference: 1,
            better: Some("mixce".into()),
            reasons: vec!["fits".into()],
            note: "<b>good</b>".into(),
            seconds: Some(9.0),
            answered_ms: 1,
        };
        let item = ItemReport {
            item: 0,
            kind: Kind::Comparison,
            prompt: "</section>".into(),
            first: candidate("mixce", "<script>alert(1)</script>"),
            second: candidate("mle", "a\u{202e}b"),
            answers: vec![answer],
        };
        let study = Header {
            format: "mixce-judge-1".into(),
            seed: 1,
            scale: Scale::Three,
            systems: vec!["mixce".into(), "mle".into()],
            comparisons: 40,
            checks: 4,
            judges: 3,
            judges_per_item: 3,
            items_sha256: String::new(),
            plan_sha256: String::new(),
        };
        let report = Report {
            study,
            answered: 132,
            planned: 132,
            all: results(),
            attentive: Some(results()),
            judges: vec![judge(1, 0), judge(2, 1), judge(3, 4)],
            seconds: None,
            items: Some(vec![item]),
            settings: ReportSettings { items: true, ..ReportSettings::default() },
        };
        JudgedStudy { folder: "studies/first".into(), report }
    }

    #[test]
    fn a_preference_needs_the_interval_and_the_test() {
        let mut study = Study { judged: vec![judged()], ..Study::default() };
        let found = findings(&study, 0.95);
        assert_eq!(found[0].title, "Human judgement: first");
        assert_eq!(
            found[0].sentences[0],
            "mixce against mle: 60 % [50 %, 70 %] of 120 answers prefer mixce, 25 % [15 %, 35 %] prefer mle, 15 % [5 %, 25 %] see no difference. \
            Of 40 items mixce wins 25, mle 10, 5 are tied (sign test p = 0.017): the judges prefer mixce."
        );
        assert!(
            found[0].sentences[1].contains("50 % of the pairs of answers")
                && found[0].sentences[1].contains("0.31")
        );
        assert!(
            found[0].sentences[2]
                .starts_with("5 of 12 attention checks failed; judge <3> failed more than 25 %")
        );
        study.judged[0].report.all.pairs[0].p_value = 0.06;
        assert!(findings(&study, 0.95)[0].sentences[0].ends_with("no preference is shown."));
        study.judged[0].report.answered = 100;
        assert!(findings(&study, 0.95)[0].sentences[0].starts_with("100 of 132 planned answers"));
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let resampling = Resampling { resamples: 10, level: 0.95, seed: 1 };
        let error = Study::default().add_judged(folder.path(), &resampling).unwrap_err();
        assert!(error.to_string().contains("study.json"), "{error}");
    }
}
