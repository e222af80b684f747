//! CSV.

use super::{Content, Table};

impl Table {
    /// The table as CSV (RFC 4180) with all digits: a column with standard deviations is followed by one of them, `NAME std`. No caption, no
    /// notes, no marks.
    #[must_use]
    pub fn csv(&self) -> String {
        let has_spread = |index: usize| {
            let mut cells = self.rows.iter().filter_map(|row| row.cells.get(index));
            cells.any(|cell| matches!(cell.content, Content::Number { spread: Some(_), .. }))
        };
        let spreads: Vec<bool> = (1..self.columns.len()).map(|column| has_spread(column - 1)).collect();
        let mut header = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            header.push(column.full_name());
            if index > 0 && spreads[index - 1] {
                header.push(format!("{} std", column.full_name()));
            }
        }
        let mut text = line(&header);
        for row in &self.rows {
            let mut fields = vec![row.name.clone()];
            for (cell, has_spread) in row.cells.iter().zip(&spreads) {
                let (value, spread) = match &cell.content {
                    Content::Empty => (String::new(), None),
                    Content::Text(text) => (text.clone(), None),
                    Content::Number { value, spread, .. } => (value.to_string(), *spread),
                };
                fields.push(value);
                if *has_spread {
                    fields.push(spread.map(|spread| spread.to_string()).unwrap_or_default());
                }
            }
            text += &line(&fields);
        }
        text
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
    #[test]
    fn numbers_have_all_digits_and_deviations_a_column() {
        assert_eq!(
            super::super::tests::table().csv(),
            "system,MAUVE,MAUVE std,note\r\nMLE_1 & <b>,0.5,0.0625,\"say \"\"a, b\"\"\"\r\nx,2,,\r\n"
        );
    }
}
