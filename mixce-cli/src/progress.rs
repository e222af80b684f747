//! Progress bars on stderr, hidden if stderr is not a terminal or with `--quiet`.

use std::collections::HashMap;
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mixce_base::printable::printable_line;
use mixce_hub::{FetchProgress, FileProgress, FileState};

/// All bars of the program, so that log lines and results can be printed between them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Hides all bars from now on.
pub(crate) fn hide() {
    BARS.set_draw_target(ProgressDrawTarget::hidden());
}

/// Runs `f` with the bars hidden.
pub(crate) fn suspend<T>(f: impl FnOnce() -> T) -> T {
    BARS.suspend(f)
}

/// Clears all bars.
pub(crate) fn clear() {
    // Errors are ignored: a terminal that cannot be written to shows no bars.
    let _ = BARS.clear();
}

/// A bar of `length` units, with the estimated time left and a message.
pub(crate) fn bar(length: u64, unit: &str) -> ProgressBar {
    let template = format!("{{bar:24}} {{pos}}/{{len}} {unit}, {{elapsed}} + {{eta}} left {{msg}}");
    BARS.add(ProgressBar::new(length).with_style(style(&template)))
}

/// A line of text, to be set as its message.
pub(crate) fn line() -> ProgressBar {
    BARS.add(ProgressBar::new(0).with_style(style("{wide_msg}")))
}

/// A spinner for work of unknown length.
pub(crate) fn spinner(message: impl Into<String>) -> ProgressBar {
    let spinner = BARS.add(ProgressBar::new_spinner().with_style(style("{spinner} {msg}")));
    set_message(&spinner, &message.into());
    spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    spinner
}

/// Sets a bar's message, which may contain a file's name.
pub(crate) fn set_message(bar: &ProgressBar, message: &str) {
    bar.set_message(printable_line(message).into_owned());
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; an invalid one only affects the display.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// One bar per file being downloaded; aborts the transfer on Ctrl-C.
#[derive(Debug, Default)]
pub(crate) struct FetchBars {
    bars: HashMap<String, ProgressBar>,
}

impl FetchProgress for FetchBars {
    fn update(&mut self, file: &FileProgress<'_>) {
        match file.state {
            FileState::Cached => tracing::info!("`{}` is in the cache", file.name),
            FileState::Transferring => {
                let bar = self.bars.entry(file.name.to_owned()).or_insert_with(|| {
                    let bar = ProgressBar::new(file.bytes_total.unwrap_or(0)).with_position(file.bytes_done);
                    let template = "{bar:24} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left {msg}";
                    set_message(&bar, file.name);
                    BARS.add(bar.with_style(style(template)))
                });
                bar.set_position(file.bytes_done);
            }
            FileState::Complete => {
                tracing::info!("`{}` is complete and its checksum holds", file.name);
                if let Some(bar) = self.bars.remove(file.name) {
                    bar.finish_and_clear();
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        crate::interrupt::is_requested()
    }
}
