//! Metrics against the number of training documents.

use super::{bars, metric_of, point};
use crate::arm::{Arm, Estimate};
use crate::chart::{Axis, Chart, Series, Shape};
use crate::compare::{Resampling, Scene};
use crate::metric::Metric;
use crate::names::Names;
use crate::results::{Group, Split};
use crate::study::Study;

/// For each corpus, model and maximum length with several training sizes, a chart for each metric with the lines of MLE and of the objective
/// in focus.
pub(super) fn charts(study: &Study, names: &mut Names) -> Vec<Chart> {
    let groups = study.groups();
    let mut charts = Vec::new();
    let mut kinds: Vec<(&str, &str, u64)> =
        groups.iter().map(|g| (g.corpus.as_str(), g.model.as_str(), g.max_length)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let same = |group: &&&Group| (group.corpus.as_str(), group.model.as_str(), group.max_length) == kind;
        let mut sizes: Vec<&Group> = groups.iter().filter(same).copied().collect();
        // All documents are more than any number of them.
        sizes.sort_by_key(|group| group.train_size.unwrap_or(u64::MAX));
        if sizes.len() < 2 {
            continue;
        }
        let chosen_by = metric_of(study);
        let mut metrics = vec![chosen_by.clone()];
        metrics.extend([Metric::perplexity()].into_iter().filter(|metric| *metric != chosen_by));
        charts.extend(metrics.iter().filter_map(|metric| chart(study, &sizes, metric, names)));
    }
    charts
}

fn chart(study: &Study, sizes: &[&Group], metric: &Metric, names: &mut Names) -> Option<Chart> {
    let split = Split::Valid;
    let mut lines: Vec<(&str, Vec<(usize, Estimate)>)> =
        vec![("MLE", vec![]), ("best other objective", vec![])];
    // Only the choice of arms is needed, no test.
    let resampling = Resampling { resamples: 0, level: 0.95, seed: 0 };
    for (place, group) in sizes.iter().enumerate() {
        let arms = Arm::of_group(study, group);
        let mle = arms.iter().find(|arm| arm.is_mle());
        let focus = Scene { study, group, split, resampling: &resampling }.focus(&arms);
        let best = if focus.len() == 1 { focus.first().copied() } else { None };
        for (line, arm) in lines.iter_mut().zip([mle, best]) {
            line.1.extend(arm.and_then(|arm| Some((place, arm.estimate(metric, split)?))));
        }
    }
    lines.retain(|(_, line)| line.len() > 1);
    if lines.is_empty() {
        return None;
    }
    let places: Vec<String> =
        sizes.iter().map(|g| g.train_size.map_or_else(|| "all".to_owned(), |n| n.to_string())).collect();
    let series = lines.iter().map(|(name, line)| Series {
        name: (*name).to_owned(),
        shape: Shape::Line,
        points: line.iter().map(|(place, found)| point(*place as f64, found)).collect(),
    });
    let described = lines.iter().map(|(name, line)| {
        let values: Vec<String> = line
            .iter()
            .map(|(at, found)| format!("{:.*} with {}", metric.decimals, found.mean(), places[*at]))
            .collect();
        format!("{name}: {}.", values.join(", "))
    });
    let all: Vec<Estimate> =
        lines.iter().flat_map(|(_, line)| line).map(|(_, found)| found.clone()).collect();
    let first = sizes.first()?;
    Some(Chart {
        id: names
            .unique(&format!("size-{}-{}-{}-l{}", metric.key, first.corpus, first.model, first.max_length)),
        title: format!(
            "{}, {}, up to {} tokens: {} against training size, development texts",
            first.corpus, first.model, first.max_length, metric.title
        ),
        description: described.collect::<Vec<_>>().join(" "),
        notes: bars(&all).into_iter().collect(),
        x: Axis::places("training documents", places),
        y: Axis::linear(&metric.title),
        series: series.collect(),
        references: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cell, chosen, measured, study};

    #[test]
    fn sizes_are_in_order_and_all_is_the_largest() {
        let with = |objective: &str, train_size, mauve| {
            let mut system = cell(objective, None, 1);
            system.group.train_size = train_size;
            system.valid = Some(measured(mauve, &[Some(0.5)]));
            system
        };
        let mut study = study(vec![
            with("mle", None, 0.75),
            with("mle", Some(1000), 0.25),
            with("mle", Some(500), 0.125),
            with("mixce:eta=0.1", Some(500), 0.5),
            with("mixce:eta=0.1", Some(1000), 0.625),
        ]);
        for train_size in [500, 1000] {
            let mut found = chosen("mixce:eta=0.1");
            found.group.train_size = Some(train_size);
            study.chosen.push(found);
        }
        let charts = charts(&study, &mut Names::default());
        assert_eq!(charts.len(), 2);
        assert_eq!(charts[0].x.places, ["500", "1000", "all"]);
        let lines: Vec<Vec<(f64, f64)>> =
            charts[0].series.iter().map(|s| s.points.iter().map(|p| (p.x, p.y)).collect()).collect();
        assert_eq!(lines, [vec![(0.0, 0.125), (1.0, 0.25), (2.0, 0.75)], vec![(0.0, 0.5), (1.0, 0.625)]]);
        assert!(charts[1].title.contains("perplexity"));
    }
}
