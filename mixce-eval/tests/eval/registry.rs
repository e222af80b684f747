//! The list of metrics: complete, consistent, and what the book says.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::BTreeSet;
use std::path::Path;

use mixce_eval::features::Features;
use mixce_eval::metric::{
    Best, EmbeddedPairs, Fact, FeaturePair, Inputs, MetricSpec, Need, OfWindows, Resampling, ScoreTable,
    Scorer, SetScores, SettingValues, TextCounts, find,
};
use mixce_eval::{Error, METRICS};
use serde_json::json;

/// A row of the table in `docs/src/method/metrics.md`.
fn row(metric: &MetricSpec) -> String {
    let best = |best: Best| match best {
        Best::AsHuman => "",
        Best::Highest => " (highest)",
        Best::Lowest => " (lowest)",
    };
    let scores: Vec<String> =
        metric.scores.iter().map(|score| format!("`{}`{}", score.key, best(score.best))).collect();
    let needs: Vec<&str> = metric.needs.iter().map(|need| need.describe()).collect();
    let settings: Vec<String> =
        metric.settings.iter().map(|setting| format!("`--{}`", setting.name())).collect();
    format!(
        "| `{}` | {} | {} | {} | {} |",
        metric.name,
        metric.summary,
        scores.join(", "),
        needs.join(", "),
        settings.join(", ")
    )
}

#[test]
fn the_book_has_a_row_for_each_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/method/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table = page.lines().skip_while(|line| !line.starts_with("| `--metrics` |")).skip(2);
    let got: Vec<&str> = table.take_while(|line| line.starts_with('|')).collect();
    let want: Vec<String> = METRICS.iter().map(row).collect();
    assert!(got == want, "the table of docs/src/method/metrics.md should be\n{}", want.join("\n"));
}

#[test]
fn names_and_keys_are_unique_and_defaults_may_be_given() {
    let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len());
    let keys: Vec<&str> = METRICS.iter().flat_map(|metric| metric.scores).map(|score| score.key).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{keys:?}");
    for metric in METRICS {
        assert!(std::ptr::eq(find(metric.name).unwrap(), metric));
        assert!(!metric.summary.ends_with('.') && !metric.needs.is_empty(), "{}", metric.name);
        for setting in metric.settings {
            setting.default_text().map_or(Ok(()), |text| setting.check(&text)).unwrap();
        }
    }
    assert!(find("beauty").is_none());
}

/// Every input, small.
struct World {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    features: Features,
    pairs: EmbeddedPairs,
}

impl World {
    fn new() -> Self {
        let texts: Vec<String> = ["a b a b a b a b c", "", "c d", "a"].map(str::to_owned).into();
        let ids = vec![vec![0, 1, 0, 1, 0, 1, 0, 1, 2], vec![], vec![2, 3], vec![0]];
        let rows = |rows: usize| {
            let values = (0..2 * rows).map(|i| if i % 3 == 0 { 1.0 } else { 0.0 }).collect();
            Features::new(rows, 2, values).unwrap()
        };
        let pairs = EmbeddedPairs::new(vec![true, false, true, false], rows(2), rows(2)).unwrap();
        Self { texts, ids, features: rows(8), pairs }
    }

    fn inputs(&self) -> Inputs<'_> {
        let features = FeaturePair { human: &self.features, model: &self.features };
        Inputs {
            texts: Some(&self.texts),
            token_ids: Some(&self.ids),
            features: Some(features),
            embeddings: Some(&self.pairs),
            window_features: Some(vec![
                OfWindows { tokens: 5, drawn: Some(features) },
                OfWindows { tokens: 9, drawn: None },
            ]),
            window_embeddings: Some(vec![OfWindows { tokens: 5, drawn: Some(&self.pairs) }]),
        }
    }
}

