//! Every metric that is not in the tables of results.

use super::{SPLITS, split_title};
use crate::arm::Arm;
use crate::metric::Metric;
use crate::names::Names;
use crate::results::Scores;
use crate::study::Study;
use crate::table::{Cell, Column, Row, Table};

/// Every other metric: a row for each, a column for each system.
pub(crate) fn further(study: &Study, names: &mut Names) -> Vec<Table> {
    let mut tables = Vec::new();
    for group in study.groups() {
        let arms = Arm::of_group(study, group);
        for split in SPLITS {
            let human = study.human(group, split).map(|human| &human.scores);
            let all: Vec<&Scores> = arms
                .iter()
                .flat_map(|arm| arm.measured(split))
                .flat_map(|found| &found.scores)
                .chain(human)
                .collect();
            let metrics = Metric::further(all.into_iter());
            let arms: Vec<&Arm<'_>> =
                arms.iter().filter(|arm| arm.measured(split).next().is_some()).collect();
            if metrics.is_empty() || arms.is_empty() {
                continue;
            }
            let mut columns = vec![Column::text("metric"), Column::number("Human")];
            columns.extend(arms.iter().map(|arm| Column::number(&arm.label())));
            let row = |metric: &Metric| {
                let human = human
                    .and_then(|scores| metric.value(scores))
                    .map(|value| Cell::number(value, None, metric.decimals));
                let of_arm = |arm: &&Arm<'_>| {
                    let found = arm.estimate(metric, split);
                    found.map_or_else(Cell::empty, |found| {
                        Cell::number(found.mean(), found.spread().map(|(std, _)| std), metric.decimals)
                    })
                };
                let cells = std::iter::once(human.unwrap_or_else(Cell::empty))
                    .chain(arms.iter().map(of_arm))
                    .collect();
                Row { name: metric.title.clone(), cells }
            };
            tables.push(Table {
                id: names.unique(&format!("further-{}-{}", split.name(), Names::of_group(group))),
                caption: format!(
                    "{}: further metrics on the {} texts",
                    Names::group_title(group),
                    split_title(split)
                ),
                columns,
                rows: metrics.iter().map(row).collect(),
                notes: vec!["Means \u{b1} standard deviation, as in the table of results.".to_owned()],
            });
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::super::tests::small;
    use super::*;

    #[test]
    fn further_metrics_are_rows() {
        let mut study = small();
        study.systems[0].valid.as_mut().unwrap().scores[0] =
            crate::tests::scores(serde_json::json!({"diversity": 0.5, "zipf": 1.25}));
        let tables = further(&study, &mut Names::default());
        assert_eq!(tables.len(), 1);
        let row = &tables[0].rows[0];
        assert_eq!(
            (row.name.as_str(), row.cells[1].shown().as_str(), row.cells[2].shown().as_str()),
            ("zipf", "1.250", "")
        );
    }
}
