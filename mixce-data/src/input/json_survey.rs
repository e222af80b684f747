//! Finds the text keys of a JSON file by scanning all rows.
use std::collections::HashMap;

use super::column::{Column, Holds, Reason, choose};
use super::json_row::{Kind, kinds, without_words};
use super::json_values::Values;
use crate::error::{Error, Result};

/// Maximum number of distinct keys. A file with more is not a table.
const MAX_KEYS: usize = 4096;

/// What the rows hold under one key.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    text: bool,
    other: Option<Kind>,
}

/// Finds the keys of the text. Every row counts, so that their order does not matter; the one exception, a row that has the key `text`, settles
/// it at once. Rows that cannot be parsed say nothing here: they are bad rows when the file is read.
///
/// `None` for the reason, and no keys, if the file has no rows, or samples only (where `whole_samples`).
pub(super) fn survey(mut values: Values, whole_samples: bool) -> Result<(Vec<String>, Option<Reason>)> {
    let path = values.path().to_owned();
    let mut keys = Keys::default();
    let (mut rows, mut samples) = (0u64, 0u64);
    loop {
        let value = match values.next_value() {
            Ok(Some(value)) => value,
            Ok(None) => break,
            Err(error) if error.is_bad_row() => continue,
            // This ends the reading too, and is reported there.
            Err(Error::LostRows(_)) => break,
            Err(error) => return Err(error),
        };
        if Kind::of(value.bytes) != Kind::Object || std::str::from_utf8(value.bytes).is_err() {
            continue;
        }
        let Ok(row) = kinds(&without_words(value.bytes, &value.words)) else { continue };
        rows += 1;
        let has = |key: &str| row.iter().any(|(name, kind)| name == key && *kind != Kind::Null);
        if whole_samples && (has("prompt") || has("continuation")) {
            samples += 1;
            continue;
        }
        if row.iter().any(|(key, _)| key == "text") {
            return Ok((vec!["text".to_owned()], Some(Reason::Name)));
        }
        keys.add(row);
    }
    if rows == samples {
        return Ok((Vec::new(), None));
    }
    let columns = keys.columns();
    let choice = choose(&path, &[], &columns);
    if rows == 1
        && !matches!(&choice, Ok(choice) if choice.reason == Reason::Name)
        && let Some(key) = keys.list_of_rows()
    {
        return Err(Error::NestedRows { path, key });
    }
    if keys.are_too_many {
        let problem = format!("no key `text`, and more than {MAX_KEYS} different keys");
        return Err(Error::Column { path, problem });
    }
    let choice = choice?;
    let names = choice.columns.into_iter().map(|at| columns[at].name.clone()).collect();
    Ok((names, Some(choice.reason)))
}

/// All keys, in the order in which they turn up.
#[derive(Debug, Default)]
struct Keys {
    names: Vec<String>,
    seen: Vec<Seen>,
    index: HashMap<String, usize>,
    are_too_many: bool,
}

impl Keys {
    fn add(&mut self, row: Vec<(String, Kind)>) {
        for (key, kind) in row {
            let at = match self.index.get(&key) {
                Some(&at) => at,
                None if self.names.len() == MAX_KEYS => {
                    self.are_too_many = true;
                    continue;
                }
                None => {
                    self.index.insert(key.clone(), self.names.len());
                    self.names.push(key);
                    self.seen.push(Seen::default());
                    self.names.len() - 1
                }
            };
            match kind {
                Kind::Null => {}
                Kind::String => self.seen[at].text = true,
                other => self.seen[at].other = self.seen[at].other.max(Some(other)),
            }
        }
    }

    /// The columns by their names, so that the order of the rows does not show.
    fn columns(&self) -> Vec<Column> {
        let holds = |seen: &Seen| match (seen.text, seen.other) {
            (true, _) => Holds::Text,
            (false, None) => Holds::Nothing,
            (false, Some(kind)) => Holds::Other(plural(kind)),
        };
        let mut columns: Vec<Column> = self
            .names
            .iter()
            .zip(&self.seen)
            .map(|(name, seen)| Column { name: name.clone(), holds: holds(seen) })
            .collect();
        columns.sort_by(|a, b| a.name.cmp(&b.name));
        columns
    }

    fn list_of_rows(&self) -> Option<String> {
        let at = self.seen.iter().position(|seen| seen.other == Some(Kind::Objects))?;
        Some(self.names[at].clone())
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Null => "nulls",
        Kind::Boolean => "booleans",
        Kind::Number => "numbers",
        Kind::String => "strings",
        Kind::Array => "arrays",
        Kind::Objects => "arrays of objects",
        Kind::Object => "objects",
    }
}
