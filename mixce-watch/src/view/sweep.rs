//! A sweep: the grid, a row for each system and a column for each seed.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell as TableCell, Paragraph, Row, Table, Wrap};

use super::{dim, gauge, heading, sample_rows, samples};
use crate::sweep::{Cell, CellState, Sweep, SweepState};
use crate::text::{Fact, cell_state, duration, failures, sweep_facts, sweep_state};

/// Columns of a cell: `train 12345/67890`.
const CELL: u16 = 14;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, sweep: &Sweep, scroll: u16) {
    let told = remarks(sweep);
    let below = sample_rows(&sweep.samples, area);
    let remarks = (told.len() as u16).min(area.height / 4);
    let [top, progress, line, grid, lower, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(remarks),
        Constraint::Length(below),
    ])
    .areas(area);
    let state = sweep_state(sweep.state).to_owned();
    frame.render_widget(heading(&sweep.folder.display().to_string(), state, color(sweep.state)), top);
    let (done, all) = sweep.progress();
    let left =
        sweep.seconds_left.map_or_else(String::new, |seconds| format!(", about {} left", duration(seconds)));
    let share = if all == 0 { 0.0 } else { done as f64 / all as f64 };
    frame.render_widget(gauge(share, format!("{done} of {all} cells{left}")), progress);
    let words: Vec<String> =
        sweep_facts(sweep).into_iter().map(|(name, value): Fact| format!("{name}: {value}")).collect();
    frame.render_widget(Line::from(words.join("; ")).style(dim()), line);
    frame.render_widget(table(sweep, scroll), grid);
    frame.render_widget(Paragraph::new(told).wrap(Wrap { trim: false }), lower);
    frame.render_widget(samples(&sweep.samples), bottom);
}

/// What was chosen, and what failed.
fn remarks(sweep: &Sweep) -> Vec<Line<'static>> {
    let chosen = sweep.chosen.iter().map(|chosen| Line::from(format!("chosen: {chosen}")));
    let failed = failures(sweep).map(|(cell, error)| {
        Line::from(format!("{cell} failed: {error}")).style(Style::new().fg(Color::Red))
    });
    chosen.chain(failed).collect()
}

/// The lines of the grid: its rows, and one for each group.
pub(super) fn lines(sweep: &Sweep) -> usize {
    sweep.rows.len() + sweep.rows.chunk_by(|a, b| a.group == b.group).count()
}

fn table(sweep: &Sweep, scroll: u16) -> Table<'static> {
    let mut seeds: Vec<u64> = sweep.cells().map(|cell| cell.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let mut rows = Vec::new();
    let mut group = "";
    for row in &sweep.rows {
        if row.group != group {
            group = &row.group;
            let name = mixce_base::printable::printable_line(group).into_owned();
            rows.push(Row::new([name]).style(Style::new().add_modifier(Modifier::BOLD)));
        }
        let of_seed = |seed: &u64| {
            row.cells.iter().find(|cell| cell.seed == *seed).map_or_else(TableCell::default, cell)
        };
        let system = format!("  {}", mixce_base::printable::printable_line(&row.system));
        rows.push(Row::new(std::iter::once(TableCell::from(system)).chain(seeds.iter().map(of_seed))));
    }
    let most = rows.len().saturating_sub(1);
    let rows = rows.into_iter().skip(usize::from(scroll).min(most));
    let header = std::iter::once(String::new()).chain(seeds.iter().map(|seed| format!("seed {seed}")));
    let widths = std::iter::once(Constraint::Fill(1)).chain(seeds.iter().map(|_| Constraint::Length(CELL)));
    Table::new(rows, widths).header(Row::new(header).style(dim())).column_spacing(1)
}

fn cell(cell: &Cell) -> TableCell<'static> {
    let color = match cell.state {
        CellState::Waiting => None,
        CellState::Running { .. } => Some(Color::Green),
        CellState::Done { .. } => Some(Color::Blue),
        CellState::Failed { .. } => Some(Color::Red),
    };
    let style = color.map_or_else(Style::new, |color| Style::new().fg(color));
    TableCell::from(cell_state(&cell.state)).style(style)
}

fn color(state: SweepState) -> Color {
    match state {
        SweepState::Running => Color::Green,
        SweepState::Finished => Color::Blue,
        SweepState::Failed | SweepState::Gone => Color::Red,
        SweepState::Waiting | SweepState::Interrupted => Color::Yellow,
    }
}
