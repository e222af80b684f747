//! The `mixce` program.
//!
//! One file per subcommand in `commands/`, without logic of its own: it parses flags, validates the settings and calls a library.
//! Results go to stdout through `output.rs`, everything else to stderr; `error.rs` maps failures to exit statuses.

mod allocator;
mod authors;
mod cli;
mod commands;
mod context;
mod error;
mod files;
mod flags;
mod interrupt;
mod logging;
mod memory;
mod models;
mod objective;
mod output;
mod positions;
mod precision;
mod progress;
mod quickstart;
mod ranks;
mod reading;
mod speed;
mod svg;
mod sweep;
mod usage;
mod version;

use std::process::ExitCode;

use clap::FromArgMatches as _;

/// Parses the command line, runs the subcommand and maps its outcome to an exit status.
#[must_use]
pub fn main() -> ExitCode {
    interrupt::start();
    mixce_kernels::threads::use_rayon_alone();
    allocator::keep_freed_memory();
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let command = cli::command().color(cli::early_color(&arguments));
    let parsed = command
        .try_get_matches_from(&arguments)
        .and_then(|mut matches| cli::Cli::from_arg_matches_mut(&mut matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            if ranks::others_speak_first(false) {
                return ExitCode::from(error::FAILURE);
            }
            // Includes `--help` and `--version`; a closed pipe is not an error.
            let _ = error.print();
            if let Some(hint) = usage::hint(&error, &arguments) {
                error::print_hint(hint, cli::early_color(&arguments));
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(error::FAILURE));
        }
    };
    let color = cli.global.color;
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            progress::clear();
            ExitCode::from(ranks::fail(&failure, color))
        }
    }
}
