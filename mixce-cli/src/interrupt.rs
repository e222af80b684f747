//! Signals: Ctrl-C (SIGINT), SIGTERM and SIGHUP. The first ends the program in an orderly way, the second at once; the exit status is 128 plus
//! the signal's number. SIGUSR1, which `sweep` sends to its commands, stops them like SIGTERM, unless they are stopping already. So does the end
//! of the process that has started this one as a rank of its run ([`HELD_STDIN`]).
//!
//! Work that saves something checks a flag ([`install`], [`install_saving`]). Other work is simply ended: every file gets its name only when it is
//! complete, and temporary ones are removed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use mixce_base::files::abandon_temporaries;

const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

/// The variable of a process whose standard input is a pipe that the process that has started it holds open, and never writes to: however that one
/// ends, the pipe ends with it.
pub(crate) const HELD_STDIN: &str = "MIXCE_LAUNCHER_HOLDS_STDIN";

/// Tells a command that its parent was told to stop. A terminal or a scheduler may have told the command too, for which a second SIGINT or
/// SIGTERM would mean to end at once.
#[cfg(unix)]
pub(crate) const PASSED_ON: nix::sys::signal::Signal = nix::sys::signal::Signal::SIGUSR1;

/// The first signal that arrived; 0 if none did.
static SIGNAL: AtomicU8 = AtomicU8::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static PROMISE: Mutex<Promise> = Mutex::new(Promise::None);

/// Processes that get the same signals.
static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// How long work that checks the flag may take to notice it, unless it saves something.
const NOTICE: Duration = Duration::from_millis(700);

/// How long a message may block; the other end of a pipe may be stuck.
const MESSAGE: Duration = Duration::from_millis(100);

/// What the first signal will do.
#[derive(Clone, Copy)]
enum Promise {
    /// End the program: no running work checks the flag.
    None,
    /// Set the flag, and end the program if that is not noticed soon.
    Stop(&'static str),
    /// Set the flag. Saving may take its time.
    Save(&'static str),
}

/// Makes a signal set a flag, which ends the work soon; `promise` tells the user what will happen, unless it is empty.
pub(crate) fn install(promise: &'static str) -> &'static AtomicBool {
    set(Promise::Stop(promise))
}

/// The same for work that first saves what it has done, however long that takes.
pub(crate) fn install_saving(promise: &'static str) -> &'static AtomicBool {
    set(Promise::Save(promise))
}

/// The flag alone, for work that will install a promise.
pub(crate) fn flag() -> &'static AtomicBool {
    &STOP
}

/// Restores the default, for work that does not check the flag.
pub(crate) fn release() {
    set(Promise::None);
}

/// Whether a signal has arrived.
pub(crate) fn is_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Passes every signal on to a process that this one has started, until [`pass_on_no_more`]. It must not be reaped before.
pub(crate) fn pass_on_to(id: u32) {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).push(id);
}

/// Ends [`pass_on_to`].
pub(crate) fn pass_on_no_more(id: u32) {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != id);
}

/// Sends a signal to a process that this one has started, which may have ended.
#[cfg(unix)]
pub(crate) fn send(id: u32, signal: nix::sys::signal::Signal) {
    if let Ok(id) = i32::try_from(id) {
        // One that has ended needs none.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal);
    }
}

/// The exit status after a signal: 130 for Ctrl-C, 143 for SIGTERM.
pub(crate) fn exit_status() -> u8 {
    128 + match SIGNAL.load(Ordering::Relaxed) {
        0 => SIGINT,
        signal => signal,
    }
}

/// Begins to wait for signals. Must be called before the program starts a thread.
pub(crate) fn start() {
    if let Err(error) = wait_for_signals() {
        tell(&format!("warning: signals end the program without cleaning up: {error}\n"));
    }
    if std::env::var_os(HELD_STDIN).is_some()
        && let Err(error) = thread::Builder::new().name("launcher".to_owned()).spawn(end_with_launcher)
    {
        tell(&format!(
            "warning: the end of the process that started this one will not be noticed: {error}\n"
        ));
    }
}

/// Waits for the end of standard input, which is that of the process that has started this one, and does what SIGTERM does.
fn end_with_launcher() {
    let mut stdin = std::io::stdin();
    loop {
        match stdin.read(&mut [0; 64]) {
            Ok(0) => break,
            Err(error) if error.kind() != ErrorKind::Interrupted => break,
            _ => {}
        }
    }
    // It may have been told to stop, and have passed that on.
    if SIGNAL.load(Ordering::Relaxed) == 0 {
        on_signal(SIGTERM);
    }
}

/// Blocks the signals in this thread, and so in all that it starts, and waits for them in a thread of their own, where anything may be done.
#[cfg(unix)]
fn wait_for_signals() -> Result<(), Box<dyn std::error::Error>> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.add(PASSED_ON);
    if !is_hangup_ignored() {
        signals.add(Signal::SIGHUP);
    }
    signals.thread_block()?;
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            for child in CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                send(*child, signal);
            }
            match signal {
                PASSED_ON if SIGNAL.load(Ordering::Relaxed) != 0 => {}
                PASSED_ON => on_signal(SIGTERM),
                _ => on_signal(u8::try_from(signal as i32).unwrap_or(SIGINT)),
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

/// Whether the program was started with `nohup`: bit 0 of the ignored signals, as Linux reports them.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(not(unix))]
fn wait_for_signals() -> Result<(), Box<dyn std::error::Error>> {
    Ok(ctrlc::set_handler(|| on_signal(SIGINT))?)
}

fn set(promise: Promise) -> &'static AtomicBool {
    *PROMISE.lock().unwrap_or_else(PoisonError::into_inner) = promise;
    &STOP
}

fn promise() -> Promise {
    *PROMISE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn on_signal(signal: u8) {
    let is_first = SIGNAL.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    match promise() {
        Promise::Stop(promise) | Promise::Save(promise) if is_first => {
            thread::spawn(|| {
                thread::sleep(NOTICE);
                // By now the work may have reached a part that saves.
                if !matches!(self::promise(), Promise::Save(_)) {
                    end();
                }
            });
            if !promise.is_empty() {
                tell(&format!("stopping: {promise} (Ctrl-C again to abort at once)\n"));
            }
            STOP.store(true, Ordering::Relaxed);
        }
        _ => end(),
    }
}

/// Ends the program without a temporary file left.
fn end() -> ! {
    abandon_temporaries();
    // `watch` may have the terminal.
    mixce_watch::restore();
    tell("interrupted\n");
    std::process::exit(i32::from(exit_status()));
}

/// Writes to stderr, between the progress bars, unless that blocks.
fn tell(message: &str) {
    let message = message.to_owned();
    let (done, written) = mpsc::channel();
    thread::spawn(move || {
        // A closed stderr is ignored.
        let _ = crate::progress::suspend(|| std::io::stderr().write_all(message.as_bytes()));
        let _ = done.send(());
    });
    let _ = written.recv_timeout(MESSAGE);
}
