//! Figure 4 of the paper: the metric of the choice, and those beside it, against eta.

use super::{bars, metric_of, point};
use crate::arm::{Arm, Estimate};
use crate::chart::{At, Axis, Chart, Reference, Series, Shape};
use crate::metric::Metric;
use crate::names::Names;
use crate::results::{Group, Split};
use crate::study::Study;

/// For each corpus and metric a chart with a line for each model, training size and maximum length.
pub(super) fn charts(study: &Study, names: &mut Names) -> Vec<Chart> {
    let chosen_by = metric_of(study);
    let mut metrics = vec![chosen_by.clone()];
    metrics.extend(Metric::headline().into_iter().filter(|metric| *metric != chosen_by));
    let groups = study.groups();
    let mut corpora: Vec<&str> = groups.iter().map(|group| group.corpus.as_str()).collect();
    corpora.dedup();
    let mut charts = Vec::new();
    for corpus in corpora {
        let groups: Vec<&Group> = groups.iter().copied().filter(|group| group.corpus == corpus).collect();
        charts.extend(metrics.iter().filter_map(|metric| chart(study, corpus, &groups, metric, names)));
    }
    charts
}

/// Eta and the estimate of each arm that has one, ascending. MLE is MixCE with eta 1, unless that was trained too.
fn by_eta(arms: &[Arm<'_>], metric: &Metric) -> Vec<(f64, Estimate)> {
    let of = |arm: &Arm<'_>| Some((arm.eta()?, arm.estimate(metric, Split::Valid)?));
    let mut found: Vec<(f64, Estimate)> = arms.iter().filter(|arm| !arm.is_mle()).filter_map(of).collect();
    if !found.iter().any(|(eta, _)| *eta == 1.0) {
        found.extend(arms.iter().filter(|arm| arm.is_mle()).filter_map(of));
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found
}

fn chart(
    study: &Study,
    corpus: &str,
    groups: &[&Group],
    metric: &Metric,
    names: &mut Names,
) -> Option<Chart> {
    let lines: Vec<(&Group, Vec<(f64, Estimate)>)> =
        groups.iter().map(|group| (*group, by_eta(&Arm::of_group(study, group), metric))).collect();
    let lines: Vec<_> = lines.into_iter().filter(|(_, line)| line.len() > 1).collect();
    let mut etas: Vec<f64> = lines.iter().flat_map(|(_, line)| line).map(|(eta, _)| *eta).collect();
    etas.sort_by(f64::total_cmp);
    etas.dedup();
    if etas.len() < 2 {
        return None;
    }
    let place = |eta: f64| etas.iter().position(|other| *other == eta).unwrap_or(0) as f64;
    let series = lines.iter().map(|(group, line)| Series {
        name: name_of(group),
        shape: Shape::Line,
        points: line.iter().map(|(eta, estimate)| point(place(*eta), estimate)).collect(),
    });
    let human = groups.iter().find_map(|group| metric.value(&study.human(group, Split::Valid)?.scores));
    let references = human.map(|human| Reference { name: "human texts".to_owned(), at: At::Y(human) });
    let all: Vec<Estimate> =
        lines.iter().flat_map(|(_, line)| line).map(|(_, estimate)| estimate.clone()).collect();
    let mut notes = vec!["eta = 1 is maximum likelihood. The places are evenly spaced.".to_owned()];
    notes.extend(bars(&all));
    let described = lines.iter().map(|(group, line)| describe(group, line, metric));
    Some(Chart {
        id: names.unique(&format!("eta-{}-{corpus}", metric.key)),
        title: format!("{corpus}: {} against eta, development texts", metric.title),
        description: described.collect::<Vec<_>>().join(" "),
        notes,
        x: Axis::places("eta", etas.iter().map(f64::to_string).collect()),
        y: Axis::linear(&metric.title),
        series: series.collect(),
        references: references.into_iter().collect(),
    })
}

fn name_of(group: &Group) -> String {
    let size = group.train_size.map_or_else(String::new, |n| format!(", {n} documents"));
    format!("{}{size}, {} tokens", group.model, group.max_length)
}

fn describe(group: &Group, line: &[(f64, Estimate)], metric: &Metric) -> String {
    let decimals = metric.decimals;
    let values: Vec<String> =
        line.iter().map(|(eta, found)| format!("{:.decimals$} at eta {eta}", found.mean())).collect();
    format!("{}: {}.", name_of(group), values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{cell, human, measured, study};

    fn with(objective: &str, seed: u64, mauve: f64) -> crate::study::System {
        let mut system = cell(objective, None, seed);
        system.valid = Some(measured(mauve, &[Some(0.5)]));
        system
    }

    #[test]
    fn each_metric_has_its_line_with_mle_at_one() {
        let mut study = study(vec![
            with("mle", 1, 0.5),
            with("mixce:eta=0.1", 1, 0.75),
            with("mixce:eta=0.1", 2, 1.0),
            with("mixce:eta=0.01", 1, 0.25),
            with("dft", 1, 0.9),
        ]);
        study.humans.push(human(&[Some(0.75)]));
        let charts = charts(&study, &mut Names::default());
        let ids: Vec<&str> = charts.iter().map(|chart| chart.id.as_str()).collect();
        assert_eq!(ids, ["eta-mauve-wiki", "eta-perplexity-wiki", "eta-diversity-wiki"]);
        let chart = &charts[0];
        assert_eq!(chart.x.places, ["0.01", "0.1", "1"]);
        let points: Vec<_> = chart.series[0].points.iter().map(|p| (p.x, p.y, p.y_spread)).collect();
        assert_eq!(points, [(0.0, 0.25, None), (1.0, 0.875, Some(0.03125f64.sqrt())), (2.0, 0.5, None)]);
        assert_eq!(
            chart.description,
            "gpt2, 1000 documents, 128 tokens: 0.250 at eta 0.01, 0.875 at eta 0.1, 0.500 at eta 1."
        );
        assert!(chart.references.is_empty());
        assert_eq!(charts[2].references[0].at, At::Y(0.75));
        // Trained with eta 1 itself: MLE is another objective's name for it and not drawn twice.
        study.systems.push(with("mixce:eta=1", 1, 0.625));
        let with_one = super::charts(&study, &mut Names::default());
        assert_eq!(with_one[0].series[0].points[2].y, 0.625);
    }

    #[test]
    fn one_eta_is_no_line() {
        let study = study(vec![with("mle", 1, 0.5), with("dft", 1, 0.5)]);
        assert!(charts(&study, &mut Names::default()).is_empty());
    }
}
