//! The drawing.

use std::fmt::Write as _;

use super::scale::Scale;
use super::{At, Chart, Point, STYLE, Series, Shape};
use crate::page::escape::html;

const WIDTH: f64 = 640.0;
const PLOT_HEIGHT: f64 = 300.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
/// Height of the tick labels and the name of the horizontal axis.
const BELOW: f64 = 48.0;
/// Height of a row of the legend.
const ROW: f64 = 20.0;
/// Width of the sample of a line in the legend, with the space after it.
const SAMPLE: f64 = 40.0;
/// Estimated width of a character of 13 pixels.
const CHARACTER: f64 = 7.0;
/// Colours of [`STYLE`]; dashes and marks repeat with other periods, so that 40 series differ.
const COLORS: usize = 8;
const DASHES: [&str; 5] = ["", "7 4", "2 3", "9 3 2 3", "4 2"];
const MARKS: usize = 6;

impl Chart {
    /// The chart as an element of a page that has [`STYLE`].
    #[must_use]
    pub fn svg(&self) -> String {
        self.drawn("")
    }

    /// The chart as a file of its own.
    #[must_use]
    pub fn file(&self) -> String {
        // A page behind it may have either colour, so it has its own.
        let ground = ".ground{fill:#fff}@media (prefers-color-scheme:dark){.ground{fill:#17171c}}@media print{.ground{fill:#fff}}";
        let style =
            format!("<style>{STYLE}{ground}</style><rect class=\"ground\" width=\"100%\" height=\"100%\"/>");
        format!("{}\n", self.drawn(&style))
    }

