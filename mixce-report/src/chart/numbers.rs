//! The numbers of a chart as a table: its text alternative.

use super::{At, Chart, Point, Shape};
use crate::table::{Cell, Column, Row, Table};

/// A longer table is thinned: it repeats a curve, and nobody reads it line by line.
const MAX_ROWS: usize = 24;

impl Chart {
    /// A row for each place of the horizontal axis, a column for each series. Of more than 24 places, 24 evenly spaced ones.
    #[must_use]
    pub fn numbers(&self) -> Table {
        let is_scatter = self.series.iter().all(|series| series.shape == Shape::Marks);
        let mut table = if is_scatter { self.points() } else { self.by_place() };
        for reference in &self.references {
            let (axis, at) = match reference.at {
                At::X(at) => (&self.x, at),
                At::Y(at) => (&self.y, at),
            };
            table.notes.push(format!(
                "Line \u{201c}{}\u{201d}: {} = {}.",
                reference.name,
                axis.label,
                short(at)
            ));
        }
        table
    }

    /// One row for each point.
    fn points(&self) -> Table {
        let columns =
            vec![Column::text("system"), Column::number(&self.x.label), Column::number(&self.y.label)];
        let of_series =
            self.series.iter().flat_map(|series| series.points.iter().map(move |point| (series, point)));
        let rows = of_series.map(|(series, point)| {
            let cells = [with_spread(point.x, point.x_spread), with_spread(point.y, point.y_spread)]
                .map(Cell::text)
                .to_vec();
            Row { name: series.name.clone(), cells }
        });
        self.table(columns, rows.collect())
    }

    fn by_place(&self) -> Table {
        let all = self.series.iter().flat_map(|series| &series.points).map(|point| point.x);
        let mut places: Vec<f64> = all.filter(|x| x.is_finite()).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let n = places.len();
        let shown: Vec<f64> = match n {
            0..=MAX_ROWS => places,
            _ => (0..MAX_ROWS).map(|i| places[i * (n - 1) / (MAX_ROWS - 1)]).collect(),
        };
        let mut columns = vec![Column::text(&self.x.label)];
        columns.extend(self.series.iter().map(|series| Column::number(&series.name)));
        let row = |x: &f64| {
            let cells = self.series.iter().map(|series| {
                // A histogram begins with a step from zero at its first edge.
                let found = series.points.iter().rfind(|point| point.x == *x);
                found.map_or_else(Cell::empty, |point| Cell::text(of_point(point)))
            });
            let name = self.x.places.get(x.round() as usize).cloned().unwrap_or_else(|| short(*x));
            Row { name, cells: cells.collect() }
        };
        let mut table = self.table(columns, shown.iter().map(row).collect());
        if n > MAX_ROWS {
            table.notes.push(format!("{MAX_ROWS} of {n} places."));
        }
        table
    }

    fn table(&self, columns: Vec<Column>, rows: Vec<Row>) -> Table {
        let caption = format!("Numbers of the figure: {}", self.title);
        Table { id: format!("{}-numbers", self.id), caption, columns, rows, notes: Vec::new() }
    }
}

/// The vertical coordinate, with its interval or spread.
fn of_point(point: &Point) -> String {
    match point.y_interval {
        Some([low, high]) => format!("{} [{}, {}]", short(point.y), short(low), short(high)),
        None => with_spread(point.y, point.y_spread),
    }
}

fn with_spread(value: f64, spread: Option<f64>) -> String {
    match spread {
        Some(spread) => format!("{} \u{b1} {}", short(value), short(spread)),
        None => short(value),
    }
}

/// Four significant digits.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let decimals = (3.0 - value.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::{Axis, Reference, Series};
    use super::*;

    fn series(name: &str, shape: Shape, points: Vec<Point>) -> Series {
        Series { name: name.into(), shape, points }
    }

    fn chart(series: Vec<Series>) -> Chart {
        Chart {
            id: "c".into(),
            title: "t".into(),
            description: String::new(),
            notes: vec![],
            x: Axis::linear("step"),
            y: Axis::linear("nll"),
            series,
            references: vec![Reference { name: "human".into(), at: At::Y(2.5) }],
        }
    }

    fn texts(row: &Row) -> Vec<String> {
        std::iter::once(row.name.clone()).chain(row.cells.iter().map(Cell::shown)).collect()
    }

    #[test]
    fn series_are_side_by_side_and_long_ones_thinned() {
        let long = (0..100).map(|i| Point::at(f64::from(i), 1.0 / f64::from(i + 1))).collect();
        let one = vec![Point { y_spread: Some(0.05), ..Point::at(99.0, 1234.5) }];
        let table = chart(vec![series("a", Shape::Curve, long), series("b", Shape::Line, one)]).numbers();
        assert_eq!(table.rows.len(), 24);
        assert_eq!(texts(&table.rows[0]), ["0", "1", ""]);
        assert_eq!(texts(&table.rows[23]), ["99", "0.01", "1234 \u{b1} 0.05"]);
        assert_eq!(table.notes, ["24 of 100 places.", "Line \u{201c}human\u{201d}: nll = 2.5."]);
    }

    #[test]
    fn a_scatter_has_a_row_for_each_point() {
        let table = chart(vec![series("mle", Shape::Marks, vec![Point::at(0.5, 0.25)])]).numbers();
        assert_eq!(texts(&table.rows[0]), ["mle", "0.5", "0.25"]);
    }
}
