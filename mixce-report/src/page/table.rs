//! Tables as HTML.

use std::fmt::Write as _;

use super::escape::html;
use crate::table::{Cell, Column, Content, Mark, Table};

/// The table in a region that scrolls by itself on narrow screens, with its notes.
pub(super) fn table(table: &Table) -> String {
    let id = html(&table.id);
    let mut text = format!(
        "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-labelledby=\"{id}-caption\"><table id=\"{id}\"><caption id=\"{id}-caption\">{}</caption><thead>",
        html(&table.caption)
    );
    text += &group_row(table);
    text.push_str("<tr>");
    for column in &table.columns {
        let _ = write!(text, "<th scope=\"col\"{}>{}</th>", class_of(column), html(&column.name));
    }
    text.push_str("</tr></thead><tbody>\n");
    for row in &table.rows {
        let _ = write!(text, "<tr><th scope=\"row\">{}</th>", html(&row.name));
        for (cell, column) in row.cells.iter().zip(table.columns.iter().skip(1)) {
            let _ = write!(text, "<td{}>{}</td>", class(cell, column), content(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
    for note in &table.notes {
        let _ = writeln!(text, "<p class=\"small\">{}</p>", html(note));
    }
    text
}

/// The header of the groups of columns.
fn group_row(table: &Table) -> String {
    let groups = table.column_groups();
    if groups.is_empty() {
        return String::new();
    }
    let cell = |(name, count): (Option<&str>, usize)| match name {
        Some(name) => format!("<th scope=\"colgroup\" colspan=\"{count}\">{}</th>", html(name)),
        None => format!("<td colspan=\"{count}\"></td>"),
    };
    format!("<tr class=\"groups\">{}</tr>", groups.into_iter().map(cell).collect::<String>())
}

fn class_of(column: &Column) -> &'static str {
    if column.is_number { " class=\"number\"" } else { "" }
}

fn class(cell: &Cell, column: &Column) -> &'static str {
    match cell.content {
        Content::Text(_) if !column.is_number => " class=\"words\"",
        _ => class_of(column),
    }
}

fn content(cell: &Cell) -> String {
    let shown = html(&cell.shown());
    match (&cell.content, cell.mark) {
        (Content::Empty, _) => "<span class=\"hidden\">none</span>".to_owned(),
        (_, Some(Mark::Best)) => format!("<strong>{shown}</strong><span class=\"hidden\"> (best)</span>"),
        (_, Some(Mark::Tied)) => {
            format!("<em>{shown}</em><span class=\"hidden\"> (tied with the best)</span>")
        }
        (_, None) => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Row;

    #[test]
    fn headers_have_a_scope_and_marks_are_said_too() {
        let best = Cell { mark: Some(Mark::Best), ..Cell::number(0.5, None, 2) };
        let made = table(&Table {
            id: "a".into(),
            caption: "A & B".into(),
            columns: vec![
                Column::text("system"),
                Column { group: Some("<wiki>".into()), ..Column::number("MAUVE") },
                Column::text("note"),
            ],
            rows: vec![Row { name: "<mle>".into(), cells: vec![best, Cell::empty()] }],
            notes: vec!["Bold: best.".into()],
        });
        for expected in [
            "<caption id=\"a-caption\">A &amp; B</caption>",
            "<th scope=\"col\" class=\"number\">MAUVE</th>",
            "<th scope=\"row\">&lt;mle&gt;</th><td class=\"number\"><strong>0.50</strong><span class=\"hidden\"> (best)</span></td>",
            "aria-labelledby=\"a-caption\"",
            "<p class=\"small\">Bold: best.</p>",
            "<thead><tr class=\"groups\"><td colspan=\"1\"></td><th scope=\"colgroup\" colspan=\"1\">&lt;wiki&gt;</th><td colspan=\"1\"></td></tr><tr>",
        ] {
            assert!(made.contains(expected), "{expected}\n{made}");
        }
    }
}
