//! The terminal: drawn once a second, given back whatever happens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;

use crate::error::Error;
use crate::view;
use crate::watch::Watch;

/// How often the folder is read.
const REFRESH: Duration = Duration::from_secs(1);
/// How often the stop flag is read.
const POLL: Duration = Duration::from_millis(100);

/// Whether the terminal is in our state.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back if a [`Screen`] has it: leaves the alternate screen, shows the cursor, lets lines be typed. For programs that end without
/// dropping it.
pub fn restore() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing.
        let _ = ratatui::try_restore();
    }
}

/// The terminal while a folder is watched.
#[derive(Debug)]
pub struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal; it is given back when the screen is dropped, and before a panic is reported.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub fn take() -> Result<Self, Error> {
        TAKEN.store(true, Ordering::SeqCst);
        let taken = ratatui::try_init().map_err(|source| Error::Terminal { source });
        if taken.is_err() {
            restore();
        }
        Ok(Self { terminal: taken? })
    }

    /// Shows the folder until a key (q, Esc, Ctrl-C) or the flag ends it.
    ///
    /// # Errors
    /// When the terminal cannot be read or written.
    pub fn run(&mut self, watch: &mut Watch, stop: &AtomicBool) -> Result<(), Error> {
        let failed = |source| Error::Terminal { source };
        let mut scroll = 0u16;
        let mut snapshot = watch.poll();
        let mut read_at = Instant::now();
        loop {
            self.terminal.draw(|frame| view::draw(frame, &snapshot, scroll)).map_err(failed)?;
            loop {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if read_at.elapsed() >= REFRESH {
                    // Dropped first, so that its curves need not be copied.
                    drop(snapshot);
                    snapshot = watch.poll();
                    read_at = Instant::now();
                    break;
                }
                let wait = POLL.min(REFRESH.saturating_sub(read_at.elapsed()));
                if !event::poll(wait).map_err(failed)? {
                    continue;
                }
                match event::read().map_err(failed)? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => match action(key) {
                        Some(Action::Quit) => return Ok(()),
                        Some(Action::Scroll(lines)) => {
                            scroll = scroll.saturating_add_signed(lines).min(view::most_scroll(&snapshot));
                        }
                        None => continue,
                    },
                    Event::Resize(..) => {}
                    _ => continue,
                }
                break;
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Quit,
    Scroll(i16),
}

fn action(key: KeyEvent) -> Option<Action> {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Action::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Action::Quit),
        KeyCode::Down | KeyCode::Char('j') => Some(Action::Scroll(1)),
        KeyCode::Up | KeyCode::Char('k') => Some(Action::Scroll(-1)),
        KeyCode::PageDown => Some(Action::Scroll(10)),
        KeyCode::PageUp => Some(Action::Scroll(-10)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_quit_and_scroll() {
        let plain = |code| action(KeyEvent::new(code, KeyModifiers::NONE));
        let control = |c| action(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL));
        assert_eq!([plain(KeyCode::Char('q')), plain(KeyCode::Esc), control('c')], [Some(Action::Quit); 3]);
        assert_eq!([plain(KeyCode::Char('c')), control('x')], [None; 2]);
        assert_eq!([plain(KeyCode::Down), plain(KeyCode::PageUp)], [1, -10].map(|n| Some(Action::Scroll(n))));
    }
}
