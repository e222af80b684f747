//! JSON: objects one after another or in an array, the text under a key.
use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::compression::Source;
use super::description::{Description, JsonLayout};
use super::format::Format;
use super::json_row::{Field, Kind, fields, kinds, without_words};
use super::json_survey::survey;
use super::json_values::{Layout, Value, Values};
use super::lines::utf8;
use super::{Row, Rows};
use crate::error::{Error, Place, Result};

/// The keys of a sample, as `mixce generate` writes it: what it continues, and the continuation under either name.
const SAMPLE: [&str; 3] = ["prompt", "continuation", "text"];

/// The objects of a file.
pub(super) struct JsonRows {
    path: PathBuf,
    values: Values,
    /// The keys that make up the text.
    keys: Vec<String>,
    chosen: Option<&'static str>,
    whole_samples: bool,
}

impl JsonRows {
    /// `open` opens the file at its beginning: where neither `wanted` nor a name says which key is the text, all of it is examined first.
    pub(super) fn open(
        open: &dyn Fn() -> Result<Source>,
        path: &Path,
        wanted: &[String],
        whole_samples: bool,
    ) -> Result<Self> {
        let whole_samples = whole_samples && wanted.is_empty();
        let (keys, chosen) = match wanted {
            [] => survey(Values::new(open()?, path), whole_samples)?,
            wanted => (wanted.to_vec(), Some(super::column::Reason::Asked)),
        };
        let chosen = chosen.map(super::column::Reason::words);
        Ok(Self { path: path.into(), values: Values::new(open()?, path), keys, chosen, whole_samples })
    }
}

impl Rows for JsonRows {
    fn next_row(&mut self) -> Result<Option<Row>> {
        let Some(value) = self.values.next_value()? else { return Ok(None) };
        let parser = RowParser { path: &self.path, place: value.place };
        let object = parser.object(&value)?;
        if self.whole_samples
            && let Some(row) = parser.sample(&object)?
        {
            return Ok(Some(row));
        }
        let texts = parser.texts(&object, &self.keys)?;
        Ok(Some(Row { place: value.place, text: texts.join(" "), prompt_bytes: None }))
    }

    fn describe(&self) -> Description {
        let layout = match self.values.layout() {
            Layout::Lines => JsonLayout::Lines,
            Layout::Objects => JsonLayout::Objects,
            Layout::Array => JsonLayout::Array,
        };
        Description {
            layout: Some(layout),
            columns: self.keys.clone(),
            chosen: self.chosen,
            ..Description::of(Format::JsonLines)
        }
    }

    fn blank_lines(&self) -> u64 {
        self.values.blank_lines()
    }
}

/// Takes one row apart; its errors name the row.
struct RowParser<'a> {
    path: &'a Path,
    place: Place,
}

impl RowParser<'_> {
    fn bad(&self, problem: impl Into<String>) -> Error {
        Error::bad_row(self.path, self.place, problem)
    }

    fn invalid(&self, error: &serde_json::Error) -> Error {
        let problem = error.to_string();
        if problem.contains("surrogate") || problem.contains("unexpected end of hex escape") {
            return self.bad(r"a `\u` escape in a string is a lone surrogate: this is not text");
        }
        self.bad(format!("not a JSON value ({problem})"))
    }

    /// The bytes of an object, as the parser understands them.
    fn object<'v>(&self, value: &Value<'v>) -> Result<Cow<'v, [u8]>> {
        utf8(value.bytes, self.path, self.place)?;
        let kind = Kind::of(value.bytes);
        if kind != Kind::Object {
            return Err(self.bad(format!("expected a JSON object, got {}", kind.name())));
        }
        Ok(match value.words.as_slice() {
            [] => Cow::Borrowed(value.bytes),
            words => Cow::Owned(without_words(value.bytes, words)),
        })
    }

    fn fields(&self, object: &[u8], keys: &[String]) -> Result<Vec<Option<Field>>> {
        fields(object, keys).map_err(|error| self.invalid(&error))
    }

    fn texts(&self, object: &[u8], keys: &[String]) -> Result<Vec<String>> {
        if keys.is_empty() {
            return Err(self.bad("no row of the file says which key is the text"));
        }
        let fields = self.fields(object, keys)?;
        keys.iter().zip(fields).map(|(key, field)| self.text(object, key, field)).collect()
    }

    fn text(&self, object: &[u8], key: &str, field: Option<Field>) -> Result<String> {
        match field {
            Some(Field::Text(text)) => Ok(text),
            Some(Field::Other(kind)) => {
                Err(self.bad(format!("expected a string under `{key}`, got {}", kind.name())))
            }
            Some(Field::Twice) => Err(self.bad(format!("the key `{key}` occurs twice"))),
            None => {
                let all = kinds(object).map_err(|error| self.invalid(&error))?;
                let all: Vec<_> = all.iter().take(5).map(|(key, _)| format!("`{key}`")).collect();
                let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
                Err(self.bad(format!("no key `{key}` (it has {all})")))
            }
        }
    }

    /// An object with a prompt or a continuation as one text; `None` if it has neither.
    fn sample(&self, object: &[u8]) -> Result<Option<Row>> {
        let keys = SAMPLE.map(str::to_owned);
        let [prompt, continuation, text] = <[_; 3]>::try_from(self.fields(object, &keys)?)
            .map_err(|_| self.bad("expected the fields of a sample"))?;
        let is_there = |field: &Option<Field>| !matches!(field, None | Some(Field::Other(Kind::Null)));
        if !is_there(&prompt) && !is_there(&continuation) {
            return Ok(None);
        }
        let rest = match continuation {
            field if is_there(&field) => self.text(object, "continuation", field)?,
            _ => self.text(object, "text", text)?,
        };
        if !is_there(&prompt) {
            return Ok(Some(Row { place: self.place, text: rest, prompt_bytes: None }));
        }
        let prompt = self.text(object, "prompt", prompt)?;
        let prompt_bytes = Some(prompt.len());
        Ok(Some(Row { place: self.place, text: prompt + &rest, prompt_bytes }))
    }
}
