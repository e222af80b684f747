//! LaTeX.

use std::fmt::Write as _;

use super::{Cell, Content, Mark, TIED, Table};

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
        text += &self.latex_groups();
        text += &line(self.columns.iter().map(|column| escaped(&column.name)).collect());
        text += "\\midrule\n";
        for row in &self.rows {
            let cells = std::iter::once(first(&row.name)).chain(row.cells.iter().map(cell));
            text += &line(cells.collect());
        }
        text += "\\bottomrule\n\\end{tabular}\n";
        let caption =
            std::iter::once(&self.caption).chain(&self.notes).map(|part| escaped(part.trim_end_matches('.')));
        let caption = caption.collect::<Vec<_>>().join(". ").replace(TIED, "Underlined:");
        let _ = write!(text, "\\caption{{{caption}.}}\n\\label{{tab:{}}}\n\\end{{table}}\n", self.id);
        text
    }
}

impl Table {
    /// The header of the groups of columns, with a rule below each.
    fn latex_groups(&self) -> String {
        let groups = self.column_groups();
        if groups.is_empty() {
            return String::new();
        }
        let (mut cells, mut rules, mut first) = (Vec::new(), Vec::new(), 1);
        for (name, count) in groups {
            match name {
                Some(name) => {
                    cells.push(format!("\\multicolumn{{{count}}}{{c}}{{{}}}", escaped(name)));
                    rules.push(format!("\\cmidrule(lr){{{first}-{}}}", first + count - 1));
                }
                None => cells.extend(vec![String::new(); count]),
            }
            first += count;
        }
        format!("{} \\\\\n{}\n", cells.join(" & "), rules.join(" "))
    }
}

/// The beginning of a row. The end of the row before it would take a bracket or an asterisk for its own argument.
fn first(name: &str) -> String {
    let protection = if name.starts_with(['[', '*']) { "{}" } else { "" };
    protection.to_owned() + &escaped(name)
}

fn cell(cell: &Cell) -> String {
    let shown = match &cell.content {
        Content::Number { spread: Some(_), .. } => {
            let shown = cell.shown();
            let (value, spread) = shown.split_once(" \u{b1} ").unwrap_or((&shown, ""));
            format!("{}$_{{\\pm {spread}}}$", minus(value))
        }
        Content::Number { .. } => minus(&cell.shown()),
        Content::Interval { .. } => minus(&cell.shown()),
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
    super::escaped(text, |character, escaped| {
        let shown = match character {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                escaped.extend(['\\', character]);
                return true;
            }
            '\\' => "\\textbackslash{}",
            '~' => "\\textasciitilde{}",
            '^' => "\\textasciicircum{}",
            '<' => "$<$",
            '>' => "$>$",
            '|' => "$|$",
            '\u{b1}' => "$\\pm$",
            '\u{2212}' => "$-$",
            '\u{201c}' => "``",
            '\u{201d}' => "''",
            _ => return false,
        };
        escaped.push_str(shown);
        true
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_row_does_not_begin_with_an_argument_of_the_one_before() {
        assert_eq!(["[a]", "*", "a[b]"].map(super::first), ["{}[a]", "{}*", "a[b]"]);
    }

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
