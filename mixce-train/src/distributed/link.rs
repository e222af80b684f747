//! A connection by TCP between two ranks.
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The first byte of a message: its length and its bytes follow, or nothing.
const DATA: u8 = 1;
pub(super) const FAILED: u8 = 2;

/// The longest message.
const LONGEST: u64 = 1 << 31;
/// How often a call that waits looks at what else may have happened.
const LOOK: Duration = Duration::from_millis(50);

/// The connection to a rank.
#[derive(Debug)]
pub(super) struct Link {
    rank: usize,
    stream: TcpStream,
    /// Whether a message is begun whose end was not sent.
    is_within_message: bool,
}

/// When a call gives up.
#[derive(Clone, Copy)]
pub(super) struct Deadline<'a> {
    started: Instant,
    timeout: Duration,
    /// Whether this rank has failed meanwhile, and its number.
    aborted: Option<(&'a AtomicBool, usize)>,
}

impl<'a> Deadline<'a> {
    pub(super) fn after(timeout: Duration) -> Self {
        Self { started: Instant::now(), timeout, aborted: None }
    }

    /// The same, or when `aborted` becomes true: `rank`, which is this one, has failed.
    pub(super) fn unless(self, aborted: &'a AtomicBool, rank: usize) -> Self {
        Self { aborted: Some((aborted, rank)), ..self }
    }

    fn silent(&self) -> Error {
        Error::RanksSilent { seconds: self.timeout.as_secs_f64() }
    }

    /// The time until the next look at it.
    fn left(&self) -> Result<Duration> {
        if let Some((aborted, rank)) = self.aborted
            && aborted.load(Ordering::Relaxed)
        {
            return Err(Error::RankFailed { rank });
        }
        let left = self.timeout.saturating_sub(self.started.elapsed());
        if left.is_zero() { Err(self.silent()) } else { Ok(left.min(LOOK)) }
    }
}

impl Link {
    pub(super) fn new(rank: usize, stream: TcpStream) -> Self {
        Self { rank, stream, is_within_message: false }
    }

    fn lost(&self) -> Error {
        Error::RankLost { rank: self.rank }
    }

    pub(super) fn send(&mut self, bytes: &[u8], deadline: Deadline<'_>) -> Result<()> {
        let length = bytes.len() as u64;
        if length > LONGEST {
            return Err(Error::config("messages between ranks: expected less than 2 GiB in all"));
        }
        let mut header = vec![DATA];
        header.extend(length.to_le_bytes());
        self.is_within_message = true;
        self.write(&header, deadline)?;
        self.write(bytes, deadline)?;
        self.is_within_message = false;
        Ok(())
    }

    /// Tells the other rank that this one has failed, or ends the connection, where a word would be taken for a part of a message.
    pub(super) fn fail(&mut self, deadline: Deadline<'_>) {
        if self.is_within_message || self.write(&[FAILED], deadline).is_err() {
            // It may have ended before.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// The next message, in place of what `bytes` has; `watch` looks at other connections now and then.
    pub(super) fn receive(
        &mut self,
        bytes: &mut Vec<u8>,
        deadline: Deadline<'_>,
        watch: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut word = [0];
        self.read(&mut word, deadline, watch)?;
        if word[0] == FAILED {
            return Err(Error::RankFailed { rank: self.rank });
        }
        let mut length = [0; 8];
        self.read(&mut length, deadline, watch)?;
        let length = u64::from_le_bytes(length);
        if word[0] != DATA || length > LONGEST {
            return Err(self.lost());
        }
        bytes.resize(length as usize, 0);
        self.read(bytes, deadline, watch)
    }

    fn read(
        &mut self,
        mut to: &mut [u8],
        deadline: Deadline<'_>,
        watch: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        while !to.is_empty() {
            self.stream.set_read_timeout(Some(deadline.left()?)).map_err(|_| self.lost())?;
            match self.stream.read(to) {
                Ok(0) => return Err(self.lost()),
                Ok(n) => to = &mut to[n..],
                Err(error) => self.look_at(&error).and_then(|()| watch())?,
            }
        }
        Ok(())
    }

    fn write(&mut self, mut from: &[u8], deadline: Deadline<'_>) -> Result<()> {
        while !from.is_empty() {
            self.stream.set_write_timeout(Some(deadline.left()?)).map_err(|_| self.lost())?;
            match self.stream.write(from) {
                Ok(n) => from = &from[n..],
                // A rank that has failed has said so before it closed its end.
                Err(error) => self.look_at(&error).or_else(|lost| self.check().and(Err(lost)))?,
            }
        }
        Ok(())
    }

    /// Whether the connection is still there after an error.
    fn look_at(&self, error: &std::io::Error) -> Result<()> {
        match error.kind() {
            ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
            _ => Err(self.lost()),
        }
    }

    /// Whether the other rank is there, as far as it has said.
    pub(super) fn check(&self) -> Result<()> {
        let mut word = [0];
        match self.peek(&mut word) {
            Ok(0) => Err(self.lost()),
            Ok(_) if word[0] == FAILED => Err(Error::RankFailed { rank: self.rank }),
            Ok(_) => Ok(()),
            Err(error) => self.look_at(&error),
        }
    }

    /// What has come, without waiting.
    fn peek(&self, word: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_nonblocking(true)?;
        let seen = self.stream.peek(word);
        self.stream.set_nonblocking(false)?;
        seen
    }
}
