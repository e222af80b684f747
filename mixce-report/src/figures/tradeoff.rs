//! Diversity against MAUVE, with the controls: whether an objective gives more than sharper sampling does.

use super::{bars, estimates};
use crate::arm::{Arm, Estimate};
use crate::chart::{At, Axis, Chart, Point, Reference, Series, Shape};
use crate::findings::final_split;
use crate::metric::Metric;
use crate::names::Names;
use crate::results::Split;
use crate::study::Study;
use crate::tables::split_title;

/// A chart for each group with both metrics: on the development texts, which all objectives have, and on the test texts.
pub(super) fn charts(study: &Study, names: &mut Names) -> Vec<Chart> {
    let mut charts = Vec::new();
    for group in study.groups() {
        let arms = Arm::of_group(study, group);
        let splits = if final_split(&arms) == Split::Test {
            vec![Split::Test, Split::Valid]
        } else {
            vec![Split::Valid]
        };
        for split in splits {
            let human =
                study.human(group, split).and_then(|human| Metric::of("diversity").value(&human.scores));
            let title = format!(
                "{}: diversity against MAUVE, {} texts",
                Names::group_title(group),
                split_title(split)
            );
            let id = format!("diversity-mauve-{}-{}", split.name(), Names::of_group(group));
            charts.extend(
                chart(&arms, split, human, title).map(|chart| Chart { id: names.unique(&id), ..chart }),
            );
        }
    }
    charts
}

fn chart(arms: &[Arm<'_>], split: Split, human: Option<f64>, title: String) -> Option<Chart> {
    let (diversity, mauve) = (Metric::of("diversity"), Metric::of("mauve"));
    let found = estimates(arms, &mauve, split).into_iter();
    let found: Vec<(&Arm<'_>, Estimate, Estimate)> =
        found.filter_map(|(arm, mauve)| Some((arm, arm.estimate(&diversity, split)?, mauve))).collect();
    if found.len() < 2 {
        return None;
    }
    let std = |estimate: &Estimate| estimate.spread().map(|(std, _)| std);
    let series = found.iter().map(|(arm, diversity, mauve)| Series {
        name: arm.label(),
        shape: Shape::Marks,
        points: vec![Point {
            x: diversity.mean(),
            y: mauve.mean(),
            x_spread: std(diversity),
            y_spread: std(mauve),
            y_interval: None,
        }],
    });
    let described = found.iter().map(|(arm, diversity, mauve)| {
        format!("{}: diversity {:.3}, MAUVE {:.3}.", arm.label(), diversity.mean(), mauve.mean())
    });
    let all: Vec<Estimate> = found.iter().flat_map(|(_, a, b)| [a.clone(), b.clone()]).collect();
    Some(Chart {
        id: String::new(),
        title,
        description: described.collect::<Vec<_>>().join(" "),
        notes: bars(&all).into_iter().collect(),
        x: Axis::linear("diversity"),
        y: Axis::linear("MAUVE"),
        series: series.collect(),
        references: human
            .map(|at| Reference { name: "diversity of human texts".to_owned(), at: At::X(at) })
            .into_iter()
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Control;
    use crate::tests::{cell, human, measured, study};

    #[test]
    fn controls_are_on_it_and_the_human_diversity_is_a_line() {
        let with = |objective: &str, control, mauve, diversity| {
            let mut system = cell(objective, control, 1);
            system.valid = Some(measured(mauve, &[Some(diversity)]));
            system
        };
        let mut study = study(vec![
            with("mle", None, 0.5, 0.75),
            with("mle", Some((Control::Temperature, 0.9)), 0.625, 0.5),
            with("mixce:eta=0.1", None, 0.75, 0.5),
        ]);
        study.humans.push(human(&[Some(0.625)]));
        let charts = charts(&study, &mut Names::default());
        assert_eq!(charts.len(), 1);
        let drawn: Vec<_> =
            charts[0].series.iter().map(|s| (s.name.as_str(), s.points[0].x, s.points[0].y)).collect();
        assert_eq!(
            drawn,
            [("MLE", 0.75, 0.5), ("MLE, temperature 0.9", 0.5, 0.625), ("MixCE (eta = 0.1)", 0.5, 0.75)]
        );
        assert_eq!(charts[0].references[0].at, At::X(0.625));
        assert!(charts[0].description.contains("MLE, temperature 0.9: diversity 0.500, MAUVE 0.625."));
    }
}
