//! Plain text, one document per line.
use super::format::Format;
use super::lines::Lines;
use super::{Description, Row, Rows};
use crate::error::{Place, Result};

/// A line is a document, a blank one an empty document.
pub(super) struct TextRows(pub(super) Lines);

impl Rows for TextRows {
    fn next_row(&mut self) -> Result<Option<Row>> {
        let text = self.0.next_text()?;
        let place = Place::Line(self.0.line());
        Ok(text.map(|text| Row { place, text, prompt_bytes: None }))
    }

    fn describe(&self) -> Description {
        Description::of(Format::Text)
    }
}
