//! JSON lines: one object a line, the text under a key.
use serde_json::{Map, Value};

use super::column::{Column, choose};
use super::lines::Lines;
use super::{Row, Rows};
use crate::error::{Error, Place, Result};

/// The objects of a file. Blank lines are empty documents.
pub(super) struct JsonLinesRows {
    lines: Lines,
    wanted: Vec<String>,
    whole_samples: bool,
    /// The keys that make up the text, once they are known.
    keys: Vec<String>,
}

impl JsonLinesRows {
    pub(super) fn new(lines: Lines, wanted: &[String], whole_samples: bool) -> Self {
        let whole_samples = whole_samples && wanted.is_empty();
        Self { lines, wanted: wanted.to_vec(), whole_samples, keys: wanted.to_vec() }
    }

    fn bad(&self, problem: String) -> Error {
        Error::bad_row(self.lines.path(), Place::Line(self.lines.line()), problem)
    }

    fn text_of(&mut self, row: &str) -> Result<String> {
        let value: Value =
            serde_json::from_str(row).map_err(|error| self.bad(format!("not a JSON value ({error})")))?;
        let Value::Object(object) = value else {
            return Err(self.bad(format!("expected a JSON object, got {}", kind_of(&value))));
        };
        if self.whole_samples && object.contains_key("prompt") {
            let rest = if object.contains_key("continuation") { "continuation" } else { "text" };
            return Ok(format!("{}{}", self.field(&object, "prompt")?, self.field(&object, rest)?));
        }
        if self.keys.is_empty() {
            self.keys = self.find_keys(&object)?;
        }
        let fields: Result<Vec<&str>> = self.keys.iter().map(|key| self.field(&object, key)).collect();
        Ok(fields?.join(" "))
    }

    /// The first object decides for all.
    fn find_keys(&self, object: &Map<String, Value>) -> Result<Vec<String>> {
        let columns: Vec<Column<'_>> =
            object.iter().map(|(name, value)| Column { name, is_text: value.is_string() }).collect();
        let chosen = choose(self.lines.path(), &self.wanted, &columns)?;
        Ok(chosen.into_iter().map(|at| columns[at].name.to_owned()).collect())
    }

    fn field<'a>(&self, object: &'a Map<String, Value>, key: &str) -> Result<&'a str> {
        match object.get(key) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.bad(format!("expected a string under `{key}`, got {}", kind_of(other)))),
            None => {
                let keys: Vec<_> = object.keys().take(5).map(|k| format!("`{k}`")).collect();
                Err(self.bad(format!("no key `{key}` (it has {})", keys.join(", "))))
            }
        }
    }
}

impl Rows for JsonLinesRows {
    fn next_row(&mut self) -> Result<Option<Row>> {
        let Some(line) = self.lines.next_text()? else { return Ok(None) };
        let text = if line.trim().is_empty() { String::new() } else { self.text_of(&line)? };
        Ok(Some(Row { place: Place::Line(self.lines.line()), text }))
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
