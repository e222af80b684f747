//! What the screen shows of a snapshot.

mod run;
mod sweep;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Gauge, Paragraph, Wrap};

use crate::samples::Sample;
use crate::text::{Fact, sample_in_a_line};
use crate::watch::Snapshot;

/// Draws a snapshot; `scroll` lines of a long grid are above the screen.
pub(crate) fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, scroll: u16) {
    let [body, keys] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let told = match snapshot {
        Snapshot::Run(run) => {
            run::draw(frame, body, run);
            "q quit"
        }
        Snapshot::Sweep(sweep) => {
            sweep::draw(frame, body, sweep, scroll);
            "q quit, up and down scroll"
        }
    };
    frame.render_widget(Line::from(told).style(dim()), keys);
}

/// How far a snapshot can be scrolled, in lines.
pub(crate) fn most_scroll(snapshot: &Snapshot) -> u16 {
    match snapshot {
        Snapshot::Run(_) => 0,
        Snapshot::Sweep(sweep) => u16::try_from(sweep::lines(sweep).saturating_sub(1)).unwrap_or(u16::MAX),
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// The folder and its state.
fn heading(folder: &str, state: String, color: Color) -> Line<'static> {
    let folder = mixce_base::printable::printable_line(folder).into_owned();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Line::from(vec![Span::styled(folder, bold), Span::raw("  "), Span::styled(state, bold.fg(color))])
}

/// How much is done, with the time left.
fn gauge(share: f64, label: String) -> Gauge<'static> {
    Gauge::default().ratio(share.clamp(0.0, 1.0)).label(label).gauge_style(Style::new().fg(Color::Blue))
}

/// Names and values in a column.
fn facts(facts: Vec<Fact>) -> Paragraph<'static> {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): Fact| {
        let value = mixce_base::printable::printable_line(&value).into_owned();
        Line::from(vec![Span::styled(format!("{name:<width$}  "), dim()), Span::raw(value)])
    };
    Paragraph::new(facts.into_iter().map(line).collect::<Vec<_>>())
}

/// The last samples, each beginning on a line of its own.
fn samples(samples: &[Sample]) -> Paragraph<'static> {
    let lines: Vec<Line<'_>> = samples.iter().map(|sample| Line::from(sample_in_a_line(sample))).collect();
    let heading = Line::from("last samples").style(dim());
    Paragraph::new(std::iter::once(heading).chain(lines).collect::<Vec<_>>()).wrap(Wrap { trim: false })
}

/// The rows that samples get of an area.
fn sample_rows(samples: &[Sample], area: Rect) -> u16 {
    if samples.is_empty() || area.height < 20 { 0 } else { area.height / 4 }
}

#[cfg(test)]
pub(crate) mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use crate::text::tests::run;
    use crate::watch::Snapshot;

    /// The lines of the screen.
    pub(crate) fn screen(snapshot: &Snapshot, width: u16, height: u16, scroll: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| super::draw(frame, snapshot, scroll)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(width.into()).map(|row| row.concat().trim_end().to_owned()).collect()
    }

    fn contains(lines: &[String], words: &[&str]) {
        for word in words {
            assert!(lines.iter().any(|line| line.contains(word)), "{word}\n{}", lines.join("\n"));
        }
    }

    #[test]
    fn a_wide_screen_shows_curves_beside_facts() {
        let lines = screen(&Snapshot::Run(Box::new(run())), 140, 40, 0);
        assert!(lines[0].starts_with("runs/a  running (process 7)"), "{}", lines[0]);
        contains(
            &lines,
            &[
                "40 of 100",
                "1 h 1 min",
                "nll (nats per token)",
                "MAUVE",
                "training",
                "development",
                "200 tokens/s",
                "gradient norm",
                "1.5 GB",
                "last samples",
                "The\\u{1b}[2J mill",
                "q quit",
            ],
        );
        let points =
            lines.iter().flat_map(|line| line.chars()).filter(|c| ('\u{2801}'..='\u{28ff}').contains(c));
        assert!(points.count() > 20, "{}", lines.join("\n"));
    }

    #[test]
    fn a_narrow_screen_keeps_state_and_progress() {
        let lines = screen(&Snapshot::Run(Box::new(run())), 40, 40, 0);
        contains(&lines, &["runs/a  running", "40 of 100", "speed", "nll (nats per token)", "q quit"]);
        let lines = screen(&Snapshot::Run(Box::new(run())), 30, 8, 0);
        contains(&lines, &["runs/a", "40 of 100", "q quit"]);
        // Nothing breaks on a screen of almost nothing.
        for (width, height) in [(1, 1), (2, 2), (9, 3), (200, 2)] {
            screen(&Snapshot::Run(Box::new(run())), width, height, 0);
        }
    }

    #[test]
    fn a_run_without_anything_is_shown_too() {
        let root = tempfile::tempdir().unwrap();
        let snapshot = crate::Watch::open(root.path()).unwrap().poll();
        contains(&screen(&snapshot, 100, 30, 0), &["waiting for its first step"]);
    }

    #[test]
    fn a_grid_is_a_table_that_scrolls() {
        let root = tempfile::tempdir().unwrap();
        crate::sweep::tests::write(root.path());
        let snapshot = crate::Watch::open(root.path()).unwrap().poll();
        let lines = screen(&snapshot, 100, 30, 0);
        contains(
            &lines,
            &["1 of 5", "wiki, gpt2, length 64", "mle top_p", "0.6250", "FAILED", "seed 2", "chosen: "],
        );
        contains(&lines, &["failed: out of\\u{1b}[2J memory"]);
        let scrolled = screen(&snapshot, 100, 30, 2);
        assert!(!scrolled.iter().any(|line| line.contains("0.6250  ")), "{}", scrolled.join("\n"));
        contains(&scrolled, &["mle top_p"]);
        for (width, height) in [(1, 1), (20, 6), (40, 3)] {
            screen(&snapshot, width, height, 9);
        }
    }
}
