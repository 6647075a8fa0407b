//! Log lines for a syslog server over TCP or TLS: RFC 5424 messages, each with its length in front (RFC 6587 §3.4.1,
//! RFC 5425 §4.3).
//!
//! Lines wait here while the server is away or slow. The system gives a connection up when what it sent is not
//! acknowledged for [`UNACKNOWLEDGED`], so on a connection that lives, older messages have arrived. The younger ones are
//! kept, and sent again over the next connection: a line may arrive twice, and none is lost on the way.

mod connection;
mod lookup;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use rustls::ProtocolVersion;
use tokio::time::Instant;

use self::connection::{StreamConnection, TlsClient};
use self::lookup::NameLookup;
use super::syslog_message;
use crate::backoff;
use crate::config::{HostPort, SyslogTls};

/// How many bytes of messages may wait.
const MAX_WAITING: usize = 4 << 20;
/// How many bytes of messages are kept to be sent again.
const MAX_KEPT: usize = 1 << 20;
/// How long sent bytes may stay unacknowledged before the system gives the connection up.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// The pause after the first failure in a row; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between tries to reach the server.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that lived for so long is replaced at once when it breaks.
const LASTING: Duration = Duration::from_secs(10);
/// How long messages are sent before the thread looks for new lines and orders.
const TURN: Duration = Duration::from_secs(1);
/// How long the server may take nothing before that is a problem.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before a server that took nothing is tried again.
const SLOW_PAUSE: Duration = Duration::from_millis(100);

/// The messages for a syslog server, and the connection to it.
pub(super) struct SyslogStream {
    at: HostPort,
    tls: Option<TlsClient>,
    lookup: NameLookup,
    host: String,
    /// Messages that the connection has not taken whole, the oldest first.
    queue: VecDeque<Vec<u8>>,
    /// How many bytes the queue has.
    waiting: usize,
    /// How many bytes of the first message the connection has taken.
    taken: usize,
    kept: KeptMessages,
    /// How many messages the connection has taken whole that the system may not have yet.
    unflushed: u64,
    connection: Option<StreamConnection>,
    /// When the server last took something, or had nothing to take.
    moved: Instant,
    /// How many connections failed in a row.
    failures: u32,
    /// When the next connection may be tried.
    next_try: Instant,
}

