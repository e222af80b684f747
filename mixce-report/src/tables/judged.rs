//! Human evaluations: each pair of systems, agreement, judges.

use mixce_judge::{Estimate, PairReport};

use crate::judged::JudgedStudy;
use crate::names::{Names, percent};
use crate::study::Study;
use crate::table::{Cell, Column, Row, Table};

/// The tables of each study: wins, ties and losses; agreement; the judges.
pub(crate) fn judged(study: &Study, names: &mut Names) -> Vec<Table> {
    study
        .judged
        .iter()
        .flat_map(|judged| [pairs(judged, names), agreement(judged, names), judges(judged, names)])
        .collect()
}

fn pairs(judged: &JudgedStudy, names: &mut Names) -> Table {
    let mut columns = vec![Column::text("pair"), Column::text("judges")];
    let numbers = [
        "items",
        "answers",
        "wins",
        "ties",
        "losses",
        "wins \u{2212} losses",
        "items won",
        "items tied",
        "items lost",
        "p",
    ];
    columns.extend(numbers.map(Column::number));
    let mut rows = Vec::new();
    for (which, results) in judged.results() {
        rows.extend(results.pairs.iter().map(|pair| pair_row(which, pair)));
    }
    let level = percent(judged.report.settings.level);
    Table {
        id: names.unique(&format!("judged-{}", judged.name())),
        caption: format!("{}: preferences of the judges", judged.name()),
        columns,
        rows,
        notes: vec![
            format!("Shares of answers for the first system, for neither and for the second, with {level} bootstrap intervals over items, because the answers for one item are not independent."),
            "Items won: more judges prefer the first system. p: exact two-sided sign test of items won against items lost.".to_owned(),
        ],
    }
}

fn pair_row(which: &str, pair: &PairReport) -> Row {
    let count = |count: usize| Cell::number(count as f64, None, 0);
    let mut cells = vec![Cell::text(which), count(pair.items), count(pair.answers)];
    cells.extend([pair.wins, pair.ties, pair.losses, pair.net].map(share));
    cells.extend([pair.items_won, pair.items_tied, pair.items_lost].map(count));
    cells.push(Cell::number(pair.p_value, None, 4));
    Row { name: format!("{} against {}", pair.first, pair.second), cells }
}

fn share(estimate: Estimate) -> Cell {
    match (estimate.share, estimate.interval) {
        (None, _) => Cell::empty(),
        (Some(share), None) => Cell::number(share, None, 3),
        (Some(share), Some(interval)) => Cell::interval(Some(share), [interval.low, interval.high], 3),
    }
}

fn agreement(judged: &JudgedStudy, names: &mut Names) -> Table {
    let optional = |value: Option<f64>| value.map_or_else(Cell::empty, |value| Cell::number(value, None, 3));
    let row = |(which, results): (&str, &mixce_judge::Results)| {
        let count = |count: usize| Cell::number(count as f64, None, 0);
        let found = results.agreement;
        let mut cells = vec![count(results.judges), count(results.answers), count(found.items)];
        cells.extend([found.raw, found.alpha_nominal, found.alpha_ordinal].map(optional));
        Row { name: which.to_owned(), cells }
    };
    let mut columns = vec![Column::text("judges")];
    columns.extend(
        [
            "number",
            "answers",
            "items with two answers or more",
            "equal answers",
            "alpha (nominal)",
            "alpha (ordinal)",
        ]
        .map(Column::number),
    );
    Table {
        id: names.unique(&format!("agreement-{}", judged.name())),
        caption: format!("{}: agreement of the judges", judged.name()),
        columns,
        rows: judged.results().map(row).collect(),
        notes: vec!["Equal answers: share of all pairs of answers for one item. Alpha: Krippendorff's, 1 for perfect agreement, 0 for that of chance.".to_owned()],
    }
}

fn judges(judged: &JudgedStudy, names: &mut Names) -> Table {
    let row = |judge: &mixce_judge::JudgeReport| {
        let cells = vec![
            Cell::text(format!("{} of {}", judge.answered, judge.planned)),
            Cell::text(format!("{} of {}", judge.failed_checks, judge.checks)),
            judge.median_seconds.map_or_else(Cell::empty, |seconds| Cell::number(seconds, None, 1)),
            Cell::text(if judge.dropped { "left out of the attentive" } else { "" }),
        ];
        Row { name: judge.name.clone(), cells }
    };
    let most = percent(judged.report.settings.max_failed_checks);
    Table {
        id: names.unique(&format!("judges-{}", judged.name())),
        caption: format!("{}: the judges", judged.name()),
        columns: vec![
            Column::text("judge"),
            Column::number("answered"),
            Column::number("failed checks"),
            Column::number("median seconds"),
            Column::text("remark"),
        ],
        rows: judged.report.judges.iter().map(row).collect(),
        notes: vec![format!("Attentive: at most {most} of the attention checks failed.")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_of_judges_has_its_row() {
        let study = Study { judged: vec![crate::judged::tests::judged()], ..Study::default() };
        let tables = judged(&study, &mut Names::default());
        let ids: Vec<&str> = tables.iter().map(|table| table.id.as_str()).collect();
        assert_eq!(ids, ["judged-first", "agreement-first", "judges-first"]);
        assert!(
            tables
                .iter()
                .all(|table| table.rows.iter().all(|row| row.cells.len() + 1 == table.columns.len()))
        );
        let shown: Vec<String> = tables[0].rows[0].cells.iter().map(Cell::shown).collect();
        assert_eq!(
            shown,
            [
                "all",
                "40",
                "120",
                "0.600 [0.500, 0.700]",
                "0.150 [0.050, 0.250]",
                "0.250 [0.150, 0.350]",
                "0.350 [0.250, 0.450]",
                "25",
                "5",
                "10",
                "0.0167"
            ]
        );
        assert_eq!((tables[0].rows[1].cells[0].shown(), tables[1].rows.len()), ("attentive".to_owned(), 2));
        assert_eq!(tables[2].rows[2].cells[1].shown(), "4 of 4");
        assert!(tables[2].latex().contains("judge $<$3$>$"));
    }
}
