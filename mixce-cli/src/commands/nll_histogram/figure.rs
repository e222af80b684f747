//! The histograms as a figure: texts on the left, tokens on the right.

use anyhow::Result;
use plotters::prelude::*;

use super::{Level, Set};
use crate::svg::{self, Area, COLORS, legend, sample};

/// Draws both levels on one SVG.
pub(super) fn draw(sequence: &Level, token: &Level) -> Result<String> {
    svg::draw((1000, 420), |area| {
        let halves = area.split_evenly((1, 2));
        panel(&halves[0], "Texts", "mean negative log-likelihood of a token (nats)", sequence)?;
        panel(&halves[1], "Tokens", "negative log-likelihood (nats)", token)
    })
}

/// One level: both densities over the same bins, so that sets of different sizes are comparable.
fn panel(area: &Area<'_>, title: &str, label: &str, level: &Level) -> Result<()> {
    let sets = level.sets().map(|(name, set)| (name, set, densities(set, &level.edges)));
    let highest = sets.iter().flat_map(|(_, _, density)| density).fold(0.0, |a: f64, b| a.max(*b));
    // Room for the legend above the bins.
    let top = highest * 1.3;
    let (low, high) = (level.edges[0], level.edges[level.edges.len() - 1]);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(low..high, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_desc(label)
        .y_desc("share per nat")
        .draw()?;
    for ((name, set, density), color) in sets.iter().zip(COLORS) {
        let outline = outline(&level.edges, density);
        let mut area = vec![(low, 0.0)];
        area.extend(&outline);
        area.push((high, 0.0));
        chart.draw_series([Polygon::new(area, color.mix(0.18))])?;
        let mean = set.summary.mean;
        chart
            .draw_series(LineSeries::new(outline, color.stroke_width(2)))?
            .label(format!("{name}, mean {mean:.3}"))
            .legend(sample(color));
        chart.draw_series(DashedLineSeries::new([(mean, 0.0), (mean, top)], 5, 4, color.stroke_width(1)))?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

/// Share of the values in each bin divided by its width.
fn densities(set: &Set, edges: &[f64]) -> Vec<f64> {
    let density =
        |(count, edges): (&u64, &[f64])| *count as f64 / set.summary.n as f64 / (edges[1] - edges[0]);
    set.counts.iter().zip(edges.windows(2)).map(density).collect()
}

/// The outline of a histogram.
fn outline(edges: &[f64], density: &[f64]) -> Vec<(f64, f64)> {
    edges.windows(2).zip(density).flat_map(|(edges, y)| [(edges[0], *y), (edges[1], *y)]).collect()
}
