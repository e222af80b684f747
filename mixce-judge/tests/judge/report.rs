//! Statistics of studies whose answers are known.

use mixce_judge::{MakeSettings, ReportSettings, Study, make, report};

use super::client::Running;
use super::studies::{SYSTEMS, attentive, files};

#[test]
fn inattentive_judges_are_found_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&MakeSettings { judges: 3, judges_per_item: 3, ..files(folder.path(), 8) }, &out).unwrap();
    let server = Running::start(&out);
    server.work(1, usize::MAX, &attentive);
    server.work(2, usize::MAX, &attentive);
    server.work(3, usize::MAX, &|a, b| -attentive(a, b));
    let study = Study::open(&out).unwrap();
    let found = report(&study, ReportSettings { items: true, ..ReportSettings::default() }).unwrap();
    assert_eq!((found.answered, found.planned), (30, 30));
    let judges: Vec<_> =
        found.judges.iter().map(|j| (j.answered, j.checks, j.failed_checks, j.dropped)).collect();
    assert_eq!(judges, [(10, 2, 0, false), (10, 2, 0, false), (10, 2, 2, true)]);
    let pair = &found.all.pairs[0];
    assert_eq!((&*pair.first, &*pair.second, pair.items, pair.answers), (SYSTEMS[0], SYSTEMS[1], 8, 24));
    assert_eq!(pair.counts, [8, 0, 16]);
    assert_eq!(
        (pair.wins.share, pair.ties.share, pair.losses.share),
        (Some(2.0 / 3.0), Some(0.0), Some(1.0 / 3.0))
    );
    assert_eq!((pair.items_won, pair.items_tied, pair.items_lost), (8, 0, 0));
    // Two of 2^8 outcomes are as extreme.
    assert!((pair.p_value - 2.0 / 256.0).abs() < 1e-12);
    // Every item has the same answers, so resampling items changes nothing.
    let net = pair.net.interval.unwrap();
    assert!((net.low - 1.0 / 3.0).abs() < 1e-12 && (net.high - 1.0 / 3.0).abs() < 1e-12);
    // One of three pairs of judges agrees. Nominal alpha: 1 - 23 * 8 / (16 * 8).
    let agreement = found.all.agreement;
    assert_eq!((agreement.raw, agreement.items), (Some(1.0 / 3.0), 8));
    assert!((agreement.alpha_nominal.unwrap() + 0.4375).abs() < 1e-12, "{agreement:?}");
    let kept = found.attentive.unwrap();
    assert_eq!((kept.judges, kept.answers, kept.pairs[0].wins.share), (2, 16, Some(1.0)));
    assert_eq!((kept.agreement.raw, kept.agreement.alpha_nominal), (Some(1.0), None));
    let items = found.items.unwrap();
    assert_eq!(items.len(), 10);
    assert!(items.iter().all(|item| item.answers.len() == 3));
    assert!(found.seconds.is_some_and(|s| s.lower_quartile <= s.median && s.median <= s.upper_quartile));
    let tolerant = ReportSettings { max_failed_checks: 1.0, resamples: 0, ..ReportSettings::default() };
    let found = report(&study, tolerant).unwrap();
    assert!(found.attentive.is_none() && found.all.pairs[0].wins.interval.is_none());
}

#[test]
fn a_study_without_answers_has_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&files(folder.path(), 3), &out).unwrap();
    let study = Study::open(&out).unwrap();
    let found = report(&study, ReportSettings::default()).unwrap();
    assert_eq!((found.answered, found.planned, found.all.pairs.len()), (0, 10, 1));
    let pair = &found.all.pairs[0];
    assert_eq!((pair.answers, pair.wins.share, pair.wins.interval, pair.p_value), (0, None, None, 1.0));
    assert!(!out.join("answers.sqlite").exists());
    for settings in [
        ReportSettings { level: 1.0, ..ReportSettings::default() },
        ReportSettings { max_failed_checks: f64::NAN, ..ReportSettings::default() },
    ] {
        assert!(report(&study, settings).unwrap_err().to_string().contains("`settings."));
    }
}

/// Answers with ties and missing values.
#[test]
fn items_count_once_in_the_sign_test() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("study");
    make(&MakeSettings { checks: Some(0), ..files(folder.path(), 6) }, &out).unwrap();
    let server = Running::start(&out);
    server.work(1, usize::MAX, &attentive);
    server.work(2, 2, &|a, b| -attentive(a, b));
    let found = report(&Study::open(&out).unwrap(), ReportSettings::default()).unwrap();
    let pair = &found.all.pairs[0];
    assert_eq!((pair.items_won, pair.items_tied, pair.items_lost), (4, 2, 0));
    assert!((pair.p_value - 0.125).abs() < 1e-12);
    assert_eq!((found.answered, found.all.agreement.raw, found.all.agreement.items), (8, Some(0.0), 2));
    let net = pair.net;
    assert_eq!(net.share, Some(0.5));
    let interval = net.interval.unwrap();
    assert!(interval.low < 0.5 && interval.high <= 1.0 && interval.low >= -1.0, "{interval:?}");
}
