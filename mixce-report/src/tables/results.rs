//! The results of each corpus and split, in the paper's layout.

use std::collections::BTreeSet;

use mixce_eval::metric::Best;

use super::corpora::{OfCorpus, side_by_side};
use super::{SPLITS, group_columns, split_title};
use crate::arm::{Arm, Over};
use crate::compare::{Resampling, Scene, Verdict, badness};
use crate::metric::Metric;
use crate::names::{Names, percent};
use crate::results::{Group, Split};
use crate::study::Study;
use crate::table::{Cell, Column, Mark, Row, TIED, Table};

/// The row of the human texts.
pub(super) const HUMAN: &str = "Human";

/// The paper's table for each split and corpus, before them one of all corpora: perplexity, diversity, MAUVE and coherence beside the human texts.
pub(crate) fn results(study: &Study, resampling: &Resampling, names: &mut Names) -> Vec<Table> {
    let groups = study.groups();
    let mut corpora: Vec<&str> = groups.iter().map(|group| group.corpus.as_str()).collect();
    corpora.dedup();
    let mut tables = Vec::new();
    for split in SPLITS {
        let of = |corpus: &&str| -> Option<OfCorpus> {
            let groups: Vec<&Group> =
                groups.iter().copied().filter(|group| group.corpus == *corpus).collect();
            of_corpus(study, &groups, split, resampling)
        };
        let mut found: Vec<OfCorpus> = corpora.iter().filter_map(of).collect();
        tables.extend(side_by_side(&found, split, names));
        for OfCorpus { corpus, table, .. } in &mut found {
            table.id = names.unique(&format!("results-{}-{corpus}", split.name()));
        }
        tables.extend(found.into_iter().map(|of| of.table));
    }
    tables
}

