//! Preferences of judges: the paper's figure 5.

use mixce_judge::{Estimate, PairReport};

use crate::chart::{Axis, Chart, Point, Series, Shape};
use crate::judged::JudgedStudy;
use crate::names::{Names, percent};
use crate::study::Study;

/// A chart for each study: shares of answers for the first system, for neither, for the second, of each pair.
pub(super) fn charts(study: &Study, names: &mut Names) -> Vec<Chart> {
    study.judged.iter().filter_map(|judged| chart(judged, names)).collect()
}

fn chart(judged: &JudgedStudy, names: &mut Names) -> Option<Chart> {
    let pairs = &judged.report.all.pairs;
    let share = |estimate: &Estimate| estimate.share.map(|share| 100.0 * share);
    let bars = |name: &str, of: fn(&PairReport) -> Estimate| {
        let point = |(place, pair): (usize, &PairReport)| {
            let estimate = of(pair);
            let interval = estimate.interval.map(|interval| [100.0 * interval.low, 100.0 * interval.high]);
            Some(Point { y_interval: interval, ..Point::at(place as f64, share(&estimate)?) })
        };
        let points = pairs.iter().enumerate().filter_map(point).collect();
        Series { name: name.to_owned(), shape: Shape::Bars, points }
    };
    let series = vec![
        bars("the first is better", |pair| pair.wins),
        bars("no difference", |pair| pair.ties),
        bars("the second is better", |pair| pair.losses),
    ];
    if series.iter().all(|series| series.points.is_empty()) {
        return None;
    }
    let described = pairs.iter().filter_map(|pair| {
        Some(format!(
            "{} against {}: {:.0} % for the first, {:.0} % no difference, {:.0} % for the second.",
            pair.first,
            pair.second,
            share(&pair.wins)?,
            share(&pair.ties)?,
            share(&pair.losses)?
        ))
    });
    let level = percent(judged.report.settings.level);
    let name = |pair: &PairReport| format!("{} / {}", pair.first, pair.second);
    Some(Chart {
        id: names.unique(&format!("preferences-{}", judged.name())),
        title: format!("{}: which continuation is better", judged.name()),
        description: described.collect::<Vec<_>>().join(" "),
        notes: vec![format!("All judges. Lines on the bars: {level} bootstrap intervals over items.")],
        x: Axis::places("first system / second system", pairs.iter().map(name).collect()),
        y: Axis::from_zero("share of answers (%)"),
        series,
        references: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_has_three_bars_with_intervals() {
        let mut study = Study { judged: vec![crate::judged::tests::judged()], ..Study::default() };
        let found = charts(&study, &mut Names::default());
        assert_eq!((found.len(), found[0].id.as_str()), (1, "preferences-first"));
        assert!(found[0].description.contains("mixce against mle: 60 % for the first, 15 % no difference"));
        let svg = found[0].svg();
        assert_eq!(
            (svg.matches("class=\"fill\"").count(), svg.matches("class=\"bar\"").count()),
            (6, 3),
            "{svg}"
        );
        assert_eq!(found[0].numbers().rows[0].cells[0].shown(), "60 [50, 70]");
        for pair in &mut study.judged[0].report.all.pairs {
            let none = Estimate { share: None, interval: None };
            (pair.wins, pair.ties, pair.losses) = (none, none, none);
        }
        assert!(charts(&study, &mut Names::default()).is_empty());
    }
}
