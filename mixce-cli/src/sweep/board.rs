//! The live table of the grid: a row for each system, a column for each seed, and a bar with the time left.

use std::sync::{Mutex, OnceLock, PoisonError};

use indicatif::ProgressBar;
use mixce_sweep::{Grid, GridCell};

use super::child::Failure;
use super::group_in_words;
use crate::progress;

/// A grid with more rows than this has only the bar: a terminal shows no more.
const MOST_ROWS: usize = 40;

/// The state of a cell.
#[derive(Clone, Debug, PartialEq)]
enum State {
    Waiting,
    Running(String),
    Done(Option<f64>),
    Failed,
}

/// One system of one group.
#[derive(Debug)]
struct Row {
    label: String,
    /// Its cells, by seed.
    cells: Vec<String>,
    line: OnceLock<ProgressBar>,
}

/// The table. Hidden if stderr is not a terminal.
#[derive(Debug)]
pub(super) struct Board {
    rows: Vec<Row>,
    states: Mutex<Vec<(String, State)>>,
    bar: OnceLock<ProgressBar>,
}

impl Board {
    pub(super) fn new(grid: &Grid) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        for group in 0..grid.groups.len() {
            for cell in grid.cells.iter().filter(|cell| cell.group == group) {
                let system = cell.control.map_or(cell.objective.as_str(), |kind| kind.name());
                let label = format!("{}: {system}", group_in_words(&grid.groups[group]));
                match rows.iter_mut().find(|row| row.label == label) {
                    Some(row) => row.cells.push(cell.id.clone()),
                    None => rows.push(Row { label, cells: vec![cell.id.clone()], line: OnceLock::new() }),
                }
            }
        }
        let states = grid.cells.iter().map(|cell| (cell.id.clone(), State::Waiting)).collect();
        Self { rows, states: Mutex::new(states), bar: OnceLock::new() }
    }

    /// Shows the table; `jobs` are those of this process.
    pub(super) fn start(&self, jobs: usize) {
        if self.rows.len() <= MOST_ROWS {
            for row in &self.rows {
                row.line.get_or_init(progress::line).set_message(self.text(row));
            }
        }
        self.bar.get_or_init(|| progress::bar(jobs as u64, "jobs"));
    }

    /// A step of a cell begins.
    pub(super) fn running(&self, cell: &GridCell, step: &str) {
        self.set(cell, State::Running(step.to_owned()));
    }

    /// A job of a cell has ended; `value` is the cell's value of the metric.
    pub(super) fn ended(&self, cell: &GridCell, outcome: &Result<(), Failure>, value: Option<f64>) {
        match outcome {
            Ok(()) => self.set(cell, State::Done(value)),
            Err(Failure::Stopped) => self.set(cell, State::Waiting),
            Err(Failure::Failed(_)) => self.set(cell, State::Failed),
        }
        if let Some(bar) = self.bar.get() {
            bar.inc(1);
        }
    }

    /// Removes the table.
    pub(super) fn finish(&self) {
        self.rows
            .iter()
            .filter_map(|row| row.line.get())
            .chain(self.bar.get())
            .for_each(ProgressBar::finish_and_clear);
    }

    fn set(&self, cell: &GridCell, state: State) {
        {
            let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, known)) = states.iter_mut().find(|(id, _)| *id == cell.id) {
                *known = state;
            }
        }
        if let Some(row) = self.rows.iter().find(|row| row.cells.contains(&cell.id))
            && let Some(line) = row.line.get()
        {
            line.set_message(self.text(row));
        }
    }

    /// A row: its label and the states of its cells.
    fn text(&self, row: &Row) -> String {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |cell: &String| states.iter().find(|(id, _)| id == cell).map(|(_, state)| state);
        let width = self.rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
        let mut text = format!("{:<width$}", row.label);
        for state in row.cells.iter().filter_map(of) {
            let word = match state {
                State::Waiting => "-".to_owned(),
                State::Running(step) => step.clone(),
                State::Done(None) => "done".to_owned(),
                State::Done(Some(value)) => format!("{value:.4}"),
                State::Failed => "FAILED".to_owned(),
            };
            text += &format!("  {word:>14}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use mixce_report::results::Group;

    use super::*;

    #[test]
    fn rows_show_the_states_of_their_seeds() {
        let cell = |id: &str, seed| GridCell {
            id: id.to_owned(),
            group: 0,
            objective: "mle".to_owned(),
            seed,
            control: None,
            model: 0,
        };
        let group =
            Group { corpus: "wiki".to_owned(), model: "gpt2".to_owned(), train_size: None, max_length: 64 };
        let grid = Grid { groups: vec![group], cells: vec![cell("a", 1), cell("b", 2), cell("c", 3)] };
        let board = Board::new(&grid);
        let shown = || {
            board.text(&board.rows[0]).split_whitespace().map(str::to_owned).collect::<Vec<_>>()[4..]
                .join(" ")
        };
        assert_eq!(board.rows.len(), 1);
        assert_eq!(shown(), "mle - - -");
        board.running(&grid.cells[0], "train");
        board.ended(&grid.cells[1], &Ok(()), Some(0.5));
        board.ended(&grid.cells[2], &Err(Failure::Failed(String::new())), None);
        assert_eq!(shown(), "mle train 0.5000 FAILED");
    }
}
