//! Which column of a table is the text.
use std::path::Path;

use crate::error::{Error, Result};

/// Names that a text column usually has, besides `text`.
const USUAL: [&str; 6] = ["content", "document", "story", "article", "sentence", "body"];
/// Columns that an error message lists at most.
const MAX_LISTED: usize = 12;

/// A column as the table describes it.
#[derive(Clone, Debug)]
pub(super) struct Column<'a> {
    pub(super) name: &'a str,
    /// Whether it holds strings, as far as is known.
    pub(super) is_text: bool,
}

/// The positions of the columns that make up the text.
///
/// Those that were asked for; else `text`; else the only column that holds strings; else the only one with a [`USUAL`] name.
pub(super) fn choose(path: &Path, wanted: &[String], columns: &[Column<'_>]) -> Result<Vec<usize>> {
    let problem = |problem: String| Error::Column {
        path: path.into(),
        problem: format!("{problem} (it has {})", listed(columns)),
    };
    let find = |name: &str| columns.iter().position(|column| column.name == name);
    if !wanted.is_empty() {
        let position = |name: &String| match find(name) {
            Some(at) if columns[at].is_text => Ok(at),
            Some(_) => Err(problem(format!("column `{name}` does not hold text"))),
            None => Err(problem(format!("no column `{name}`"))),
        };
        return wanted.iter().map(position).collect();
    }
    if let Some(at) = find("text") {
        return Ok(vec![at]);
    }
    let texts: Vec<usize> = (0..columns.len()).filter(|&i| columns[i].is_text).collect();
    if let [only] = texts.as_slice() {
        return Ok(vec![*only]);
    }
    let usual: Vec<usize> = texts
        .iter()
        .copied()
        .filter(|&i| USUAL.contains(&columns[i].name.to_ascii_lowercase().as_str()))
        .collect();
    match usual.as_slice() {
        [only] => Ok(vec![*only]),
        _ if texts.is_empty() => Err(problem("no column `text`, and none that holds text".into())),
        _ => Err(problem("no column `text`, and several that may be meant".into())),
    }
}

fn listed(columns: &[Column<'_>]) -> String {
    if columns.is_empty() {
        return "none".to_owned();
    }
    let mut names: Vec<String> = columns.iter().take(MAX_LISTED).map(|c| format!("`{}`", c.name)).collect();
    if columns.len() > MAX_LISTED {
        names.push(format!("{} more", columns.len() - MAX_LISTED));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose_of(wanted: &[&str], columns: &[(&str, bool)]) -> Result<Vec<usize>> {
        let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
        let columns: Vec<_> = columns.iter().map(|&(name, is_text)| Column { name, is_text }).collect();
        choose(Path::new("t.csv"), &wanted, &columns)
    }

    #[test]
    fn the_text_is_found() {
        assert_eq!(choose_of(&[], &[("id", true), ("text", true)]).unwrap(), [1]);
        assert_eq!(choose_of(&[], &[("id", false), ("blurb", true)]).unwrap(), [1]);
        assert_eq!(choose_of(&[], &[("id", true), ("Content", true)]).unwrap(), [1]);
        assert_eq!(choose_of(&["b", "a"], &[("a", true), ("b", true)]).unwrap(), [1, 0]);
    }

    #[test]
    fn doubt_is_an_error_that_lists_the_columns() {
        let error = choose_of(&[], &[("a", true), ("b", true)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`t.csv`: no column `text`, and several that may be meant (it has `a`, `b`)"
        );
        assert!(error.hint().unwrap().contains("--text-column"));
        assert!(choose_of(&[], &[("story", true), ("body", true)]).is_err());
        assert!(choose_of(&[], &[("a", false)]).unwrap_err().to_string().contains("none that holds text"));
        assert!(choose_of(&["x"], &[("a", true)]).unwrap_err().to_string().contains("no column `x`"));
        assert!(choose_of(&["a"], &[("a", false)]).unwrap_err().to_string().contains("does not hold text"));
        assert!(choose_of(&["x"], &[]).unwrap_err().to_string().contains("(it has none)"));
    }
}
