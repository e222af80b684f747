//! A run: its progress, its curves, its numbers, its last samples.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType};

use super::{facts, gauge, heading, sample_rows, samples};
use crate::run::{Run, RunState};
use crate::text::{duration, run_facts, run_state};

/// From this width on, curves stand beside the numbers.
const WIDE: u16 = 100;
/// A chart of fewer rows shows nothing.
const LEAST_CHART: u16 = 7;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, run: &Run) {
    let below = sample_rows(&run.samples, area);
    let [top, progress, middle, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(below),
    ])
    .areas(area);
    frame.render_widget(heading(&run.folder.display().to_string(), run_state(run), color(&run.state)), top);
    if let Some((done, total)) = run.progress() {
        let left =
            run.seconds_left.map_or_else(String::new, |seconds| format!(", {} left", duration(seconds)));
        frame.render_widget(
            gauge(done as f64 / total as f64, format!("{done} of {total} steps{left}")),
            progress,
        );
    }
    let told = run_facts(run);
    let rows = told.len() as u16;
    if middle.width >= WIDE {
        let [curves, numbers] =
            Layout::horizontal([Constraint::Fill(2), Constraint::Fill(1)]).spacing(2).areas(middle);
        charts(frame, curves, run);
        frame.render_widget(facts(told), numbers);
    } else {
        let numbers = if middle.height >= rows + LEAST_CHART { rows } else { middle.height.min(rows) };
        let [numbers, curves] =
            Layout::vertical([Constraint::Length(numbers), Constraint::Fill(1)]).areas(middle);
        frame.render_widget(facts(told), numbers);
        charts(frame, curves, run);
    }
    frame.render_widget(samples(&run.samples), bottom);
}

fn color(state: &RunState) -> Color {
    match state {
        RunState::Running { .. } => Color::Green,
        RunState::Finished => Color::Blue,
        RunState::Failed { .. } | RunState::Gone => Color::Red,
        RunState::Waiting | RunState::Interrupted => Color::Yellow,
    }
}

/// A curve with its name and colour.
type Curve = (&'static str, Color, Vec<(f64, f64)>);

fn charts(frame: &mut Frame<'_>, area: Rect, run: &Run) {
    let likelihood: Vec<Curve> = vec![
        ("training", Color::Cyan, run.curves.train_nll()),
        ("development", Color::Yellow, run.curves.valid_nll()),
    ];
    let mauve: Vec<Curve> = vec![("MAUVE", Color::Magenta, run.curves.mauve())];
    let has_both = !mauve[0].2.is_empty() && area.height >= 2 * LEAST_CHART;
    let share = if has_both { 2 } else { 1 };
    let [upper, lower] =
        Layout::vertical([Constraint::Fill(share), Constraint::Fill(u16::from(has_both))]).areas(area);
    chart(frame, upper, "nll (nats per token)", likelihood);
    if has_both {
        chart(frame, lower, "MAUVE of samples", mauve);
    }
}

fn chart(frame: &mut Frame<'_>, area: Rect, title: &'static str, curves: Vec<Curve>) {
    let curves: Vec<Curve> = curves
        .into_iter()
        .filter(|(.., points)| !points.is_empty())
        .map(|(name, color, points)| (name, color, thinned(points, 2 * usize::from(area.width))))
        .collect();
    if curves.is_empty() || area.height < LEAST_CHART {
        return;
    }
    let all = || curves.iter().flat_map(|(.., points)| points);
    let [left, right] = bounds(all().map(|(step, _)| *step), 0.0);
    let [low, high] = bounds(all().map(|(_, value)| *value), 0.05);
    let axis = |from: f64, to: f64, decimals: usize| {
        let labels = [from, (from + to) / 2.0, to].map(|value| Line::from(format!("{value:.decimals$}")));
        Axis::default().bounds([from, to]).labels(labels)
    };
    let datasets = curves.iter().map(dataset).collect();
    let chart = Chart::new(datasets)
        .block(Block::new().title(names(title, &curves)))
        .legend_position(None)
        .x_axis(axis(left, right, 0).title("step"))
        .y_axis(axis(low, high, if high - low < 0.1 { 4 } else { 2 }));
    frame.render_widget(chart, area);
}

/// The title, and the names of the curves in their colours.
fn names(title: &'static str, curves: &[Curve]) -> Line<'static> {
    let mut spans = vec![Span::raw(title)];
    for (name, color, _) in curves.iter().filter(|(name, ..)| !title.starts_with(name)) {
        spans.extend([Span::raw("  "), Span::styled(*name, Style::new().fg(*color))]);
    }
    Line::from(spans)
}

fn dataset((name, color, points): &Curve) -> Dataset<'_> {
    let kind = if points.len() > 1 { GraphType::Line } else { GraphType::Scatter };
    let style = Style::new().fg(*color);
    Dataset::default().name(*name).marker(Marker::Braille).graph_type(kind).style(style).data(points)
}

/// The ends of an axis, with a margin, and never the same.
fn bounds(values: impl Iterator<Item = f64>, margin: f64) -> [f64; 2] {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let width = if high > low { high - low } else { 1.0 };
    let more = margin * width + if high > low { 0.0 } else { 0.5 };
    [low - more, high + more]
}

/// At most about `most` points: means of as many neighbours as needed.
fn thinned(points: Vec<(f64, f64)>, most: usize) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(most.max(1));
    if size <= 1 {
        return points;
    }
    let mean = |chunk: &[(f64, f64)]| {
        let (x, y) = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (x / chunk.len() as f64, y / chunk.len() as f64)
    };
    points.chunks(size).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_never_empty_and_many_points_become_few() {
        assert_eq!(bounds([2.0, 4.0].into_iter(), 0.0), [2.0, 4.0]);
        assert_eq!(bounds([2.0].into_iter(), 0.0), [1.5, 2.5]);
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), 1.0)).collect();
        let few = thinned(points, 100);
        assert_eq!((few.len(), few[0]), (100, (4.5, 1.0)));
        assert_eq!(thinned(vec![(0.0, 1.0)], 0), [(0.0, 1.0)]);
    }
}
