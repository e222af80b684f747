//! How processes find each other by TCP: rank 0 listens, the others come to it.
use std::io::{Error as IoError, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Where rank 0 listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rendezvous {
    host: String,
    port: u16,
}

/// What a process of a run says first: this, its rank and the number of ranks.
const GREETING: [u8; 8] = *b"mixce\0\0\x01";
/// How long one that has connected may take to say it.
const GREETING_TIME: Duration = Duration::from_secs(5);
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// The pause between attempts, and between looks for new processes.
const PAUSE: Duration = Duration::from_millis(20);

impl Rendezvous {
    /// The address that `MASTER_ADDR` and `MASTER_PORT` give; `None` unless both are there.
    ///
    /// Where `torchrun` has a store of its own at that port (`TORCHELASTIC_USE_AGENT_STORE`), it is the next port.
    ///
    /// # Errors
    /// [`Error::Config`] if the port is not a number from 1 to 65535.
    pub(super) fn detect(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let (Some(host), Some(text)) = (variable("MASTER_ADDR"), variable("MASTER_PORT")) else {
            return Ok(None);
        };
        let is_taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        let port: Option<u16> = text.parse().ok().filter(|port| *port > 0);
        let port = port.and_then(|port| port.checked_add(u16::from(is_taken)));
        let port = port.ok_or_else(|| {
            Error::config(format!("environment variable `MASTER_PORT`: expected a port, got `{text}`"))
        })?;
        Ok(Some(Self { host, port }))
    }

    /// `host:port`, for people.
    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// For rank 0: the connections of ranks `1..size`, in order. A connection of something else is closed.
    ///
    /// # Errors
    /// [`Error::Config`] if it cannot listen, or a process of another run comes; [`Error::RanksMissing`].
    pub(super) fn accept(&self, size: usize, timeout: Duration) -> Result<Vec<TcpStream>> {
        let started = Instant::now();
        let listener = self.listen().map_err(|error| Error::Config {
            message: format!("rank 0 of {size} processes cannot listen at `{}`: {error}", self.address()),
            hint: Some("set `MASTER_ADDR` to an address of the machine of rank 0, and `MASTER_PORT` to a free port of it".into()),
        })?;
        let mut came: Vec<Option<TcpStream>> = (1..size).map(|_| None).collect();
        let mut unknown = Vec::new();
        loop {
            self.accept_waiting(&listener, &mut unknown);
            let mut silent = Vec::new();
            for newcomer in unknown {
                match newcomer.listen() {
                    Heard::Greeting(stream, rank, size) => self.place(&mut came, (stream, rank, size))?,
                    Heard::NotYet(newcomer) => silent.push(newcomer),
                    Heard::Stranger(from) => {
                        tracing::warn!("closed a connection from {from}, which is no process of the run");
                    }
                }
            }
            unknown = silent;
            if came.iter().all(Option::is_some) {
                return Ok(came.into_iter().flatten().collect());
            }
            if started.elapsed() >= timeout {
                let missing = (1..size).filter(|rank| came[rank - 1].is_none()).collect();
                let seconds = timeout.as_secs_f64();
                return Err(Error::RanksMissing { address: self.address(), size, missing, seconds });
            }
            thread::sleep(PAUSE);
        }
    }

    /// Accepts the connections that are there.
    fn accept_waiting(&self, listener: &TcpListener, unknown: &mut Vec<Newcomer>) {
        loop {
            match listener.accept().and_then(|(stream, from)| Newcomer::new(stream, from)) {
                Ok(newcomer) => unknown.push(newcomer),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!("a connection to `{}` has failed: {error}", self.address());
                    return;
                }
            }
        }
    }

    /// Puts the connection of a rank at its place.
    fn place(
        &self,
        came: &mut [Option<TcpStream>],
        (stream, rank, their_size): (TcpStream, usize, usize),
    ) -> Result<()> {
        let size = came.len() + 1;
        match rank.checked_sub(1).and_then(|at| came.get_mut(at)) {
            Some(place) if place.is_none() && their_size == size => *place = Some(stream),
            _ => return Err(self.of_another_run((rank, their_size), size)),
        }
        Ok(())
    }

    fn of_another_run(&self, (rank, their_size): (usize, usize), size: usize) -> Error {
        Error::Config {
            message: format!(
                "rank {rank} of {their_size} processes came to `{}`: expected each of the ranks 1 to {} of {size} once",
                self.address(),
                size - 1
            ),
            hint: Some("two runs at once need different `MASTER_PORT`s".into()),
        }
    }

    /// Listens without waiting: on the loopback interface alone if it is named as such, else on all, because the name of a machine may mean
    /// another address there than elsewhere.
    fn listen(&self) -> std::io::Result<TcpListener> {
        let is_local = self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let all = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        let all = all.map(|ip| SocketAddr::new(ip, self.port));
        let listener = TcpListener::bind(if is_local { self.resolve()? } else { all.to_vec() }.as_slice())?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }

    /// For the others: the connection to rank 0, which may not listen yet.
    ///
    /// # Errors
    /// [`Error::NoFirstRank`].
    pub(super) fn reach(&self, rank: usize, size: usize, timeout: Duration) -> Result<TcpStream> {
        let started = Instant::now();
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            match self.attempt(rank, size, left.clamp(PAUSE, ATTEMPT)) {
                Ok(stream) => return Ok(stream),
                Err(source) if left.is_zero() => {
                    let (address, seconds) = (self.address(), timeout.as_secs_f64());
                    return Err(Error::NoFirstRank { address, seconds, source });
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn attempt(&self, rank: usize, size: usize, time: Duration) -> std::io::Result<TcpStream> {
        let mut problem = IoError::from(ErrorKind::NotFound);
        for address in self.resolve()? {
            match TcpStream::connect_timeout(&address, time) {
                Ok(mut stream) => {
                    stream.set_nodelay(true)?;
                    let numbers = [rank, size].map(|number| (number as u32).to_le_bytes()).concat();
                    stream.write_all(&[GREETING.as_slice(), &numbers].concat())?;
                    return Ok(stream);
                }
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }
}

/// A connection of which it is not known yet who it is. Nobody waits for it alone: it may be silent.
struct Newcomer {
    stream: TcpStream,
    from: SocketAddr,
    since: Instant,
    said: Vec<u8>,
}

/// What a newcomer has said.
enum Heard {
    /// Its rank, and the number of ranks.
    Greeting(TcpStream, usize, usize),
    NotYet(Newcomer),
    Stranger(SocketAddr),
}

impl Newcomer {
    fn new(stream: TcpStream, from: SocketAddr) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, from, since: Instant::now(), said: Vec::new() })
    }

    /// Without waiting.
    fn listen(mut self) -> Heard {
        let mut bytes = [0; GREETING.len() + 8];
        let is_open = match self.stream.read(&mut bytes[self.said.len()..]) {
            Ok(count) => {
                self.said.extend_from_slice(&bytes[self.said.len()..][..count]);
                count > 0
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        let greeting = self.said.iter().zip(GREETING).all(|(said, expected)| *said == expected);
        if !is_open || !greeting || self.since.elapsed() > GREETING_TIME {
            return Heard::Stranger(self.from);
        }
        match self.said.get(GREETING.len()..).map(<[u8]>::as_chunks) {
            Some(([rank, size], _)) if self.stream.set_nonblocking(false).is_ok() => {
                let [rank, size] = [rank, size].map(|bytes| u32::from_le_bytes(*bytes) as usize);
                Heard::Greeting(self.stream, rank, size)
            }
            _ => Heard::NotYet(self),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Result<Option<Rendezvous>> {
        Rendezvous::detect(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    /// A free port of this machine.
    pub(in super::super) fn local() -> Rendezvous {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        Rendezvous { host: "127.0.0.1".into(), port }
    }

    #[test]
    fn the_address_is_that_of_the_launcher() {
        let at = |port| Some(Rendezvous { host: "node1".into(), port });
        assert_eq!(detect(&[("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500")]).unwrap(), at(29500));
        let torchrun =
            [("MASTER_ADDR", "node1"), ("MASTER_PORT", "29500"), ("TORCHELASTIC_USE_AGENT_STORE", "True")];
        assert_eq!(detect(&torchrun).unwrap(), at(29501), "torchrun itself listens at its port");
        assert_eq!(detect(&[("MASTER_ADDR", "node1")]).unwrap(), None);
        for port in ["x", "0", "70000"] {
            let error = detect(&[("MASTER_ADDR", "node1"), ("MASTER_PORT", port)]).unwrap_err();
            assert!(
                error.to_string().contains(&format!("`MASTER_PORT`: expected a port, got `{port}`")),
                "{error}"
            );
        }
    }

    #[test]
    fn who_is_missing_is_named() {
        let at = local();
        let time = Duration::from_millis(300);
        thread::scope(|scope| {
            let second = scope.spawn(|| at.reach(2, 4, Duration::from_secs(30)));
            let error = at.accept(4, time).unwrap_err();
            assert!(
                matches!(&error, Error::RanksMissing { missing, size: 4, .. } if *missing == [1, 3]),
                "{error}"
            );
            assert!(error.to_string().contains("missing: 1, 3"), "{error}");
            second.join().unwrap().unwrap();
        });
        let error = at.reach(1, 2, time).unwrap_err().to_string();
        assert!(
            error.contains("rank 0") && error.contains(&at.address()) && error.contains("0.3 s"),
            "{error}"
        );
    }

    #[test]
    fn strangers_are_sent_away_and_other_runs_refused() {
        let at = local();
        thread::scope(|scope| {
            let accepted = scope.spawn(|| at.accept(2, Duration::from_secs(30)));
            let mut stranger = loop {
                if let Ok(stream) = TcpStream::connect((at.host.as_str(), at.port)) {
                    break stream;
                }
            };
            stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            at.reach(1, 2, Duration::from_secs(30)).unwrap();
            assert_eq!(accepted.join().unwrap().unwrap().len(), 1);
            for (rank, size) in [(1, 3), (2, 2), (0, 2)] {
                let accepted = scope.spawn(|| at.accept(2, Duration::from_secs(30)));
                at.reach(rank, size, Duration::from_secs(30)).unwrap();
                let error = accepted.join().unwrap().unwrap_err().to_string();
                assert!(error.contains(&format!("rank {rank} of {size} processes came")), "{error}");
            }
        });
    }

    /// Several that say nothing, or only a part, come before the process of the run, and stay.
    #[test]
    fn silent_strangers_hold_nobody_up() {
        let at = local();
        let started = Instant::now();
        thread::scope(|scope| {
            let accepted = scope.spawn(|| at.accept(3, Duration::from_secs(30)));
            let mut silent = Vec::new();
            while silent.len() < 4 {
                match TcpStream::connect((at.host.as_str(), at.port)) {
                    Ok(stream) => silent.push(stream),
                    Err(_) => thread::sleep(PAUSE),
                }
            }
            silent[1].write_all(&GREETING[..3]).unwrap();
            silent[2].write_all(&[GREETING.as_slice(), &[1, 0, 0, 0, 3]].concat()).unwrap();
            let _connected = [2, 1].map(|rank| at.reach(rank, 3, Duration::from_secs(30)).unwrap());
            assert_eq!(accepted.join().unwrap().unwrap().len(), 2);
            assert!(started.elapsed() < GREETING_TIME / 2, "{:?}", started.elapsed());
        });
    }

    #[test]
    fn one_that_stays_silent_is_closed() {
        let at = local();
        thread::scope(|scope| {
            let accepted = scope.spawn(|| at.accept(2, Duration::from_secs(60)));
            let mut silent = loop {
                if let Ok(stream) = TcpStream::connect((at.host.as_str(), at.port)) {
                    break stream;
                }
            };
            silent.set_read_timeout(Some(3 * GREETING_TIME)).unwrap();
            assert_eq!(silent.read(&mut [0]).unwrap(), 0, "closed");
            at.reach(1, 2, Duration::from_secs(30)).unwrap();
            accepted.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let at = local();
        let _other = TcpListener::bind((at.host.as_str(), at.port)).unwrap();
        let error = at.accept(2, Duration::from_secs(30)).unwrap_err().to_string();
        assert!(error.contains("cannot listen") && error.contains(&at.address()), "{error}");
    }
}
