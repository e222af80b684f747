//! LaTeX.

use std::fmt::Write as _;

use super::{Cell, Content, Mark, Table};

impl Table {
    /// A `table` for `\input` in a paper with the package `booktabs`. The best value is bold, tied ones are underlined; deviations are
    /// subscripts.
    #[must_use]
    pub fn latex(&self) -> String {
        let alignment: String =
            self.columns.iter().map(|column| if column.is_number { 'r' } else { 'l' }).collect();
        let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let mut text =
            format!("\\begin{{table}}[t]\n\\centering\n\\begin{{tabular}}{{{alignment}}}\n\\toprule\n");
        text += &line(self.columns.iter().map(|column| escaped(&column.name)).collect());
        text += "\\midrule\n";
        for row in &self.rows {
            let cells = std::iter::once(escaped(&row.name)).chain(row.cells.iter().map(cell));
            text += &line(cells.collect());
        }
        text += "\\bottomrule\n\\end{tabular}\n";
        let caption =
            std::iter::once(&self.caption).chain(&self.notes).map(|part| escaped(part.trim_end_matches('.')));
        let caption = caption.collect::<Vec<_>>().join(". ");
        let _ = write!(text, "\\caption{{{caption}.}}\n\\label{{tab:{}}}\n\\end{{table}}\n", self.id);
        text
    }
}

fn cell(cell: &Cell) -> String {
    let shown = match &cell.content {
        Content::Number { spread: Some(_), .. } => {
            let shown = cell.shown();
            let (value, spread) = shown.split_once(" \u{b1} ").unwrap_or((&shown, ""));
            format!("{}$_{{\\pm {spread}}}$", minus(value))
        }
        Content::Number { .. } => minus(&cell.shown()),
        _ => escaped(&cell.shown()),
    };
    match cell.mark {
        Some(Mark::Best) => format!("\\textbf{{{shown}}}"),
        Some(Mark::Tied) => format!("\\underline{{{shown}}}"),
        None => shown,
    }
}

/// A number whose signs are those of mathematics.
fn minus(number: &str) -> String {
    number.replace('\u{2212}', "$-$").replace('<', "$<$")
}

/// Text that LaTeX shows as it is.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(character);
            }
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '<' => escaped.push_str("$<$"),
            '>' => escaped.push_str("$>$"),
            '|' => escaped.push_str("$|$"),
            '\u{b1}' => escaped.push_str("$\\pm$"),
            '\u{2212}' => escaped.push_str("$-$"),
            '\u{201c}' => escaped.push_str("``"),
            '\u{201d}' => escaped.push_str("''"),
            _ if character.is_control() => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #[test]
    fn cells_are_marked_and_escaped() {
        assert_eq!(
            super::super::tests::table().latex(),
            "\\begin{table}[t]\n\\centering\n\\begin{tabular}{lrl}\n\\toprule\n\
             system & MAUVE & note \\\\\n\\midrule\n\
             MLE\\_1 \\& $<$b$>$ & \\textbf{0.500$_{\\pm 0.062}$} & say \"a, b\" \\\\\n\
             x & \\underline{2.0} &  \\\\\n\
             \\bottomrule\n\\end{tabular}\n\
             \\caption{50\\% of a$|$b. A note\\_1.}\n\\label{tab:t}\n\\end{table}\n"
        );
    }
}
