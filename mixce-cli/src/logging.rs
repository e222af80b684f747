//! Logging to stderr.

use std::io::{self, Write};

use mixce_base::printable::printable_line;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::flags::in_words_of_flags;

/// Sends the log to stderr: warnings by default, only errors with `-q`, more with each `-v`. With `-v` each line
/// begins with the rank, if there is one.
pub(crate) fn start(verbose: u8, quiet: bool, ansi: bool, rank: Option<usize>) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::WARN,
        (_, 1) => LevelFilter::INFO,
        (_, 2) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let writer = BetweenBars { ansi, rank: rank.filter(|_| verbose > 0) };
    // Colours are added behind the escaping of messages.
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(writer);
    // Only ours: dependencies return their failures as errors, which are reported once.
    let log = tracing_subscriber::registry().with(Targets::new().with_target("mixce", level));
    // A subscriber that is already set is kept.
    let _ = if verbose == 0 { log.with(lines.without_time()).try_init() } else { log.with(lines).try_init() };
}

/// Stderr, with the progress bars hidden while a line is written, field names replaced by flags, and characters that a terminal obeys shown. The
/// subscriber writes whole lines.
#[derive(Clone, Copy, Debug)]
struct BetweenBars {
    ansi: bool,
    /// Shown before each line.
    rank: Option<usize>,
}

impl Write for BetweenBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut line = shown(&String::from_utf8_lossy(bytes), self.ansi);
        if let Some(rank) = self.rank {
            line.insert_str(0, &format!("[rank {rank}] "));
        }
        // A stderr that cannot be written is ignored: the subscriber would report that on stderr again, and panic.
        let _ = crate::progress::suspend(|| io::stderr().write_all(line.as_bytes()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for BetweenBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// A line of the log as it is printed, with its level in colour if `ansi`.
fn shown(line: &str, ansi: bool) -> String {
    const LEVELS: [(&str, &str); 5] =
        [("ERROR", "31"), ("WARN", "33"), ("INFO", "32"), ("DEBUG", "34"), ("TRACE", "35")];
    let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
    let line = in_words_of_flags(line);
    let line = printable_line(&line);
    // The level is the first word, or the second after the time.
    let level =
        line.split_whitespace().take(2).find_map(|word| LEVELS.iter().find(|(level, _)| *level == word));
    match level.filter(|_| ansi) {
        Some((level, color)) => line.replacen(level, &format!("\x1b[{color}m{level}\x1b[0m"), 1) + end,
        None => line.into_owned() + end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_colour_or_forge_lines() {
        let line = " WARN column `a\u{1b}[31m` of `x\nERROR y`\n";
        assert_eq!(shown(line, false), " WARN column `a\\u{1b}[31m` of `x\\nERROR y`\n");
        assert_eq!(shown(" WARN x\n", true), " \u{1b}[33mWARN\u{1b}[0m x\n");
        assert_eq!(
            shown("2026-01-01T00:00:00Z  INFO x WARN", true),
            "2026-01-01T00:00:00Z  \u{1b}[32mINFO\u{1b}[0m x WARN"
        );
        assert_eq!(shown("plain text", true), "plain text");
    }
}
