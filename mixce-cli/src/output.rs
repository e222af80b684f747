//! Results on stdout: JSON with `--json`, text without.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use mixce_base::printable::{printable, printable_json, printable_line};
use serde::Serialize;

/// The only writer to stdout. Once the reader of a pipe has closed it, output is discarded silently, so that the work (such as
/// training) continues.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    closed: AtomicBool,
    stdout: Mutex<io::Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, closed: AtomicBool::new(false), stdout: Mutex::new(io::stdout()) }
    }

    /// Whether `--json` was given.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one JSON object on a line.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(value).context("cannot serialize the result as JSON")?;
        self.json_line(&line)
    }

    /// Prints a line that is JSON.
    pub(crate) fn json_line(&self, json: &str) -> Result<()> {
        self.bytes(format!("{}\n", printable_json(json)).as_bytes())
    }

    /// Lines of a message or table. Characters that a terminal obeys are shown.
    pub(crate) fn line(&self, line: &str) -> Result<()> {
        self.bytes(format!("{}\n", printable(line)).as_bytes())
    }

    /// A line of text that is the result itself: as it is, except on a terminal.
    pub(crate) fn text(&self, text: &str) -> Result<()> {
        if io::stdout().is_terminal() { self.line(text) } else { self.bytes(format!("{text}\n").as_bytes()) }
    }

    /// Prints the value with `--json`, else the text.
    pub(crate) fn either(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json { self.json(value) } else { self.line(text().trim_end_matches('\n')) }
    }

    /// Writes raw bytes and flushes.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        match crate::progress::suspend(|| stdout.write_all(bytes).and_then(|()| stdout.flush())) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            other => other.context("cannot write to stdout"),
        }
    }
}

/// Rows of cells as aligned columns; columns for which `right` is true are aligned right. A cell is one line of printable text.
pub(crate) fn table(rows: &[Vec<String>], right: &[bool]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| printable_line(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(i, cell)| match right.get(i) {
            Some(true) => format!("{cell:>0$}", widths[i]),
            _ => format!("{cell:<0$}", widths[i]),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A count with its digits in groups of three: `124 439 808`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes in a suitable unit: `1.5 GB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 124_439_808].map(grouped), ["0", "999", "1 000", "124 439 808"]);
        assert_eq!([0, 999, 1500, 2_000_000_000_000].map(bytes), ["0 B", "999 B", "1.5 kB", "2.0 TB"]);
    }

    #[test]
    fn tables_are_aligned() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["long".into(), "22".into()]];
        assert_eq!(table(&rows, &[false, true]), "a      1\nlong  22\n");
        let rows = vec![vec!["a\nb".into(), "1".into()], vec!["\u{1b}[2J".into(), "2".into()]];
        assert_eq!(table(&rows, &[false, true]), "a\\nb       1\n\\u{1b}[2J  2\n");
    }
}