    fn drawn(&self, head: &str) -> String {
        let legend = self.legend_rows();
        let bottom = TOP + PLOT_HEIGHT;
        let height = bottom + BELOW + ROW * legend.len() as f64 + 6.0;
        let x = Scale::new(&self.x, self.values(&Point::x_ends, At::x), LEFT, WIDTH - RIGHT);
        let y = Scale::new(&self.y, self.values(&Point::y_ends, At::y), bottom, TOP);
        let (id, title, description) = (html(&self.id), html(&self.title), html(&self.description));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{title}</title><desc id=\"{id}-d\">{description}</desc>{head}"
        );
        self.axes(&mut svg, &x, &y);
        for reference in &self.references {
            let path = match reference.at {
                At::X(at) if x.shows(at) => format!("M{:.1} {TOP}V{bottom}", x.pixel(at)),
                At::Y(at) if y.shows(at) => format!("M{LEFT} {:.1}H{}", y.pixel(at), WIDTH - RIGHT),
                _ => continue,
            };
            let _ = write!(svg, "<path class=\"ref\" d=\"{path}\"/>");
        }
        for (index, series) in self.series.iter().enumerate() {
            self.series(&mut svg, index, series, &x, &y);
        }
        for (row, entries) in legend.iter().enumerate() {
            let y = bottom + BELOW + ROW * row as f64 + 8.0;
            entries.iter().for_each(|(index, left)| self.legend_entry(&mut svg, *index, *left, y));
        }
        svg + "</svg>"
    }

    /// Every coordinate that an axis must show.
    fn values<'a>(
        &'a self,
        ends: &'a dyn Fn(&Point) -> [f64; 2],
        of_reference: fn(At) -> Option<f64>,
    ) -> impl Iterator<Item = f64> + 'a {
        let points = self.series.iter().flat_map(|series| &series.points).flat_map(ends);
        points.chain(self.references.iter().filter_map(move |reference| of_reference(reference.at)))
    }

    fn axes(&self, svg: &mut String, x: &Scale, y: &Scale) {
        let (right, bottom) = (WIDTH - RIGHT, TOP + PLOT_HEIGHT);
        for (at, label) in &y.ticks {
            let at = y.pixel(*at);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 7.0,
                at + 4.0,
                html(label)
            );
        }
        // Long names would run into each other: only every n-th is written.
        let widest =
            x.ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0) as f64 * CHARACTER;
        let every = ((widest + 8.0) * x.ticks.len() as f64 / (right - LEFT)).ceil().max(1.0) as usize;
        for (index, (at, label)) in x.ticks.iter().enumerate() {
            let at = x.pixel(*at);
            let _ = write!(svg, "<path class=\"axis\" d=\"M{at:.1} {bottom}v5\"/>");
            if index.is_multiple_of(every) {
                let _ = write!(
                    svg,
                    "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    bottom + 19.0,
                    html(label)
                );
            }
        }
        let middle = TOP + PLOT_HEIGHT / 2.0;
        let _ = write!(
            svg,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(14 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            bottom + 38.0,
            html(&self.x.label),
            html(&self.y.label)
        );
    }

    fn series(&self, svg: &mut String, index: usize, series: &Series, x: &Scale, y: &Scale) {
        let _ = write!(svg, "<g class=\"s{}\">", index % COLORS);
        let shift = self.shift(index, series.shape);
        let place = |point: &Point| (x.pixel(point.x + shift), y.pixel(point.y));
        let finite: Vec<&Point> =
            series.points.iter().filter(|point| point.x.is_finite() && point.y.is_finite()).collect();
        let is_line = matches!(series.shape, Shape::Line | Shape::Curve | Shape::Steps);
        if is_line && finite.len() > 1 {
            let mut path = String::new();
            for (i, point) in finite.iter().enumerate() {
                let (px, py) = place(point);
                let _ = match (i, series.shape) {
                    (0, _) => write!(path, "M{px:.1} {py:.1}"),
                    (_, Shape::Steps) => write!(path, "H{px:.1}V{py:.1}"),
                    _ => write!(path, "L{px:.1} {py:.1}"),
                };
            }
            let _ = write!(svg, "<path class=\"line\"{} d=\"{path}\"/>", dashes(index));
        }
        if matches!(series.shape, Shape::Line | Shape::Marks | Shape::Bars) {
            for point in finite {
                let (px, py) = place(point);
                if series.shape == Shape::Bars {
                    let half = self.bar_width() / 2.0;
                    let [left, right] = [-half, half].map(|more| x.pixel(point.x + shift + more));
                    let ground = y.pixel(0.0);
                    let _ = write!(
                        svg,
                        "<path class=\"fill\"{} d=\"M{left:.1} {ground:.1}V{py:.1}H{right:.1}V{ground:.1}z\"/>",
                        dashes(index)
                    );
                }
                if let Some([low, high]) = point.y_bar() {
                    let [low, high] = [low, high].map(|at| y.pixel(at));
                    let _ = write!(
                        svg,
                        "<path class=\"bar\" d=\"M{px:.1} {low:.1}V{high:.1}m-4 0h8M{:.1} {low:.1}h8\"/>",
                        px - 4.0
                    );
                }
                if let Some(spread) = point.x_spread {
                    let [low, high] = [point.x - spread, point.x + spread].map(|at| x.pixel(at + shift));
                    let _ = write!(
                        svg,
                        "<path class=\"bar\" d=\"M{low:.1} {py:.1}H{high:.1}m0 -4v8M{low:.1} {:.1}v8\"/>",
                        py - 4.0
                    );
                }
                if series.shape != Shape::Bars {
                    svg.push_str(&mark(index, px, py));
                }
            }
        }
        svg.push_str("</g>");
    }

    /// Width of a bar, in places.
    fn bar_width(&self) -> f64 {
        0.8 / self.series.len().max(1) as f64
    }

    /// How far a series is from its places: marks of several series at one place would cover each other.
    fn shift(&self, index: usize, shape: Shape) -> f64 {
        let from_middle = index as f64 - (self.series.len() as f64 - 1.0) / 2.0;
        match shape {
            Shape::Bars => from_middle * self.bar_width(),
            _ if self.x.places.is_empty() => 0.0,
            _ => from_middle * (0.3 / self.series.len() as f64).min(0.06),
        }
    }

    /// The entries of the legend as rows of index and left edge: the series, then the reference lines.
    fn legend_rows(&self) -> Vec<Vec<(usize, f64)>> {
        let mut rows: Vec<Vec<(usize, f64)>> = Vec::new();
        let mut left = LEFT;
        for (index, name) in self.legend_names().enumerate() {
            let width = SAMPLE + name.chars().count() as f64 * CHARACTER + 18.0;
            if rows.is_empty() || left + width > WIDTH {
                left = LEFT;
                rows.push(Vec::new());
            }
            if let Some(row) = rows.last_mut() {
                row.push((index, left));
            }
            left += width;
        }
        rows
    }

    fn legend_names(&self) -> impl Iterator<Item = &str> {
        let series = self.series.iter().map(|series| series.name.as_str());
        series.chain(self.references.iter().map(|reference| reference.name.as_str()))
    }

    fn legend_entry(&self, svg: &mut String, index: usize, left: f64, y: f64) {
        let name = self.legend_names().nth(index).unwrap_or_default();
        let sample = match self.series.get(index) {
            None => format!("<path class=\"ref\" d=\"M{left:.1} {y:.1}h30\"/>"),
            Some(series) if series.shape == Shape::Bars => {
                let (top, dashes) = (y - 6.0, dashes(index));
                let sample = format!("<path class=\"fill\"{dashes} d=\"M{left:.1} {top:.1}h30v12h-30z\"/>");
                format!("<g class=\"s{}\">{sample}</g>", index % COLORS)
            }
            Some(series) => {
                let line = format!("<path class=\"line\"{} d=\"M{left:.1} {y:.1}h30\"/>", dashes(index));
                let line = if series.shape == Shape::Marks { String::new() } else { line };
                let has_marks = matches!(series.shape, Shape::Line | Shape::Marks);
                let mark = if has_marks { mark(index, left + 15.0, y) } else { String::new() };
                format!("<g class=\"s{}\">{line}{mark}</g>", index % COLORS)
            }
        };
        let _ = write!(
            svg,
            "{sample}<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left + SAMPLE,
            y + 4.0,
            html(name)
        );
    }
}

