//! Chooses the text column of a table.
use std::path::Path;

use crate::error::{Error, Result};

/// Usual names of a text column besides `text`, case-insensitive.
const USUAL: [&str; 7] = ["text", "content", "document", "story", "article", "sentence", "body"];
/// Columns that an error message lists at most.
const MAX_LISTED: usize = 12;

/// What is known about a column's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Text in at least one row.
    Text,
    /// Bytes that may be text.
    Bytes,
    /// No value in any row.
    Nothing,
    /// Something else, in the plural.
    Other(&'static str),
}

/// A column as the table describes it.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) holds: Holds,
}

/// Why a column was taken for the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Asked,
    Name,
    OnlyText,
    OnlyColumn,
}

impl Reason {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Asked => "asked for",
            Self::Name => "by its name",
            Self::OnlyText => "the only one that holds text",
            Self::OnlyColumn => "the only one",
        }
    }
}

/// The indices of the text columns, which are joined with a space, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) columns: Vec<usize>,
    pub(super) reason: Reason,
}

/// The requested columns, or those that names alone decide: `text`, else the only one with a [`USUAL`] name. `None` if the contents of the
/// columns must be examined.
pub(super) fn by_name(path: &Path, wanted: &[String], names: &[String]) -> Result<Option<Choice>> {
    let columns: Vec<Column> =
        names.iter().map(|name| Column { name: name.clone(), holds: Holds::Text }).collect();
    if !wanted.is_empty() {
        return choose(path, wanted, &columns).map(Some);
    }
    // If several have such a name, their contents may still decide.
    Ok(named(path, &columns).unwrap_or_default())
}

/// The text columns: the requested ones; else `text`; else, of those that hold text, the only one with a [`USUAL`] name; else the only one
/// that holds text.
pub(super) fn choose(path: &Path, wanted: &[String], columns: &[Column]) -> Result<Choice> {
    if !wanted.is_empty() {
        let columns: Result<Vec<usize>> = wanted.iter().map(|name| asked(path, name, columns)).collect();
        return Ok(Choice { columns: columns?, reason: Reason::Asked });
    }
    if let Some(choice) = named(path, columns)? {
        return Ok(choice);
    }
    let mut texts: Vec<usize> = holding(columns, Holds::Text);
    if texts.is_empty() {
        texts = holding(columns, Holds::Bytes);
    }
    match texts.as_slice() {
        [only] => {
            let reason = if columns.len() == 1 { Reason::OnlyColumn } else { Reason::OnlyText };
            Ok(Choice { columns: vec![*only], reason })
        }
        [] => Err(problem(path, "no column `text`, and none that holds text", columns)),
        _ => Err(problem(path, "no column `text`, and several candidates", columns)),
    }
}

fn asked(path: &Path, name: &str, columns: &[Column]) -> Result<usize> {
    let mut found = (0..columns.len()).filter(|&at| columns[at].name == name);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(problem(path, &format!("several columns are called `{name}`"), columns)),
        (Some(at), None) => match columns[at].holds {
            Holds::Other(what) => {
                let words = format!("column `{name}` does not hold text but {what}");
                Err(problem(path, &words, columns))
            }
            _ => Ok(at),
        },
        (None, _) => Err(problem(path, &format!("no column `{name}`"), columns)),
    }
}

fn named(path: &Path, columns: &[Column]) -> Result<Option<Choice>> {
    let choice = |at: usize| Ok(Some(Choice { columns: vec![at], reason: Reason::Name }));
    if columns.iter().any(|column| column.name == "text") {
        return choice(asked(path, "text", columns)?);
    }
    let usual: Vec<usize> = (0..columns.len())
        .filter(|&at| matches!(columns[at].holds, Holds::Text | Holds::Bytes))
        .filter(|&at| USUAL.contains(&columns[at].name.to_ascii_lowercase().as_str()))
        .collect();
    match usual.as_slice() {
        [only] => choice(*only),
        [] => Ok(None),
        _ => Err(problem(path, "no column `text`, and several candidates", columns)),
    }
}

fn holding(columns: &[Column], what: Holds) -> Vec<usize> {
    (0..columns.len()).filter(|&at| columns[at].holds == what).collect()
}