/// Messages that were sent and may not have arrived.
#[derive(Default)]
struct KeptMessages {
    messages: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl SyslogStream {
    /// Prepares a connection without TLS; it is made with the first delivery.
    pub(super) fn tcp(at: HostPort) -> Self {
        let now = Instant::now();
        Self {
            at,
            tls: None,
            lookup: NameLookup::default(),
            host: syslog_message::host(),
            queue: VecDeque::new(),
            waiting: 0,
            taken: 0,
            kept: KeptMessages::default(),
            unflushed: 0,
            connection: None,
            moved: now,
            failures: 0,
            next_try: now,
        }
    }

    /// Prepares a connection with TLS, as [`SyslogStream::tcp`] does.
    pub(super) fn tls(to: &SyslogTls) -> io::Result<Self> {
        Ok(Self { tls: Some(TlsClient::new(to)?), ..Self::tcp(to.at.clone()) })
    }

    /// Connects, and closes the connection again. Returns the version of TLS, where it is spoken.
    pub(super) fn probe(mut self) -> io::Result<Option<ProtocolVersion>> {
        self.connect()?;
        let version = self.connection.as_ref().and_then(StreamConnection::tls_version);
        self.end();
        Ok(version)
    }

    /// Accepts a line for the next delivery.
    pub(super) fn accept(&mut self, line: &[u8]) -> io::Result<()> {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
        let message = syslog_message::rfc5424(&self.host, &line);
        let frame = format!("{} {message}", message.len()).into_bytes();
        if self.waiting + frame.len() > MAX_WAITING {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "too many lines wait for it"));
        }
        self.waiting += frame.len();
        self.queue.push_back(frame);
        Ok(())
    }

    /// Sends what waits, for about a second at most.
    pub(super) fn deliver(&mut self) -> io::Result<()> {
        self.connect()?;
        if let Err(error) = self.send() {
            self.disconnect();
            if Instant::now() < self.next_try {
                return Err(error);
            }
            // A server that was started again is there already.
            self.connect()?;
            self.send().inspect_err(|_| self.disconnect())?;
        }
        if !self.is_drained() && self.moved.elapsed() > PATIENCE {
            // The connection stays: the system gives it up, or the server goes on.
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "it reads nothing"));
        }
        Ok(())
    }

    /// Returns when [`SyslogStream::deliver`] has something to do without a new line.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.connection {
            None => Some(self.next_try),
            Some(_) if !self.is_drained() => Some(Instant::now() + SLOW_PAUSE),
            // Whether they have arrived shows by then.
            Some(_) => self.kept.messages.front().map(|(sent, _)| *sent + UNACKNOWLEDGED + PATIENCE),
        }
    }

    /// Returns whether nothing waits: neither to be sent, nor, after a connection broke, to be sent again.
    pub(super) fn is_drained(&self) -> bool {
        let is_sent = match &self.connection {
            Some(connection) => connection.is_flushed(),
            None => self.kept.messages.is_empty(),
        };
        self.queue.is_empty() && is_sent
    }

    /// Ends the connection. Returns how many lines were not sent, or should have been sent again.
    pub(super) fn end(&mut self) -> u64 {
        let unsent = match self.connection.take().map(StreamConnection::end) {
            Some(true) => 0,
            Some(false) => self.unflushed,
            None => self.kept.messages.len() as u64,
        };
        self.queue.len() as u64 + unsent
    }

    fn connect(&mut self) -> io::Result<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        if Instant::now() < self.next_try {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "there is no connection to it"));
        }
        let addresses = self.lookup.addresses(&self.at);
        let opened = addresses.and_then(|all| StreamConnection::open(&all, self.tls.as_ref(), UNACKNOWLEDGED));
        match opened {
            Ok(connection) => {
                self.connection = Some(connection);
                self.moved = Instant::now();
                self.send_again();
                Ok(())
            }
            Err(error) => {
                self.pause();
                Err(error)
            }
        }
    }

    /// Puts the messages that may not have arrived in front of the queue.
    fn send_again(&mut self) {
        (self.taken, self.unflushed) = (0, 0);
        while let Some((_, message)) = self.kept.messages.pop_back() {
            self.waiting += message.len();
            self.queue.push_front(message);
        }
        self.kept.bytes = 0;
    }

    /// Forgets a connection that broke. A server that breaks each one at once is not tried at once.
    fn disconnect(&mut self) {
        let lasted = self.connection.take().is_some_and(|connection| connection.age() > LASTING);
        if lasted {
            (self.failures, self.next_try) = (0, Instant::now());
        } else {
            self.pause();
        }
    }

    fn pause(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.next_try = Instant::now() + backoff::jittered(backoff::after(self.failures, FIRST_PAUSE, LONGEST_PAUSE));
    }

    /// Sends what waits, until the server takes no more. `Err`: the connection broke.
    fn send(&mut self) -> io::Result<()> {
        let start = Instant::now();
        if self.is_drained() {
            self.moved = start;
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.check_open()?;
        if let Some(before) = start.checked_sub(UNACKNOWLEDGED) {
            self.kept.forget_before(before);
        }
        while let Some(message) = self.queue.front()
            && start.elapsed() < TURN
        {
            match connection.send(&message[self.taken..]) {
                Ok(bytes) => self.taken += bytes,
                Err(error) if is_late(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            self.moved = Instant::now();
            if self.taken == message.len()
                && let Some(message) = self.queue.pop_front()
            {
                (self.taken, self.waiting) = (0, self.waiting - message.len());
                self.unflushed = if connection.is_flushed() { 0 } else { self.unflushed + 1 };
                self.kept.add(message);
            }
        }
        match connection.flush() {
            Err(error) if is_late(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                self.unflushed = 0;
                Ok(())
            }
        }
    }
}

impl KeptMessages {
    fn add(&mut self, message: Vec<u8>) {
        self.bytes += message.len();
        self.messages.push_back((Instant::now(), message));
        while self.bytes > MAX_KEPT {
            self.forget_first();
        }
    }

    fn forget_before(&mut self, time: Instant) {
        while self.messages.front().is_some_and(|(sent, _)| *sent < time) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, message)) = self.messages.pop_front() {
            self.bytes -= message.len();
        }
    }
}

/// Returns whether the server exists and took nothing in time. A connection that the system gave up is `TimedOut`.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

impl fmt::Display for SyslogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "tls" } else { "tcp" };
        write!(f, "syslog at {scheme}:{}", self.at)
    }
}

#[cfg(test)]
mod tests;
