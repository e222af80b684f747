//! Charts as SVG that follow the page's colours.
//!
//! Lines, marks and texts have classes instead of colours, so that one drawing serves light and dark pages and print; a file of its own carries
//! [`STYLE`]. Every series has a colour, a mark and a dash pattern of its own, so none depends on colour alone. `<title>` and `<desc>` are the
//! text alternative, and [`Chart::numbers`] gives the drawn numbers as a table.

mod draw;
mod numbers;
mod scale;

/// The rules that the classes of a chart need, for light and dark.
pub const STYLE: &str = include_str!("chart.css");

/// A chart with two axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Name, unique in a report: the stem of its file and the anchor of its figure.
    pub id: String,
    /// What it shows.
    pub title: String,
    /// What can be seen in it, in sentences, for readers who do not see it.
    pub description: String,
    /// Remarks below it.
    pub notes: Vec<String>,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series, in the order of the legend.
    pub series: Vec<Series>,
    /// Lines across the whole chart, such as the human value.
    pub references: Vec<Reference>,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it measures, with its unit.
    pub label: String,
    /// Names of evenly spaced places; without any, the axis has a linear scale.
    pub places: Vec<String>,
    /// Whether the scale begins at zero.
    pub from_zero: bool,
}

impl Axis {
    /// A linear scale.
    #[must_use]
    pub fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), places: Vec::new(), from_zero: false }
    }

    /// A linear scale from zero.
    #[must_use]
    pub fn from_zero(label: impl Into<String>) -> Self {
        Self { from_zero: true, ..Self::linear(label) }
    }

    /// Named places; a point's coordinate is the index of its place.
    #[must_use]
    pub fn places(label: impl Into<String>, places: Vec<String>) -> Self {
        Self { places, ..Self::linear(label) }
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Marks with a line through them.
    Line,
    /// A line without marks, for many points.
    Curve,
    /// Marks alone.
    Marks,
    /// The outline of a histogram: a point is the left edge of a bin and its height, the last one the right edge of the last bin.
    Steps,
    /// Bars from zero, side by side at each place.
    Bars,
}

/// A series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// How it is drawn.
    pub shape: Shape,
    /// Its points, in the order of the line.
    pub points: Vec<Point>,
}

/// A point.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Horizontal coordinate.
    pub x: f64,
    /// Vertical coordinate.
    pub y: f64,
    /// Half the width of a horizontal bar, such as a standard deviation.
    pub x_spread: Option<f64>,
    /// Half the height of a vertical bar.
    pub y_spread: Option<f64>,
    /// The ends of a vertical bar that is not symmetric, such as an interval.
    pub y_interval: Option<[f64; 2]>,
}

impl Point {
    /// A point without spread.
    #[must_use]
    pub fn at(x: f64, y: f64) -> Self {
        Self { x, y, ..Self::default() }
    }
}

/// A line across the chart.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Its name in the legend.
    pub name: String,
    /// Where it is.
    pub at: At,
}

/// A coordinate of a line across the chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// A vertical line.
    X(f64),
    /// A horizontal line.
    Y(f64),
}