#[test]
fn each_metric_gives_the_scores_that_it_declares() {
    let world = World::new();
    for metric in METRICS {
        let scorer = Scorer::new(&[metric, metric], &SettingValues::new(1)).unwrap();
        let scores = scorer.score_system("mle", &world.inputs()).unwrap();
        let got: Vec<&str> = scores.scores.iter().map(|score| score.key).collect();
        let want: Vec<&str> = metric.scores.iter().map(|score| score.key).collect();
        assert_eq!(got, want, "{}", metric.name);
        let human = scorer.score_human(&world.inputs()).unwrap();
        assert_eq!(human.scores.len(), if metric.scores_human { want.len() } else { 0 }, "{}", metric.name);
        // Documents are those of the set, so that two systems can be paired.
        for documents in scores.scores.iter().filter_map(|score| score.documents.as_ref()) {
            assert_eq!(documents.len(), world.texts.len(), "{}", metric.name);
        }
    }
}

#[test]
fn a_missing_input_is_named() {
    let nothing = Inputs::default();
    for metric in METRICS {
        let scorer = Scorer::new(&[metric], &SettingValues::new(1)).unwrap();
        let error = scorer.score_system("mle", &nothing).unwrap_err();
        let Error::Metric { title, set, source } = error else { unreachable!("{error}") };
        assert_eq!((title, set.as_str()), (metric.title, "mle"));
        assert!(matches!(*source, Error::MissingInput(need) if metric.needs.contains(&need)), "{source}");
    }
}

#[test]
fn settings_are_recorded_for_all_that_the_inputs_suffice_for() {
    let mut values = SettingValues::new(7);
    let spec = |name: &str| find(name).unwrap();
    let seeds = spec("mauve").settings.iter().find(|setting| setting.name() == "mauve-seeds").unwrap();
    values.set(*seeds, "2").unwrap();
    let scorer = Scorer::new(&[spec("zipf"), spec("controlled-mauve")], &values).unwrap();
    assert_eq!(scorer.needs(), BTreeSet::from([Need::TokenIds, Need::WindowFeatures]));
    let recorded = scorer.settings();
    assert_eq!(recorded["self_bleu_texts"], Fact::Count(1000));
    let Fact::Group(mauve) = &recorded["mauve"] else { unreachable!("{recorded:?}") };
    assert!(
        mauve.contains(&("seeds", Fact::Counts(vec![7, 8]))) && mauve.contains(&("buckets", Fact::Unset))
    );
    let features = Scorer::new(&[spec("coherence")], &values).unwrap();
    assert!(features.settings().is_empty(), "{:?}", features.settings());
}

#[test]
fn a_table_has_intervals_tests_and_the_names_of_the_json() {
    let world = World::new();
    let scorer =
        Scorer::new(&[find("length").unwrap(), find("coherence").unwrap()], &SettingValues::new(1)).unwrap();
    let set = |name: &str| SetScores {
        name: name.to_owned(),
        texts: Some(TextCounts { texts: 4, empty: 1 }),
        scores: scorer.score_system(name, &world.inputs()).unwrap(),
    };
    let resampling = Resampling { resamples: 99, level: 0.9, seed: 3 };
    let table = ScoreTable::new(Some(set("human")), vec![set("a"), set("b")], &resampling);
    let got = serde_json::to_value(&table).unwrap();
    assert_eq!(got["human"].get("name"), None);
    assert_eq!((&got["systems"][1]["name"], &got["systems"][1]["empty_texts"]), (&json!("b"), &json!(1)));
    assert_eq!((&got["human"]["tokens"]["max"], &got["human"]["coherence_texts"]), (&json!(9), &json!(2)));
    let intervals = got["systems"][0]["confidence"].as_object().unwrap();
    assert_eq!(intervals.keys().collect::<Vec<_>>(), ["coherence", "tokens"]);
    assert!(intervals["tokens"][0].as_f64().unwrap() < intervals["tokens"][1].as_f64().unwrap());
    let test = json!({"metric": "tokens", "first": "a", "second": "b", "pairs": 4, "difference": 0.0, "interval": [0.0, 0.0], "p_value": 1.0});
    assert_eq!(got["comparisons"][0], test);
    assert_eq!(got["comparisons"].as_array().unwrap().len(), 2);
    let without = ScoreTable::new(None, vec![set("a")], &Resampling { resamples: 0, ..resampling });
    let without = serde_json::to_value(&without).unwrap();
    assert_eq!((&without["human"], &without["systems"][0]["confidence"]), (&json!(null), &json!({})));
}
