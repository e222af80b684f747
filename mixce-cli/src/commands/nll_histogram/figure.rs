//! The histograms as a picture: texts on the left, tokens on the right.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Level, Set};

/// Human and generated, apart for readers with any colour vision (Okabe and Ito).
const COLORS: [RGBColor; 2] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0)];

/// Draws both levels on one SVG.
pub(super) fn draw(sequence: &Level, token: &Level) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (1000, 420)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let halves = area.split_evenly((1, 2));
        panel(&halves[0], "Texts", "mean negative log-likelihood of a token (nats)", sequence)?;
        panel(&halves[1], "Tokens", "negative log-likelihood (nats)", token)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

/// One level: both densities over the same bins, so that sets of different sizes compare.
fn panel(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, label: &str, level: &Level) -> Result<()> {
    let sets = level.sets().map(|(name, set)| (name, set, densities(set, &level.edges)));
    let highest = sets.iter().flat_map(|(_, _, density)| density).fold(0.0, |a: f64, b| a.max(*b));
    // Room for the names above the bins.
    let top = highest * 1.3;
    let (low, high) = (level.edges[0], level.edges[level.edges.len() - 1]);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(low..high, 0.0..top)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_desc(label)
        .y_desc("share per nat")
        .draw()
        .map_err(failed)?;
    for ((name, set, density), color) in sets.iter().zip(COLORS) {
        let outline = outline(&level.edges, density);
        let mut area = vec![(low, 0.0)];
        area.extend(&outline);
        area.push((high, 0.0));
        chart.draw_series([Polygon::new(area, color.mix(0.18))]).map_err(failed)?;
        let mean = set.summary.mean;
        chart
            .draw_series(LineSeries::new(outline, color.stroke_width(2)))
            .map_err(failed)?
            .label(format!("{name}, mean {mean:.3}"))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
        chart
            .draw_series(DashedLineSeries::new([(mean, 0.0), (mean, top)], 5, 4, color.stroke_width(1)))
            .map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(failed)
}

/// Share of the values in each bin by its width.
fn densities(set: &Set, edges: &[f64]) -> Vec<f64> {
    let density =
        |(count, edges): (&u64, &[f64])| *count as f64 / set.summary.n as f64 / (edges[1] - edges[0]);
    set.counts.iter().zip(edges.windows(2)).map(density).collect()
}

/// The steps of a histogram as a line.
fn outline(edges: &[f64], density: &[f64]) -> Vec<(f64, f64)> {
    edges.windows(2).zip(density).flat_map(|(edges, y)| [(edges[0], *y), (edges[1], *y)]).collect()
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw the histograms: {error}")
}
