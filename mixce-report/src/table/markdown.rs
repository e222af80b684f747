//! Markdown.

use std::fmt::Write as _;

use super::{Cell, Mark, Table};

impl Table {
    /// The table in GitHub's Markdown: caption, table, notes. The best value is bold, tied ones are in italics.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("**{}**\n\n", escaped(&self.caption));
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        text += &line(self.columns.iter().map(|column| escaped(&column.full_name())).collect());
        text +=
            &line(self.columns.iter().map(|c| if c.is_number { "---:" } else { "---" }.to_owned()).collect());
        for row in &self.rows {
            let cells = std::iter::once(escaped(&row.name)).chain(row.cells.iter().map(cell));
            text += &line(cells.collect());
        }
        for note in &self.notes {
            let _ = write!(text, "\n{}\n", escaped(note));
        }
        text
    }
}

fn cell(cell: &Cell) -> String {
    let shown = escaped(&cell.shown());
    match cell.mark {
        Some(Mark::Best) => format!("**{shown}**"),
        Some(Mark::Tied) => format!("*{shown}*"),
        None => shown,
    }
}

/// Text that Markdown shows as it is, on one line.
fn escaped(text: &str) -> String {
    super::escaped(text, |character, escaped| {
        let is_markup = "\\|*_`<>[]#~&".contains(character);
        if is_markup {
            escaped.extend(['\\', character]);
        }
        is_markup
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn cells_are_marked_and_escaped() {
        assert_eq!(
            super::super::tests::table().markdown(),
            "**50% of a\\|b**\n\n\
             | system | MAUVE | note |\n\
             | --- | ---: | --- |\n\
             | MLE\\_1 \\& \\<b\\> | **0.500 \u{b1} 0.062** | say \"a, b\" |\n\
             | x | *2.0* |  |\n\
             \nA note\\_1.\n"
        );
    }
}
