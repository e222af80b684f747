//! Logging to stderr.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::flags::in_words_of_flags;

/// Sends the log to stderr: warnings by default, only errors with `-q`, more with each `-v`.
pub(crate) fn start(verbose: u8, quiet: bool, ansi: bool) {
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
        "synthetic",
        "train",
    ];
    let ours: Vec<String> = crates.iter().map(|name| format!("mixce_{name}={ours}")).collect();
    let filter = EnvFilter::new(format!("{others},{}", ours.join(",")));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_target(false);
    // A subscriber that is already set is kept.
    let _ = if verbose == 0 {
        log.without_time().with_writer(BetweenBars).try_init()
    } else {
        log.with_writer(BetweenBars).try_init()
    };
}

/// Stderr, with the progress bars hidden while a line is written, and field names replaced by flags. The subscriber writes whole lines.
#[derive(Clone, Copy, Debug)]
struct BetweenBars;

impl Write for BetweenBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = in_words_of_flags(&String::from_utf8_lossy(bytes));
        crate::progress::suspend(|| io::stderr().write_all(line.as_bytes()))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for BetweenBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}
