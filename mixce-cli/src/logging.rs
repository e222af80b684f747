//! Logging to stderr.

use std::io::{self, Write};

use mixce_base::printable::printable_line;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::flags::in_words_of_flags;

/// Sends the log to stderr: warnings by default, only errors with `-q`, more with each `-v`. With `-v` each line
/// begins with the rank, if there is one.
pub(crate) fn start(verbose: u8, quiet: bool, ansi: bool, rank: Option<usize>) {
    let ours = match (quiet, verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        _ => "trace",
    };
    // Dependencies return their failures as errors, which are reported once.
    let others = if verbose > 2 { "debug" } else { "off" };
    let crates = [
        "cli",
        "core",
        "data",
        "encoder",
        "eval",
        "gpt2",
        "hub",
        "judge",
        "kernels",
        "llama",
        "lm",
        "report",
        "sweep",
        "synthetic",
        "train",
        "watch",
        "web",
    ];
    let ours: Vec<String> = crates.iter().map(|name| format!("mixce_{name}={ours}")).collect();
    let filter = EnvFilter::new(format!("{others},{}", ours.join(",")));
    // Colours are added behind the escaping of messages.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_target(false);
    let writer = BetweenBars { ansi, rank: rank.filter(|_| verbose > 0) };
    // A subscriber that is already set is kept.
    let _ = if verbose == 0 {
        log.without_time().with_writer(writer).try_init()
    } else {
        log.with_writer(writer).try_init()
    };
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
