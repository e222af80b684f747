//! The figures of a report.

mod against_eta;
mod curves;
mod histogram;
mod judged;
mod lengths;
mod likelihoods;
mod sizes;
mod tradeoff;

use crate::arm::{Arm, Estimate, Over};
use crate::chart::{Chart, Point};
use crate::error::Result;
use crate::metric::Metric;
use crate::names::Names;
use crate::results::Split;
use crate::study::Study;

pub(crate) use lengths::shown;

/// All figures that the results allow, in the order of the page.
pub(crate) fn all(study: &Study, names: &mut Names) -> Result<Vec<Chart>> {
    let mut charts = against_eta::charts(study, names);
    charts.extend(tradeoff::charts(study, names));
    charts.extend(judged::charts(study, names));
    charts.extend(sizes::charts(study, names));
    charts.extend(curves::charts(study, names));
    charts.extend(likelihoods::charts(study, names)?);
    charts.extend(lengths::charts(study, names)?);
    Ok(charts)
}

/// The metric of the sweep's choice, MAUVE by default.
fn metric_of(study: &Study) -> Metric {
    Metric::of(study.metric.as_deref().unwrap_or("mauve"))
}

/// A point at the mean, with the standard deviation as its bar.
fn point(x: f64, estimate: &Estimate) -> Point {
    Point { y_spread: estimate.spread().map(|(std, _)| std), ..Point::at(x, estimate.mean()) }
}

/// The sentence on what bars are.
fn bars(estimates: &[Estimate]) -> Option<String> {
    let mut overs: Vec<Over> = estimates.iter().filter_map(|estimate| Some(estimate.spread()?.1)).collect();
    overs.sort();
    overs.dedup();
    match overs.as_slice() {
        [] => None,
        [Over::Seeds] => Some("Bars: standard deviation over seeds.".to_owned()),
        [Over::Samplings] => {
            Some("Bars: standard deviation over the sampling runs of the only seed.".to_owned())
        }
        _ => {
            Some("Bars: standard deviation over seeds, or over the sampling runs of an only seed.".to_owned())
        }
    }
}

/// Estimates of some arms, of those that have one.
fn estimates<'a>(arms: &'a [Arm<'a>], metric: &Metric, split: Split) -> Vec<(&'a Arm<'a>, Estimate)> {
    arms.iter().filter_map(|arm| Some((arm, arm.estimate(metric, split)?))).collect()
}
