//! Training and development curves.

use std::collections::BTreeMap;

use crate::arm::Arm;
use crate::chart::{Axis, Chart, Point, Series, Shape};
use crate::input::Curve;
use crate::names::Names;
use crate::study::Study;

/// More points are invisible; consecutive ones are averaged.
const MAX_POINTS: usize = 300;

type Line = (String, Vec<(u64, f64)>);

/// For each group a chart of the training and one of the development curves, with a line for each objective; for a single run both in one.
pub(super) fn charts(study: &Study, names: &mut Names) -> Vec<Chart> {
    let mut charts = Vec::new();
    for group in study.groups() {
        let arms = Arm::of_group(study, group);
        let lines = |of: fn(&Curve) -> &[(u64, f64)]| -> Vec<Line> {
            let of_arm = |arm: &Arm<'_>| (arm.label(), mean_over_seeds(arm, of));
            arms.iter().map(of_arm).filter(|(_, points)| !points.is_empty()).collect()
        };
        let (train, valid) = (lines(|curve| &curve.train_nll), lines(|curve| &curve.valid_nll));
        let title = Names::group_title(group);
        let id = Names::of_group(group);
        let is_single = arms.iter().filter(|arm| arm.control.is_none()).count() == 1;
        if is_single {
            let called = |name: &str, lines: Vec<Line>| {
                lines.into_iter().map(|(_, points)| (name.to_owned(), points)).collect::<Vec<_>>()
            };
            let both = [called("training", train), called("development", valid)].concat();
            let what = format!("{title}: training and development curves");
            charts.extend(
                chart(what, both).map(|chart| Chart { id: names.unique(&format!("curves-{id}")), ..chart }),
            );
        } else {
            for (kind, lines) in [("training", train), ("development", valid)] {
                let what = format!("{title}: {kind} curves");
                charts.extend(
                    chart(what, lines)
                        .map(|chart| Chart { id: names.unique(&format!("{kind}-{id}")), ..chart }),
                );
            }
        }
    }
    charts
}

/// The mean over the seeds that have a value at a step.
fn mean_over_seeds(arm: &Arm<'_>, of: fn(&Curve) -> &[(u64, f64)]) -> Vec<(u64, f64)> {
    let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for (step, value) in arm.systems.iter().flat_map(|system| of(&system.curve)) {
        let sum = sums.entry(*step).or_default();
        *sum = (sum.0 + value, sum.1 + 1.0);
    }
    sums.into_iter().map(|(step, (sum, n))| (step, sum / n)).collect()
}

fn chart(title: String, lines: Vec<Line>) -> Option<Chart> {
    if lines.is_empty() {
        return None;
    }
    let longest = lines.iter().map(|(_, points)| points.len()).max().unwrap_or(0);
    let width = longest.div_ceil(MAX_POINTS).max(1);
    let mut notes = vec!["Negative log-likelihood in nats per target token; training values are measured before each update, with dropout. Means over seeds.".to_owned()];
    if width > 1 {
        notes.push(format!("Each point is the mean of {width} consecutive logged steps."));
    }
    let described = lines.iter().filter_map(|(name, points)| {
        let ((first, from), (last, to)) = (points.first()?, points.last()?);
        let lowest = points.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(format!(
            "{name}: from {from:.3} at step {first} to {to:.3} at step {last}, lowest {:.3} at step {}.",
            lowest.1, lowest.0
        ))
    });
    let description = described.collect::<Vec<_>>().join(" ");
    let series = lines.iter().map(|(name, points)| Series {
        name: name.clone(),
        shape: if points.len() <= 30 { Shape::Line } else { Shape::Curve },
        points: points.chunks(if points.len() > MAX_POINTS { width } else { 1 }).map(middle).collect(),
    });
    Some(Chart {
        id: String::new(),
        title,
        description,
        notes,
        x: Axis::from_zero("optimizer step"),
        y: Axis::linear("nll (nats per token)"),
        series: series.collect(),
        references: Vec::new(),
    })
}

/// The mean of some points.
fn middle(points: &[(u64, f64)]) -> Point {
    let n = points.len() as f64;
    let sum = points.iter().fold((0.0, 0.0), |sum, (step, value)| (sum.0 + *step as f64, sum.1 + value));
    Point::at(sum.0 / n, sum.1 / n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cell, study};

    fn with(objective: &str, seed: u64, curve: Curve) -> crate::study::System {
        crate::study::System { curve, ..cell(objective, None, seed) }
    }

    #[test]
    fn a_single_run_has_both_curves_in_one_chart() {
        let curve = Curve { train_nll: vec![(1, 4.0), (2, 2.0)], valid_nll: vec![(2, 3.0)], best: None };
        let charts = charts(&study(vec![with("mixce:eta=0.1", 1, curve)]), &mut Names::default());
        assert_eq!(charts.len(), 1);
        let names: Vec<&str> = charts[0].series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["training", "development"]);
        assert_eq!(
            charts[0].description,
            "training: from 4.000 at step 1 to 2.000 at step 2, lowest 2.000 at step 2. development: from 3.000 at step 2 to 3.000 at step 2, lowest 3.000 at step 2."
        );
    }

    #[test]
    fn seeds_are_averaged_and_long_curves_thinned() {
        let long = |value: f64| Curve {
            train_nll: (0..900).map(|step| (step, value)).collect(),
            ..Curve::default()
        };
        let short = Curve { train_nll: vec![(5, 8.0)], ..Curve::default() };
        let study = study(vec![
            with("mle", 1, long(1.0)),
            with("mle", 2, long(3.0)),
            with("mixce:eta=0.1", 1, short),
        ]);
        let charts = charts(&study, &mut Names::default());
        assert_eq!(charts.len(), 1);
        let [mle, mixce] = [0, 1].map(|i| &charts[0].series[i].points);
        assert_eq!((mle.len(), mle[0], mixce[0]), (300, Point::at(1.0, 2.0), Point::at(5.0, 8.0)));
        assert!(charts[0].notes[1].contains("mean of 3 consecutive"));
    }
}
