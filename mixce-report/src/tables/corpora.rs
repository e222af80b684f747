//! The results of several corpora side by side: the paper's table 2.

use super::results::HUMAN;
use super::split_title;
use crate::names::Names;
use crate::results::Split;
use crate::table::{Cell, Column, Row, Table};

/// The table of one corpus, and how many of its columns tell rows apart; metrics and the number of seeds follow.
pub(super) struct OfCorpus {
    pub(super) corpus: String,
    pub(super) table: Table,
    pub(super) keys: usize,
}

/// One table of the corpora's tables for one split, a group of columns for each corpus. `None` with fewer than two, or where they tell their rows apart
/// by other things.
pub(super) fn side_by_side(found: &[OfCorpus], split: Split, names: &mut Names) -> Option<Table> {
    let [first, others @ ..] = found else { return None };
    let keys = |of: &OfCorpus| of.table.columns[..of.keys].to_vec();
    if others.is_empty() || others.iter().any(|other| keys(other) != keys(first)) {
        return None;
    }
    let mut rows: Vec<(String, Vec<Cell>)> = Vec::new();
    for of in found {
        for row in &of.table.rows {
            let key = (row.name.clone(), row.cells[..of.keys - 1].to_vec());
            if !rows.contains(&key) {
                rows.push(key);
            }
        }
    }
    rows.sort_by_key(|(name, _)| name != HUMAN);
    let mut columns = keys(first);
    let mut merged: Vec<Row> =
        rows.iter().map(|(name, cells)| Row { name: name.clone(), cells: cells.clone() }).collect();
    for of in found {
        // Without the number of seeds.
        let metrics = of.keys..of.table.columns.len() - 1;
        let in_group = |column: &Column| Column { group: Some(of.corpus.clone()), ..column.clone() };
        columns.extend(of.table.columns[metrics.clone()].iter().map(in_group));
        for (row, (name, cells)) in merged.iter_mut().zip(&rows) {
            let same = |known: &&Row| known.name == *name && known.cells[..of.keys - 1] == cells[..];
            match of.table.rows.iter().find(same) {
                Some(known) => row.cells.extend_from_slice(&known.cells[metrics.start - 1..metrics.end - 1]),
                None => row.cells.extend(metrics.clone().map(|_| Cell::empty())),
            }
        }
    }
    let mut notes: Vec<String> = Vec::new();
    for note in found.iter().flat_map(|of| &of.table.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    Some(Table {
        id: names.unique(&format!("results-{}", split.name())),
        caption: format!("All corpora: results on the {} texts", split_title(split)),
        columns,
        rows: merged,
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::super::results;
    use super::super::tests::{RESAMPLING, small};
    use super::*;

    #[test]
    fn each_corpus_has_a_group_of_columns() {
        let mut study = small();
        assert_eq!(results(&study, &RESAMPLING, &mut Names::default()).len(), 1);
        let mut others = study.systems.clone();
        for system in &mut others {
            system.group.corpus = "web".into();
            system.id += "-web";
        }
        others.retain(|system| system.control.is_none());
        study.systems.extend(others);
        let tables = results(&study, &RESAMPLING, &mut Names::default());
        let ids: Vec<&str> = tables.iter().map(|table| table.id.as_str()).collect();
        assert_eq!(ids, ["results-valid", "results-valid-web", "results-valid-wiki"]);
        let text = tables[0].markdown();
        assert!(
            text.contains("| system | web perplexity | web diversity | web MAUVE | wiki perplexity |"),
            "{text}"
        );
        // The human texts of one corpus, and a control of one.
        assert!(text.contains("| Human |  |  |  |  | 0.688 |  |"), "{text}");
        assert!(text.contains("| MLE, top-p 0.9 |  |  |  | **20.00** | 0.500 | 0.750 |"), "{text}");
        assert!(
            tables[0].csv().starts_with("system,web perplexity,web perplexity std,"),
            "{}",
            tables[0].csv()
        );
        let latex = tables[0].latex();
        assert!(latex.contains(" & \\multicolumn{3}{c}{web} & \\multicolumn{3}{c}{wiki} \\\\\n\\cmidrule(lr){2-4} \\cmidrule(lr){5-7}\n"), "{latex}");
        assert!(tables[0].rows.iter().all(|row| row.cells.len() + 1 == tables[0].columns.len()));
    }
}