impl Point {
    fn x_ends(&self) -> [f64; 2] {
        let spread = self.x_spread.unwrap_or(0.0);
        [self.x - spread, self.x + spread]
    }

    fn y_ends(&self) -> [f64; 2] {
        let [low, high] = self.y_bar().unwrap_or([self.y; 2]);
        [low.min(self.y), high.max(self.y)]
    }

    /// The ends of its vertical bar.
    fn y_bar(&self) -> Option<[f64; 2]> {
        self.y_interval.or_else(|| self.y_spread.map(|spread| [self.y - spread, self.y + spread]))
    }
}

impl At {
    fn x(self) -> Option<f64> {
        if let Self::X(at) = self { Some(at) } else { None }
    }

    fn y(self) -> Option<f64> {
        if let Self::Y(at) = self { Some(at) } else { None }
    }
}

fn dashes(index: usize) -> String {
    match DASHES[index % DASHES.len()] {
        "" => String::new(),
        pattern => format!(" stroke-dasharray=\"{pattern}\""),
    }
}

/// The mark of a series: circle, square, triangle, diamond, cross, ring.
fn mark(index: usize, x: f64, y: f64) -> String {
    let (class, path) = match index % MARKS {
        0 => ("mark", "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"),
        1 => ("mark", "m-4 -4h8v8h-8z"),
        2 => ("mark", "m0 -5l5 9h-10z"),
        3 => ("mark", "m0 -5.5l5 5.5l-5 5.5l-5 -5.5z"),
        4 => ("open", "m-4 -4l8 8m0 -8l-8 8"),
        _ => ("open", "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0"),
    };
    format!("<path class=\"{class}\" d=\"M{x:.1} {y:.1}{path}\"/>")
}

#[cfg(test)]
mod tests {
    use super::super::{Axis, Reference};
    use super::*;

    fn chart() -> Chart {
        let point = Point { y_spread: Some(0.1), ..Point::at(1.0, 0.5) };
        let series = |name: &str, shape| Series {
            name: name.into(),
            shape,
            points: vec![Point::at(0.0, 0.25), point],
        };
        Chart {
            id: "eta".into(),
            title: "MAUVE <of> \"a\"".into(),
            description: "Two points".into(),
            notes: vec![],
            x: Axis::places("eta", vec!["0.1".into(), "1".into()]),
            y: Axis::linear("MAUVE"),
            series: vec![series("a", Shape::Line), series("b", Shape::Steps)],
            references: vec![Reference { name: "human".into(), at: At::Y(0.4) }],
        }
    }

    #[test]
    fn a_chart_has_its_names_marks_and_text_alternative() {
        let svg = chart().svg();
        assert!(svg.contains("role=\"img\" aria-labelledby=\"eta-t eta-d\""), "{svg}");
        assert!(svg.contains(
            "<title id=\"eta-t\">MAUVE &lt;of&gt; &quot;a&quot;</title><desc id=\"eta-d\">Two points</desc>"
        ));
        for text in [">eta<", ">MAUVE<", ">0.1<", ">human<", ">b<"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        // Two points and the legend's sample; one bar; steps have no marks.
        assert_eq!(svg.matches("class=\"mark\"").count(), 3);
        assert_eq!(svg.matches("class=\"bar\"").count(), 1);
        assert_eq!(svg.matches("class=\"ref\"").count(), 2);
        assert!(!svg.contains("<style") && !svg.contains("style="));
        assert!(chart().file().contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn values_without_a_place_are_left_out_and_nothing_is_drawn_of_nothing() {
        let mut chart = chart();
        chart.series[0].points.push(Point::at(0.0, f64::NAN));
        assert!(!chart.svg().contains("NaN"));
        chart.series.clear();
        chart.references.clear();
        assert!(!chart.svg().contains("NaN"));
    }
}
