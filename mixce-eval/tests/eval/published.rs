//! Comparison with the reference implementations of the metrics (`scripts/fixtures/make_metric_fixtures.py`).

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::{Path, PathBuf};

use mixce_eval::diversity::text_diversity;
use mixce_eval::features::Features;
use mixce_eval::mauve::curve::{area, divergence_curve, frontier_integral, kl_divergence, shares};
use mixce_eval::mauve::{MauveSettings, mauve};
use mixce_eval::metric::Spread;
use mixce_eval::repetition::repetition;
use mixce_eval::self_bleu::self_bleu;
use mixce_eval::zipf::zipf_coefficient;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/metrics").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn tokens(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|x| x as u32).collect()
}

fn texts(value: &Value) -> Vec<Vec<u32>> {
    value.as_array().unwrap().iter().map(tokens).collect()
}

fn counts(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|x| x as usize).collect()
}

fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{what}: got {got}, expected {want} within {tolerance}");
}

#[test]
fn diversity_and_repetition_are_the_authors() {
    let rows = json("authors.json");
    let rows = rows.as_array().unwrap();
    assert!(rows.len() > 150);
    for (index, row) in rows.iter().enumerate() {
        let text = tokens(&row["text"]);
        // The authors give an empty text the value 0, we give it none.
        let diversity = text_diversity(&text).unwrap_or(0.0);
        close(&format!("diversity {index}"), diversity, row["diversity"].as_f64().unwrap(), 1e-9);
        let found = repetition(&text);
        let (rate, longest) = found.map_or((0.0, 0), |r| (r.rate, r.longest_span.unwrap_or(0)));
        close(&format!("repetition {index} {text:?}"), rate, row["rate"].as_f64().unwrap(), 1e-9);
        assert_eq!(longest as u64, row["longest"].as_u64().unwrap(), "{index} {text:?}");
    }
}

#[test]
fn self_bleu_and_zipf_are_the_published_ones() {
    let published = json("metrics.json");
    let found = self_bleu(&texts(&published["self_bleu"]["texts"])).unwrap();
    for (index, (got, want)) in found.iter().zip(numbers(&published["self_bleu"]["scores"])).enumerate() {
        close(&format!("self-BLEU {index}"), *got, want, 1e-9);
    }
    let zipf = zipf_coefficient(&texts(&published["zipf"]["texts"])).unwrap();
    close("zipf", zipf, published["zipf"]["coefficient"].as_f64().unwrap(), 1e-9);
}

#[test]
fn divergences_are_scipys() {
    let cases = json("divergences.json");
    assert!(cases.as_array().unwrap().len() > 10);
    for case in cases.as_array().unwrap() {
        let [p, q] = ["p", "q"].map(|key| shares(&counts(&case[key])).unwrap());
        let kl = kl_divergence(&p, &q);
        match case["kl"].as_f64() {
            Some(expected) => close("KL", kl, expected, 1e-12),
            None => assert_eq!(kl, f64::INFINITY),
        }
        let r: Vec<f64> = p.iter().zip(&q).map(|(p, q)| (p + q) / 2.0).collect();
        let js = (kl_divergence(&p, &r) + kl_divergence(&q, &r)) / 2.0;
        close("JS", js, case["js"].as_f64().unwrap(), 1e-12);
    }
}

#[test]
fn curves_and_areas_of_given_histograms() {
    let published = json("metrics.json");
    for case in published["curves"].as_array().unwrap() {
        let [p, q] = ["p", "q"].map(|key| shares(&counts(&case[key])).unwrap());
        let curve = divergence_curve(&p, &q, 25, 5.0);
        let expected = case["curve"].as_array().unwrap();
        assert_eq!(curve.len(), expected.len());
        for (got, want) in curve.iter().zip(expected) {
            let want = numbers(want);
            close("x", got[0], want[0], 1e-9);
            close("y", got[1], want[1], 1e-9);
        }
        close("area", area(&curve), case["area"].as_f64().unwrap(), 1e-9);
        let integral = case["frontier_integral"].as_f64().unwrap();
        close("frontier integral", frontier_integral(&p, &q), integral, 1e-9);
    }
}

/// The scores of mauve-text over 40 of its seeds and ours over 40 of ours come from one distribution: means within three standard
/// errors, spreads within a factor of two, quartiles within a standard deviation.
#[test]
fn mauve_has_the_distribution_of_mauve_text() {
    let published = &json("metrics.json")["mauve"];
    let [human, model] = ["human.npy", "model.npy"].map(|name| Features::read(&fixture(name)).unwrap());
    let settings = MauveSettings { seeds: (100..140).collect(), ..MauveSettings::default() };
    let ours = mauve(&human, &model, &settings).unwrap();
    assert_eq!(ours.buckets as u64, published["buckets"].as_u64().unwrap());
    same_distribution("mauve", &ours.mauve, numbers(&published["mauve"]));
    same_distribution("mauve_star", &ours.mauve_star, numbers(&published["mauve_star"]));
    same_distribution("frontier_integral", &ours.frontier_integral, numbers(&published["frontier_integral"]));
}

fn same_distribution(name: &str, ours: &Spread, mut theirs: Vec<f64>) {
    let n = theirs.len() as f64;
    let mean = theirs.iter().sum::<f64>() / n;
    let std = (theirs.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let told = format!("{name}: ours {:.5} sd {:.5}, theirs {mean:.5} sd {std:.5}", ours.mean, ours.std);
    let error = ((std * std + ours.std * ours.std) / n).sqrt();
    close(&told, ours.mean, mean, 3.0 * error);
    assert!(ours.std < 2.0 * std && std < 2.0 * ours.std, "{told}");
    let mut values = ours.values.clone();
    values.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    for place in [10, 20, 30] {
        close(&format!("{told}, quantile {place} of 40"), values[place], theirs[place], std);
    }
}
