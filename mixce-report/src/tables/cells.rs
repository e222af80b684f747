//! Every system and sampling run.

use super::{SPLITS, split_title};
use crate::arm::label_of;
use crate::metric::Metric;
use crate::names::Names;
use crate::results::{Group, Status};
use crate::study::{Study, System};
use crate::table::{Cell, Column, Row, Table};

/// Every cell with every number of the tables, one row for each sampling run.
pub(crate) fn cells(study: &Study, names: &mut Names) -> Table {
    let metrics = Metric::headline();
    let words = [
        "system",
        "corpus",
        "model",
        "training documents",
        "longest text",
        "objective",
        "seed",
        "decoding",
        "state",
        "texts",
        "sampling run",
    ];
    let mut columns: Vec<Column> = words.iter().map(|name| Column::text(name)).collect();
    columns.extend(metrics.iter().map(|metric| Column::number(&metric.title)));
    let mut rows = Vec::new();
    for system in &study.systems {
        let before = rows.len();
        for split in SPLITS {
            let Some(measured) = system.measured(split) else { continue };
            for run in 0..measured.scores.len().max(1) {
                let value = |metric: &Metric| match metric.key.as_str() {
                    "perplexity" => measured.perplexity,
                    _ => measured.scores.get(run).and_then(|scores| metric.value(scores)),
                };
                let run = if measured.scores.is_empty() { String::new() } else { run.to_string() };
                let numbers = metrics.iter().map(|metric| {
                    value(metric).map_or_else(Cell::empty, |v| Cell::number(v, None, metric.decimals))
                });
                let cells = cell_words(system)
                    .into_iter()
                    .chain([split_title(split).to_owned(), run])
                    .map(Cell::text)
                    .chain(numbers);
                rows.push(Row { name: system.id.clone(), cells: cells.collect() });
            }
        }
        if rows.len() == before {
            let empty = columns.len() - 1 - cell_words(system).len();
            let cells = cell_words(system).into_iter().map(Cell::text).chain(vec![Cell::empty(); empty]);
            rows.push(Row { name: system.id.clone(), cells: cells.collect() });
        }
    }
    Table {
        id: names.unique("cells"),
        caption: "Every system and sampling run".to_owned(),
        columns,
        rows,
        notes: Vec::new(),
    }
}

fn cell_words(system: &System) -> Vec<String> {
    let Group { corpus, model, train_size, max_length } = &system.group;
    let decoding = match &system.decoding {
        Some(decoding) => format!("temperature {}, top-p {}", decoding.temperature, decoding.top_p),
        None => String::new(),
    };
    let state = match (system.status, &system.error) {
        (Status::Done, _) => match &system.unfinished {
            Some(unfinished) => format!("not finished: {unfinished}"),
            None => "done".to_owned(),
        },
        (Status::Waiting, _) => "waiting".to_owned(),
        (Status::Failed, None) => "failed".to_owned(),
        (Status::Failed, Some(error)) => format!("failed: {error}"),
    };
    vec![
        corpus.clone(),
        model.clone(),
        train_size.map_or_else(|| "all".to_owned(), |n| n.to_string()),
        max_length.to_string(),
        label_of(&system.objective),
        system.seed.to_string(),
        decoding,
        state,
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::small;
    use super::*;

    #[test]
    fn every_sampling_run_is_listed_and_states_are_told() {
        let mut study = small();
        study.systems[0]
            .valid
            .as_mut()
            .unwrap()
            .scores
            .push(crate::tests::scores(serde_json::json!({"diversity": 0.25})));
        study.systems[1].valid = None;
        study.systems[1].status = Status::Failed;
        study.systems[1].error = Some("out of memory".into());
        study.systems[2].unfinished = Some("step 3 of 9".into());
        let table = cells(&study, &mut Names::default());
        assert_eq!(table.rows[3].cells[7].shown(), "not finished: step 3 of 9");
        assert_eq!(table.rows.len(), 6);
        let texts = |row: usize| table.rows[row].cells.iter().map(Cell::shown).collect::<Vec<_>>();
        assert_eq!(texts(1)[7..], ["done", "development", "1", "20.00", "0.250", "", ""]);
        assert_eq!(
            texts(2)[4..],
            ["MLE", "2", "temperature 1, top-p 1", "failed: out of memory", "", "", "", "", "", ""]
        );
        assert!(table.rows.iter().all(|row| row.cells.len() + 1 == table.columns.len()));
    }
}
