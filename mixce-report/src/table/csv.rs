//! CSV.

use super::{Column, Content, Table};

impl Table {
    /// The table as CSV (RFC 4180) with all digits: a column with standard deviations is followed by one of them, `NAME std`, and that of an
    /// interval becomes `NAME low` and `NAME high`. No caption, no notes, no marks.
    #[must_use]
    pub fn csv(&self) -> String {
        let parts: Vec<Vec<Part>> = (1..self.columns.len()).map(|column| self.parts(column - 1)).collect();
        let mut header: Vec<String> = self.columns.first().map(Column::full_name).into_iter().collect();
        for (column, parts) in self.columns.iter().skip(1).zip(&parts) {
            header.extend(parts.iter().map(|part| format!("{}{}", column.full_name(), part.suffix())));
        }
        let mut text = line(&header);
        for row in &self.rows {
            let mut fields = vec![row.name.clone()];
            for (cell, parts) in row.cells.iter().zip(&parts) {
                fields.extend(parts.iter().map(|part| part.of(&cell.content)));
            }
            text += &line(&fields);
        }
        text
    }

    /// What the cells of a column consist of.
    fn parts(&self, index: usize) -> Vec<Part> {
        let cells = || self.rows.iter().filter_map(|row| row.cells.get(index)).map(|cell| &cell.content);
        let has = |part: &Part| cells().any(|content| !part.of(content).is_empty());
        let found: Vec<Part> = Part::ALL.into_iter().filter(has).collect();
        if found.is_empty() { vec![Part::Value] } else { found }
    }
}

/// A column of the file.
#[derive(Clone, Copy)]
enum Part {
    Value,
    Spread,
    Low,
    High,
}

impl Part {
    const ALL: [Self; 4] = [Self::Value, Self::Spread, Self::Low, Self::High];

    fn suffix(self) -> &'static str {
        match self {
            Self::Value => "",
            Self::Spread => " std",
            Self::Low => " low",
            Self::High => " high",
        }
    }

    /// This part of a cell; empty if it has none.
    fn of(self, content: &Content) -> String {
        let number = match (self, content) {
            (Self::Value, Content::Text(text)) => return text.clone(),
            (Self::Value, Content::Number { value, .. }) => Some(*value),
            (Self::Spread, Content::Number { spread, .. }) => *spread,
            (Self::Value, Content::Interval { estimate, .. }) => *estimate,
            (Self::Low, Content::Interval { ends, .. }) => Some(ends[0]),
            (Self::High, Content::Interval { ends, .. }) => Some(ends[1]),
            _ => None,
        };
        number.map(|number| number.to_string()).unwrap_or_default()
    }
}

fn line(fields: &[String]) -> String {
    let field = |field: &String| match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    let fields: Vec<String> = fields.iter().map(field).collect();
    format!("{}\r\n", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::super::{Cell, Row};
    use super::*;

    #[test]
    fn intervals_are_numbers_too() {
        let row = |name: &str, cells: Vec<Cell>| Row { name: name.into(), cells };
        let table = Table {
            columns: vec![Column::text("pair"), Column::number("wins"), Column::number("interval")],
            rows: vec![
                row(
                    "a",
                    vec![
                        Cell::interval(Some(0.5), [0.25, 0.75], 2),
                        Cell::interval(None, [-0.012_345, 0.5], 3),
                    ],
                ),
                row("b", vec![Cell::number(0.125, None, 2), Cell::empty()]),
            ],
            ..super::super::tests::table()
        };
        assert_eq!(
            table.csv(),
            "pair,wins,wins low,wins high,interval low,interval high\r\na,0.5,0.25,0.75,-0.012345,0.5\r\nb,0.125,,,,\r\n"
        );
        let shown: Vec<String> = table.rows[0].cells.iter().map(Cell::shown).collect();
        assert_eq!(shown, ["0.50 [0.25, 0.75]", "[\u{2212}0.012, +0.500]"]);
        assert!(
            table.latex().contains("a & 0.50 [0.25, 0.75] & [$-$0.012, +0.500] \\\\\n"),
            "{}",
            table.latex()
        );
    }

    #[test]
    fn numbers_have_all_digits_and_deviations_a_column() {
        assert_eq!(
            super::super::tests::table().csv(),
            "system,MAUVE,MAUVE std,note\r\nMLE_1 & <b>,0.5,0.0625,\"say \"\"a, b\"\"\"\r\nx,2,,\r\n"
        );
    }
}
