//! What all figures share: an SVG canvas, colours, the legend.

use anyhow::{Context as _, Result};
use plotters::coord::{CoordTranslate, Shift};
use plotters::prelude::*;

/// A part of the canvas.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A palette safe for colour-blind readers (Okabe and Ito).
pub(crate) const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
];

/// Draws a white SVG of this size (pixels) with `paint` and returns its text.
///
/// # Errors
/// If drawing fails.
pub(crate) fn draw(size: (u32, u32), paint: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        paint(&area).context("cannot draw a figure")?;
        area.present()?;
    }
    Ok(svg)
}

/// The legend entry of a line of this colour.
pub(crate) fn sample(color: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2))
}

/// Puts the names of the series into a corner of a chart.
///
/// # Errors
/// If drawing fails.
pub(crate) fn legend<'a, T: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, T>,
    position: SeriesLabelPosition,
) -> Result<()> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}
