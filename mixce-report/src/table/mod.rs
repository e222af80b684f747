//! Tables, and their forms: Markdown, CSV, LaTeX; the page has its own.

mod csv;
mod latex;
mod markdown;

use crate::names::signed;

/// How a note about tied cells begins, which LaTeX underlines.
pub(crate) const TIED: &str = "In italics:";

/// A table: a header, and rows that begin with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Name, unique in a report: the stem of its files and its anchor.
    pub id: String,
    /// What it holds.
    pub caption: String,
    /// The columns; the first one is that of the rows' names.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Remarks below it, in sentences.
    pub notes: Vec<String>,
}

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its header.
    pub name: String,
    /// Whether it is aligned right.
    pub is_number: bool,
    /// The header above it and its neighbours of the same group.
    pub group: Option<String>,
}

impl Column {
    /// A column of words.
    #[must_use]
    pub fn text(name: &str) -> Self {
        Self { name: name.to_owned(), is_number: false, group: None }
    }

    /// A column of numbers.
    #[must_use]
    pub fn number(name: &str) -> Self {
        Self { name: name.to_owned(), is_number: true, group: None }
    }

    /// Its header in forms that have no groups.
    pub(crate) fn full_name(&self) -> String {
        match &self.group {
            Some(group) => format!("{group} {}", self.name),
            None => self.name.clone(),
        }
    }
}

impl Table {
    /// The groups of columns, from the left, with the number of their columns; nothing if no column is in one.
    pub(crate) fn column_groups(&self) -> Vec<(Option<&str>, usize)> {
        if self.columns.iter().all(|column| column.group.is_none()) {
            return Vec::new();
        }
        let groups = self.columns.chunk_by(|a, b| a.group == b.group);
        groups.map(|columns| (columns[0].group.as_deref(), columns.len())).collect()
    }
}

/// A row: one cell for each column after the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its cells.
    pub cells: Vec<Cell>,
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What it holds.
    pub content: Content,
    /// Whether it stands out in its column.
    pub mark: Option<Mark>,
}

/// What a cell holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Nothing: not measured.
    Empty,
    /// Words.
    Text(String),
    /// A number.
    Number {
        /// The number.
        value: f64,
        /// Its standard deviation, if it is a mean of several.
        spread: Option<f64>,
        /// Digits after the point where it is shown.
        decimals: usize,
    },
    /// An interval.
    Interval {
        /// The number that it is the interval of, unless another column has it.
        estimate: Option<f64>,
        /// Its ends.
        ends: [f64; 2],
        /// Digits after the point where it is shown.
        decimals: usize,
    },
}

/// How a cell stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The best value of its column, or the closest to human.
    Best,
    /// Not distinguishable from the best.
    Tied,
}

impl Cell {
    /// A cell without a value.
    #[must_use]
    pub fn empty() -> Self {
        Self { content: Content::Empty, mark: None }
    }

    /// Words.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { content: Content::Text(text.into()), mark: None }
    }

    /// A number, with its standard deviation if it is a mean.
    #[must_use]
    pub fn number(value: f64, spread: Option<f64>, decimals: usize) -> Self {
        Self { content: Content::Number { value, spread, decimals }, mark: None }
    }

    /// The interval of a number, which is shown before it if it is given.
    #[must_use]
    pub fn interval(estimate: Option<f64>, ends: [f64; 2], decimals: usize) -> Self {
        Self { content: Content::Interval { estimate, ends, decimals }, mark: None }
    }

    /// What is shown, without its mark.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.content {
            Content::Empty => String::new(),
            Content::Text(text) => text.clone(),
            Content::Number { value, spread: None, decimals } => plain(*value, *decimals),
            Content::Number { value, spread: Some(spread), decimals } => {
                // One digit more for a small deviation, which would be shown as zero.
                let is_small = *spread > 0.0 && *spread < 10f64.powi(-(*decimals as i32));
                let places = if is_small { decimals + 1 } else { *decimals };
                format!("{} \u{b1} {spread:.places$}", plain(*value, *decimals))
            }
            Content::Interval { estimate: Some(estimate), ends, decimals } => {
                let [estimate, low, high] = [*estimate, ends[0], ends[1]].map(|x| fixed(x, *decimals));
                format!("{estimate} [{low}, {high}]")
            }
            // Of a difference: the signs are what it is about.
            Content::Interval { estimate: None, ends, decimals } => {
                let [low, high] = ends.map(|x| signed(x, *decimals));
                format!("[{low}, {high}]")
            }
        }
    }
}

/// Text with control characters as spaces, and those characters that `write` handles as it writes them.
fn escaped(text: &str, write: impl Fn(char, &mut String) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if !write(character, &mut escaped) {
            escaped.push(if character.is_control() { ' ' } else { character });
        }
    }
    escaped
}

/// A number with a real minus; a positive one that would be shown as zero as `<0.001`.
fn plain(value: f64, decimals: usize) -> String {
    let least = 10f64.powi(-(decimals as i32));
    if value > 0.0 && value < least / 2.0 {
        return format!("<{least:.decimals$}");
    }
    fixed(value, decimals)
}

fn fixed(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}").replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with everything that needs escaping.
    pub(super) fn table() -> Table {
        let marked = |cell: Cell, mark| Cell { mark: Some(mark), ..cell };
        Table {
            id: "t".into(),
            caption: "50% of a|b".into(),
            columns: vec![Column::text("system"), Column::number("MAUVE"), Column::text("note")],
            rows: vec![
                Row {
                    name: "MLE_1 & <b>".into(),
                    cells: vec![
                        marked(Cell::number(0.5, Some(0.0625), 3), Mark::Best),
                        Cell::text("say \"a, b\""),
                    ],
                },
                Row {
                    name: "x".into(),
                    cells: vec![marked(Cell::number(2.0, None, 1), Mark::Tied), Cell::empty()],
                },
            ],
            notes: vec!["A note_1.".into()],
        }
    }

    #[test]
    fn small_deviations_are_not_shown_as_zero() {
        assert_eq!(Cell::number(0.5, Some(0.0002), 3).shown(), "0.500 \u{b1} 0.0002");
        assert_eq!(Cell::number(0.5, Some(0.0), 3).shown(), "0.500 \u{b1} 0.000");
        assert_eq!(Cell::number(-0.04, None, 2).shown(), "\u{2212}0.04");
        assert_eq!(
            [0.0, 4e-5, 6e-5].map(|p| Cell::number(p, None, 4).shown()),
            ["0.0000", "<0.0001", "0.0001"]
        );
    }
}
