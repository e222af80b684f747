//! Reports failures on stderr and maps them to exit statuses.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write as _};

use mixce_base::Hint;
use mixce_base::printable::printable_line;

use crate::cli::ColorWhen;
use crate::flags::in_words_of_flags;

/// A check or comparison failed.
pub(crate) const CHECK_FAILED: u8 = 1;
/// Anything that went wrong.
pub(crate) const FAILURE: u8 = 2;
/// Stopped by a signal; [`exit_status`](crate::interrupt::exit_status) says which.
const INTERRUPTED: u8 = 130;

/// A failure detected by the command line itself.
#[derive(Debug)]
pub(crate) struct Problem {
    message: String,
    hints: Vec<String>,
    status: u8,
}

impl Problem {
    /// An error with exit status 2.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hints: Vec::new(), status: FAILURE }
    }

    /// A failed check: exit status 1.
    pub(crate) fn check_failed(message: impl Into<String>) -> Self {
        Self { status: CHECK_FAILED, ..Self::new(message) }
    }

    /// A stop by a signal: exit status 130 or 143.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self { status: INTERRUPTED, ..Self::new(message) }
    }

    /// A failure that another process has reported, with its exit status: nothing is printed.
    pub(crate) fn reported(status: u8) -> Self {
        Self { status, ..Self::new("") }
    }

    /// Adds a hint.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Problem {}

