//! Every comparison with its evidence.

use mixce_eval::metric::Best;

use super::{group_columns, split_title};
use crate::compare::{Comparison, Evidence, Resampling, Verdict};
use crate::names::{Names, percent};
use crate::study::Study;
use crate::table::{Cell, Column, Row, Table};

/// Every comparison with its evidence.
pub(crate) fn comparisons(
    study: &Study,
    all: &[Comparison],
    resampling: &Resampling,
    names: &mut Names,
) -> Option<Table> {
    if all.is_empty() {
        return None;
    }
    let of_group = group_columns(&study.groups());
    let interval = format!("{} interval", percent(resampling.level));
    let mut columns = vec![Column::text("comparison")];
    columns.extend(of_group.iter().map(|(name, _)| Column::text(name)));
    columns.extend(["texts", "metric"].map(Column::text));
    columns.extend(["difference", &interval, "p", "p adjusted"].map(Column::number));
    columns.extend(["tested over", "result"].map(Column::text));
    let rows = all.iter().map(|comparison| {
        let mut cells: Vec<Cell> =
            of_group.iter().map(|(_, value)| Cell::text(value(&comparison.group))).collect();
        cells.extend([split_title(comparison.split), tested_metric(comparison)].map(Cell::text));
        cells.extend(numbers(comparison));
        Row { name: format!("{} \u{2212} {}", comparison.first, comparison.second), cells }
    });
    Some(Table {
        id: names.unique("comparisons"),
        caption: "Differences and their uncertainty".to_owned(),
        columns,
        rows: rows.collect(),
        notes: vec![
            format!("Over prompts: paired bootstrap interval and sign-flip test with {} resamples of the same prompts, given these trained models. Over seeds: Welch's t interval and test, which take the seeds' values as normal.", resampling.resamples),
            "MAUVE compares two sets of texts and is no mean over prompts, so no test over prompts applies to it: its uncertainty is its spread over seeds and sampling runs.".to_owned(),
            "p adjusted: Holm's correction for all tests of the same group and texts. A result other than a tie needs an interval without 0 and an adjusted p below one minus the level; where the goal is the human value, the interval of the difference of the distances to it.".to_owned(),
        ],
    })
}

fn tested_metric(comparison: &Comparison) -> &str {
    match (&comparison.evidence, comparison.metric.key.as_str()) {
        (Evidence::Prompts { .. }, "perplexity") => "nll of a document (nats)",
        _ => &comparison.metric.title,
    }
}

/// Difference, interval, p, adjusted p, what it was tested over, and the result.
fn numbers(comparison: &Comparison) -> Vec<Cell> {
    let decimals = comparison.metric.decimals.max(3) + 1;
    let of_means = comparison.means[0] - comparison.means[1];
    let p = |value: Option<f64>| value.map_or_else(Cell::empty, |value| Cell::number(value, None, 4));
    let (difference, interval) = match comparison.evidence.interval() {
        Some((difference, interval)) => {
            (difference, Cell::interval(None, [interval.low, interval.high], decimals))
        }
        None => (of_means, Cell::empty()),
    };
    let over = match &comparison.evidence {
        Evidence::Prompts { test, .. } => format!("{} prompts", test.pairs),
        Evidence::Seeds { seeds: [a, b], .. } if comparison.metric.best == Best::AsHuman => {
            format!("{a} and {b} seeds: distances to human")
        }
        Evidence::Seeds { seeds: [a, b], .. } => format!("{a} and {b} seeds"),
        Evidence::None { seeds: [a, b] } => format!("not tested ({a} and {b} seeds)"),
    };
    let better = match comparison.metric.best {
        Best::AsHuman => "closer to human",
        Best::Highest => "higher",
        Best::Lowest => "lower",
    };
    let result = match comparison.verdict {
        Verdict::First => format!("{} is {better}", comparison.first),
        Verdict::Second => format!("{} is {better}", comparison.second),
        Verdict::Tie => "tie".to_owned(),
        Verdict::Untested => "unknown".to_owned(),
    };
    vec![
        Cell::number(difference, None, decimals),
        interval,
        p(comparison.evidence.p_value()),
        p(comparison.adjusted_p),
        Cell::text(over),
        Cell::text(result),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{RESAMPLING, small};
    use super::*;
    use crate::arm::Arm;
    use crate::compare::Scene;
    use crate::results::Split;

    #[test]
    fn comparisons_say_what_they_rest_on() {
        let study = small();
        let group = study.groups()[0].clone();
        let arms = Arm::of_group(&study, &group);
        let all = Scene { study: &study, group: &group, split: Split::Valid, resampling: &RESAMPLING }
            .compare(&arms);
        let table = comparisons(&study, &all, &RESAMPLING, &mut Names::default()).unwrap();
        let row = &table.rows[1];
        assert_eq!(row.name, "MixCE (eta = 0.1) \u{2212} MLE");
        let texts: Vec<String> = row.cells.iter().map(Cell::shown).collect();
        assert_eq!(
            texts[..4],
            ["development", "diversity", "\u{2212}0.1250", "[\u{2212}0.1250, \u{2212}0.1250]"]
        );
        assert_eq!(texts[6..], ["16 prompts", "tie"]);
        assert_eq!(table.rows[2].cells[6].shown(), "2 and 2 seeds");
        assert_eq!(table.rows[4].cells[6].shown(), "not tested (2 and 1 seeds)");
        assert!(table.rows.iter().all(|row| row.cells.len() + 1 == table.columns.len()));
    }
}