fn problem(path: &Path, problem: &str, columns: &[Column]) -> Error {
    Error::Column { path: path.into(), problem: format!("{problem} (it has {})", listed(columns)) }
}

fn listed(columns: &[Column]) -> String {
    if columns.is_empty() {
        return "none".to_owned();
    }
    let shown = |column: &Column| match column.holds {
        Holds::Text | Holds::Bytes => format!("`{}`", column.name),
        Holds::Nothing => format!("`{}`: empty", column.name),
        Holds::Other(what) => format!("`{}`: {what}", column.name),
    };
    let mut names: Vec<String> = columns.iter().take(MAX_LISTED).map(shown).collect();
    if columns.len() > MAX_LISTED {
        names.push(format!("{} more", columns.len() - MAX_LISTED));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;

    const TEXT: Holds = Holds::Text;
    const NUMBERS: Holds = Holds::Other("numbers");

    fn choose_of(wanted: &[&str], columns: &[(&str, Holds)]) -> Result<Choice> {
        let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
        let columns: Vec<_> =
            columns.iter().map(|&(name, holds)| Column { name: name.to_owned(), holds }).collect();
        choose(Path::new("t.csv"), &wanted, &columns)
    }

    fn chosen(wanted: &[&str], columns: &[(&str, Holds)]) -> (Vec<usize>, Reason) {
        let choice = choose_of(wanted, columns).unwrap();
        (choice.columns, choice.reason)
    }

    fn refused(wanted: &[&str], columns: &[(&str, Holds)]) -> String {
        choose_of(wanted, columns).unwrap_err().to_string()
    }

    #[test]
    fn names_come_before_content() {
        assert_eq!(chosen(&[], &[("id", TEXT), ("text", TEXT)]), (vec![1], Reason::Name));
        assert_eq!(chosen(&[], &[("body", TEXT), ("text", Holds::Nothing)]), (vec![1], Reason::Name));
        assert_eq!(chosen(&[], &[("id", TEXT), ("Content", TEXT)]), (vec![1], Reason::Name));
        assert_eq!(chosen(&[], &[("Text", TEXT), ("id", TEXT)]), (vec![0], Reason::Name));
        assert_eq!(chosen(&[], &[("body", NUMBERS), ("blurb", TEXT)]), (vec![1], Reason::OnlyText));
        assert_eq!(chosen(&[], &[("id", NUMBERS), ("blurb", TEXT)]), (vec![1], Reason::OnlyText));
        assert_eq!(chosen(&[], &[("image", Holds::Bytes), ("blurb", TEXT)]), (vec![1], Reason::OnlyText));
        assert_eq!(chosen(&[], &[("blurb", Holds::Bytes)]), (vec![0], Reason::OnlyColumn));
        assert_eq!(chosen(&["b", "a"], &[("a", TEXT), ("b", Holds::Nothing)]), (vec![1, 0], Reason::Asked));
    }

    #[test]
    fn doubt_is_an_error_that_lists_the_columns() {
        let error = choose_of(&[], &[("a", TEXT), ("b", TEXT), ("n", NUMBERS)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`t.csv`: no column `text`, and several candidates (it has `a`, `b`, `n`: numbers)"
        );
        assert!(error.hint().unwrap().contains("settings.text_column"));
        assert!(refused(&[], &[("story", TEXT), ("body", TEXT)]).contains("several candidates"));
        assert!(refused(&[], &[("a", NUMBERS)]).contains("none that holds text"));
        assert!(refused(&["x"], &[("a", TEXT)]).contains("no column `x`"));
        assert!(refused(&["a"], &[("a", NUMBERS)]).contains("`a` does not hold text but numbers"));
        assert!(refused(&["x"], &[]).contains("(it has none)"));
        assert!(
            refused(&[], &[("text", TEXT), ("text", TEXT)]).contains("several columns are called `text`")
        );
    }

    #[test]
    fn names_alone_may_leave_it_open() {
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).to_owned()).collect() };
        let by_name = |all: &[&str]| by_name(Path::new("t.csv"), &[], &names(all)).unwrap();
        assert_eq!(by_name(&["a", "b"]), None);
        assert_eq!(by_name(&["a", "Story"]).unwrap().columns, [1]);
    }
}