/// Writes `error: ...` and its hints to stderr; returns the exit status.
pub(crate) fn print(failure: &anyhow::Error, color: ColorWhen) -> u8 {
    let status = status_of(failure);
    let (red, cyan, plain) =
        if color.on_stderr() { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
    let word = if status == INTERRUPTED { "interrupted" } else { "error" };
    // Names and texts of files are part of messages.
    let message = in_words_of_flags(&message_of(failure));
    if message.is_empty() {
        return status;
    }
    let message = shown(&message);
    let mut stderr = io::stderr().lock();
    // A closed stderr is ignored.
    let _ = match message.strip_prefix("interrupted").filter(|_| status == INTERRUPTED) {
        Some(rest) => writeln!(stderr, "{red}{word}{plain}{rest}"),
        None => writeln!(stderr, "{red}{word}:{plain} {message}"),
    };
    for hint in hints_of(failure) {
        let _ = writeln!(stderr, "{cyan}hint:{plain} {}", shown(&in_words_of_flags(&hint)));
    }
    if status == INTERRUPTED { crate::interrupt::exit_status() } else { status }
}

/// Whether a signal ended the work.
pub(crate) fn is_interruption(failure: &anyhow::Error) -> bool {
    status_of(failure) == INTERRUPTED
}

/// Adds a hint to a failure.
pub(crate) fn with_hint(failure: &anyhow::Error, hint: String) -> anyhow::Error {
    let mut hints = hints_of(failure);
    hints.push(hint);
    Problem { message: message_of(failure), hints, status: status_of(failure) }.into()
}

/// Writes a hint for an error that clap has printed.
pub(crate) fn print_hint(hint: &str, color: clap::ColorChoice) {
    let colored = match color {
        clap::ColorChoice::Always => ColorWhen::Always.on_stderr(),
        clap::ColorChoice::Never => ColorWhen::Never.on_stderr(),
        clap::ColorChoice::Auto => ColorWhen::Auto.on_stderr(),
    };
    let (cyan, plain) = if colored { ("\x1b[1;36m", "\x1b[0m") } else { ("", "") };
    // A closed stderr is ignored.
    let _ = writeln!(io::stderr().lock(), "\n{cyan}hint:{plain} {hint}");
}

fn status_of(failure: &anyhow::Error) -> u8 {
    let of_cause = |cause: &(dyn StdError + 'static)| {
        if let Some(problem) = cause.downcast_ref::<Problem>() {
            return Some(problem.status);
        }
        let stopped = matches!(cause.downcast_ref(), Some(mixce_train::Error::Interrupted))
            // A transparent error is not in the chain.
            || matches!(cause.downcast_ref(), Some(mixce_train::Error::Data(mixce_data::Error::Stopped)))
            || matches!(cause.downcast_ref(), Some(mixce_data::Error::Stopped))
            || matches!(cause.downcast_ref(), Some(mixce_hub::Error::Stopped { .. }));
        stopped.then_some(INTERRUPTED)
    };
    failure.chain().find_map(of_cause).unwrap_or(FAILURE)
}

/// The messages of the error chain on one line, without causes that the preceding message already contains.
fn message_of(failure: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in failure.chain().map(|cause| one_line(&cause.to_string())) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// A message as it is printed: on one line, without characters that a terminal obeys, and cut where a name in it is endless.
fn shown(message: &str) -> String {
    const MAX_CHARS: usize = 16_000;
    match message.char_indices().nth(MAX_CHARS) {
        None => printable_line(message).into_owned(),
        Some((end, _)) => {
            let more = message[end..].chars().count();
            format!("{}... ({more} more characters)", printable_line(&message[..end]))
        }
    }
}

/// A message on one line, without the backtrace that candle appends to its own where `RUST_BACKTRACE` is set.
fn one_line(text: &str) -> String {
    let lines = text.lines().filter(|line| !is_backtrace_line(line));
    lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether a line is one of those that [`std::backtrace::Backtrace`] writes, `   3: path::of::function` or `             at file:line`.
fn is_backtrace_line(line: &str) -> bool {
    let text = line.trim_start();
    let is_frame = || {
        text.split_once(": ")
            .is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    line.starts_with("  ") && (text.starts_with("at ") || is_frame())
}

/// The hint of a library error. An error of unknown type cannot be tested for a trait, hence the list of types.
fn hint_of(cause: &(dyn StdError + 'static)) -> Option<String> {
    type Ask = fn(&(dyn StdError + 'static)) -> Option<String>;
    fn ask<E: Hint + 'static>(cause: &(dyn StdError + 'static)) -> Option<String> {
        cause.downcast_ref::<E>()?.hint()
    }
    const ASK: [Ask; 12] = [
        ask::<mixce_core::Error>,
        ask::<mixce_data::Error>,
        ask::<mixce_encoder::Error>,
        ask::<mixce_eval::Error>,
        ask::<mixce_hub::Error>,
        ask::<mixce_judge::Error>,
        ask::<mixce_lm::Error>,
        ask::<mixce_report::Error>,
        ask::<mixce_sweep::Error>,
        ask::<mixce_synthetic::Error>,
        ask::<mixce_train::Error>,
        ask::<mixce_watch::Error>,
    ];
    ASK.iter().find_map(|ask| ask(cause))
}

/// The hints of all errors in the chain, without duplicates.
fn hints_of(failure: &anyhow::Error) -> Vec<String> {
    let mut hints: Vec<String> = Vec::new();
    for cause in failure.chain() {
        let own = cause.downcast_ref::<Problem>().map(|problem| problem.hints.clone()).unwrap_or_default();
        for hint in own.into_iter().chain(hint_of(cause)).map(|hint| one_line(&hint)) {
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
    }
    hints
}

/// Refuses a number below `least`.
pub(crate) fn at_least(flag: &str, value: u64, least: u64) -> anyhow::Result<()> {
    if value < least {
        return Err(Problem::new(format!("`{flag}`: expected at least {least}, got `{value}`")).into());
    }
    Ok(())
}

/// Refuses a number that is not finite and above 0, if one is given.
pub(crate) fn positive(flag: &str, value: Option<f64>) -> anyhow::Result<()> {
    if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
        return Err(Problem::new(format!("`{flag}`: expected a positive number, got `{value}`")).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn causes_are_told_once_and_in_one_line() {
        let inner = io::Error::other("disk\n  on fire");
        let told = anyhow::Error::new(Problem::new("cannot read `x`: disk on fire"));
        assert_eq!(message_of(&told), "cannot read `x`: disk on fire");
        let chained = Err::<(), _>(inner).context("cannot read `x`").unwrap_err();
        assert_eq!(message_of(&chained), "cannot read `x`: disk on fire");
        assert_eq!(
            message_of(&chained.context("cannot read `x`: disk on fire")),
            "cannot read `x`: disk on fire"
        );
    }

    #[test]
    fn a_backtrace_in_a_message_is_left_out() {
        let backtrace = std::backtrace::Backtrace::force_capture();
        assert!(backtrace.to_string().contains("0: "));
        let error = anyhow::anyhow!("cannot reshape\n{backtrace}").context("cannot read `x`");
        assert_eq!(message_of(&error), "cannot read `x`: cannot reshape");
        assert_eq!(
            message_of(&anyhow::anyhow!("line\n3: of a file\nat the end")),
            "line 3: of a file at the end"
        );
    }

    #[test]
    fn names_in_messages_are_shown_and_not_obeyed() {
        assert_eq!(shown("column `\u{1b}[2J\u{202e}`"), r"column `\u{1b}[2J\u{202e}`");
        let long = shown(&"x".repeat(20_000));
        assert!(long.len() < 16_100 && long.ends_with("x... (4000 more characters)"), "{}", long.len());
    }

    #[test]
    fn statuses_follow_the_kind_of_failure() {
        assert_eq!(status_of(&anyhow::anyhow!("x")), 2);
        assert_eq!(status_of(&Problem::check_failed("x").into()), 1);
        assert_eq!(status_of(&anyhow::Error::new(mixce_train::Error::Interrupted).context("y")), 130);
        let hashing = mixce_train::Error::from(mixce_data::Error::Stopped);
        assert_eq!(status_of(&anyhow::Error::new(hashing).context("y")), 130);
        assert_eq!(status_of(&mixce_hub::Error::Stopped { file: "f".into() }.into()), 130);
    }

    #[test]
    fn hints_come_from_any_depth_and_once() {
        let error = anyhow::Error::new(Problem::new("a").hint("do this")).context("b");
        assert_eq!(hints_of(&error), ["do this"]);
        let model = mixce_lm::Error::EmptyPrompt { prompt: 0 };
        let hint = model.hint().unwrap();
        assert_eq!(hints_of(&mixce_train::Error::Model(model).into()), [hint]);
    }
}