fn of_corpus(study: &Study, groups: &[&Group], split: Split, resampling: &Resampling) -> Option<OfCorpus> {
    let arms: Vec<(&Group, Vec<Arm<'_>>)> =
        groups.iter().map(|group| (*group, Arm::of_group(study, group))).collect();
    let has_value = |metric: &Metric| {
        arms.iter().any(|(_, arms)| arms.iter().any(|arm| arm.estimate(metric, split).is_some()))
    };
    let metrics: Vec<Metric> = Metric::headline().into_iter().filter(has_value).collect();
    if metrics.is_empty() {
        return None;
    }
    let of_group = group_columns(groups);
    let mut columns = vec![Column::text("system")];
    columns.extend(of_group.iter().map(|(name, _)| Column::text(name)));
    columns.extend(metrics.iter().map(|metric| Column::number(&metric.title)));
    columns.push(Column::number("seeds"));
    let mut rows = Vec::new();
    let mut overs = BTreeSet::new();
    let mut given = Vec::new();
    for (group, arms) in &arms {
        let scene = Scene { study, group, split, resampling };
        let group_cells: Vec<Cell> = of_group.iter().map(|(_, value)| Cell::text(value(group))).collect();
        let human = metrics.iter().map(|metric| {
            scene.human(metric).map_or_else(Cell::empty, |v| Cell::number(v, None, metric.decimals))
        });
        let human: Vec<Cell> = group_cells.iter().cloned().chain(human).chain([Cell::empty()]).collect();
        if study.human(group, split).is_some() {
            rows.push(Row { name: HUMAN.to_owned(), cells: human });
        }
        let arms: Vec<&Arm<'_>> = arms.iter().filter(|arm| arm.measured(split).next().is_some()).collect();
        let marks: Vec<Vec<Option<Mark>>> =
            metrics.iter().map(|metric| marks(&scene, &arms, metric)).collect();
        for (index, arm) in arms.iter().enumerate() {
            let mut cells = group_cells.clone();
            for (metric, marks) in metrics.iter().zip(&marks) {
                let Some(estimate) = arm.estimate(metric, split) else {
                    cells.push(Cell::empty());
                    continue;
                };
                let spread = estimate.spread();
                overs.extend(spread.map(|(_, over)| over));
                given.extend(marks[index]);
                let cell = Cell::number(estimate.mean(), spread.map(|(std, _)| std), metric.decimals);
                cells.push(Cell { mark: marks[index], ..cell });
            }
            cells.push(Cell::number(arm.measured(split).count() as f64, None, 0));
            rows.push(Row { name: arm.label(), cells });
        }
    }
    let corpus = groups.first()?.corpus.clone();
    let table = Table {
        id: String::new(),
        caption: format!("{corpus}: results on the {} texts", split_title(split)),
        columns,
        rows,
        notes: notes(&metrics, &overs, &given, resampling.level),
    };
    Some(OfCorpus { corpus, table, keys: 1 + of_group.len() })
}

fn notes(metrics: &[Metric], overs: &BTreeSet<Over>, given: &[Mark], level: f64) -> Vec<String> {
    let over = |over: &Over| match over {
        Over::Seeds => "training runs with different seeds",
        Over::Samplings => "sampling runs of the only seed",
    };
    let mut notes = Vec::new();
    let overs: Vec<&str> = overs.iter().map(over).collect();
    if !overs.is_empty() {
        notes.push(format!("Means \u{b1} standard deviation over {}.", overs.join(", or over ")));
    }
    let of = |best: Best| {
        metrics.iter().filter(|metric| metric.best == best).map(|m| m.title.as_str()).collect::<Vec<_>>()
    };
    let goals = [
        ("closest to human", of(Best::AsHuman)),
        ("highest", of(Best::Highest)),
        ("lowest", of(Best::Lowest)),
    ];
    let goals = goals.into_iter().filter(|(_, of)| !of.is_empty());
    let goals: Vec<String> = goals.map(|(goal, of)| format!("{goal} {}", of.join(" and "))).collect();
    if given.contains(&Mark::Best) {
        notes.push(format!("Bold: {}.", goals.join(", ")));
    }
    if given.contains(&Mark::Tied) {
        let level = percent(level);
        notes.push(format!("{TIED} not told from the best by its {level} interval, over prompts where they were scored one by one, else over seeds."));
    }
    notes
}

/// The best arm of a metric, and those that cannot be told from it.
fn marks(scene: &Scene<'_>, arms: &[&Arm<'_>], metric: &Metric) -> Vec<Option<Mark>> {
    let human = scene.human(metric);
    let badness_of = |arm: &&Arm<'_>| {
        arm.estimate(metric, scene.split).map(|found| badness(metric.best, found.mean(), human))
    };
    let found: Vec<Option<f64>> = arms.iter().map(badness_of).collect();
    let present = found.iter().copied().flatten();
    let Some(least) =
        present.clone().min_by(f64::total_cmp).filter(|least| least.is_finite() && present.count() > 1)
    else {
        return vec![None; arms.len()];
    };
    let Some(best) = found.iter().position(|value| *value == Some(least)) else {
        return vec![None; arms.len()];
    };
    let mark = |(index, value): (usize, &Option<f64>)| match value {
        None => None,
        Some(value) if *value == least => Some(Mark::Best),
        Some(_) => {
            let evidence = scene.evidence(arms[best], arms[index], metric);
            let verdict =
                evidence.verdict(metric.best, evidence.p_value().unwrap_or(0.0), scene.resampling.level);
            (verdict == Verdict::Tie).then_some(Mark::Tied)
        }
    };
    found.iter().enumerate().map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{RESAMPLING, small};
    use super::*;

    #[test]
    fn the_paper_s_table_has_a_human_row_and_marks_the_best_and_its_ties() {
        let found = results(&small(), &RESAMPLING, &mut Names::default());
        assert_eq!(found.len(), 1);
        let table = &found[0];
        assert_eq!(
            (table.id.as_str(), table.caption.as_str()),
            ("results-valid-wiki", "wiki: results on the development texts")
        );
        assert_eq!(
            table.markdown(),
            "**wiki: results on the development texts**\n\n\
             | system | perplexity | diversity | MAUVE | seeds |\n\
             | --- | ---: | ---: | ---: | ---: |\n\
             | Human |  | 0.688 |  |  |\n\
             | MLE | **20.00 \u{b1} 0.00** | **0.750 \u{b1} 0.000** | *0.625 \u{b1} 0.177* | 2 |\n\
             | MLE, top-p 0.9 | **20.00** | 0.500 | 0.750 | 1 |\n\
             | MixCE (eta = 0.1) | **20.00 \u{b1} 0.00** | **0.625 \u{b1} 0.000** | **0.875 \u{b1} 0.177** | 2 |\n\
             \nMeans \u{b1} standard deviation over training runs with different seeds.\n\
             \nBold: closest to human diversity, highest MAUVE, lowest perplexity.\n\
             \nIn italics: not told from the best by its 95 % interval, over prompts where they were scored one by one, else over seeds.\n"
        );
        let latex = table.latex();
        assert!(latex.contains(" Underlined: not told from the best by its 95 \\% interval"), "{latex}");
    }
}
