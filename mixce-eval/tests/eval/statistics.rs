//! Comparison of intervals and tests with scipy (`scripts/fixtures/make_statistics_fixtures.py`).

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::Path;

use mixce_eval::paired::closeness;
use mixce_eval::resample::{Interval, paired_test};
use mixce_eval::welch::welch;
use serde_json::Value;

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/statistics/scipy.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap()
}

fn numbers(row: &Value, key: &str) -> Vec<f64> {
    row[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn values(row: &Value, key: &str) -> Vec<Option<f64>> {
    numbers(row, key).into_iter().map(Some).collect()
}

#[track_caller]
fn close(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "got {got}, expected {want} within {tolerance}");
}

#[track_caller]
fn ends_are_close(got: Interval, want: &[f64], tolerance: f64) {
    close(got.low, want[0], tolerance);
    close(got.high, want[1], tolerance);
}

/// Both sides draw at random: with 40 000 resamples the end of an interval varies by about 0.013 standard errors, so a tenth of one is far
/// outside chance and well inside any other definition.
#[test]
fn paired_intervals_and_tests_are_scipys() {
    let fixture = fixture();
    let level = number(&fixture, "level");
    for row in fixture["paired"].as_array().unwrap() {
        let [human, first, second] = ["human", "first", "second"].map(|key| values(row, key));
        let found = paired_test(&first, &second, 40_000, level, 1).unwrap();
        close(found.difference, number(row, "difference"), 1e-12);
        let tolerance = 0.1 * number(row, "difference_standard_error");
        ends_are_close(found.interval, &numbers(row, "difference_interval"), tolerance);
        // A standard deviation of a share over 40 000 draws is 0.0025 at most.
        close(found.p_value, number(row, "p_value"), 0.01);

        let found = closeness(&human, &first, &second, 40_000, level, 1).unwrap();
        close(found.difference, number(row, "closeness"), 1e-12);
        let tolerance = 0.1 * number(row, "closeness_standard_error");
        ends_are_close(found.interval, &numbers(row, "closeness_interval"), tolerance);
    }
}

#[test]
fn welchs_interval_and_test_are_scipys() {
    for row in fixture()["welch"].as_array().unwrap() {
        let found = welch(&numbers(row, "first"), &numbers(row, "second"), 0.95).unwrap();
        close(found.degrees_of_freedom, number(row, "degrees_of_freedom"), 1e-9);
        close(found.p_value, number(row, "p_value"), 1e-9);
        ends_are_close(found.interval, &numbers(row, "interval"), 1e-7);
    }
}
