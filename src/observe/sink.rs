//! One log: each worker adds lines to a buffer in memory, and one thread for each log writes them.
//!
//! Only that thread waits for a disk, a pipe, a lock or a daemon. A worker copies bytes into its buffer and wakes the
//! thread only when it sleeps; the thread then lets lines gather for a moment. A login awaits its line, with a
//! deadline, while its worker serves others.

mod buffer;
mod queue;
mod writer;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use self::buffer::LineBuffer;
use self::queue::LogQueue;
use self::writer::LogWriter;
use super::chained_file::ChainedFile;
use super::line::LineStyle;
use super::log_destination::{LogDestination, LogFile};
use crate::config::{self, WhenStuck};

/// How long lines gather before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// How many bytes of one worker's lines are written at once, without waiting for more.
const HAND_OVER: usize = 32 << 10;
/// How many bytes of lines may wait for one log.
const MAX_WAITING: usize = 4 << 20;
/// How many of them may belong to lines that no login depends on.
const MAX_UNNEEDED: usize = 2 << 20;
/// How long a destination may accept no line before it counts as stuck; how long a login waits for its line.
const PATIENCE: Duration = Duration::from_secs(2);

/// A handle to one log. After the last handle is dropped, the thread writes the waiting lines and ends.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<LogQueue>,
    buffer: Arc<LineBuffer>,
    /// Closes the log.
    _open: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Arc<LogQueue>);

/// Lets the thread write now, also where the caller has left.
struct HurryOnDrop<'s>(&'s LogQueue);

/// A request to write all lines that were added before it.
pub struct FlushRequest {
    shared: Arc<LogQueue>,
    number: u64,
}

/// Tells when a log has ended, after its handles are dropped.
#[derive(Clone)]
pub struct ClosingLog(Arc<LogQueue>);

impl Sink {
    /// Starts a log on standard output. The note about lost lines has this style.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn stdout(style: &LineStyle) -> io::Result<Self> {
        Self::start(LogDestination::stdout()?, style)
    }

    /// Starts a log on standard error.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn stderr(style: &LineStyle) -> io::Result<Self> {
        Self::start(LogDestination::stderr()?, style)
    }

    /// Starts a log in the journal of systemd.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn journal(style: &LineStyle) -> io::Result<Self> {
        Self::start(LogDestination::journal(), style)
    }

    /// Starts a log at the end of a file; creates a missing file with mode 0600.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn file(path: &Path, style: &LineStyle) -> io::Result<Self> {
        Self::start(LogDestination::File(LogFile::open(path)?), style)
    }

    /// Starts a log of JSON lines at the end of a file, in which each line names the digest of the line before it.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn chain(path: &Path, style: &LineStyle) -> io::Result<Self> {
        Self::start(LogDestination::Chained(ChainedFile::open(path, style)?), &style.json())
    }

    /// Starts a log of JSON lines at a syslog daemon. A missing daemon shows at the first line.
    ///
    /// # Errors
    /// When no thread can be started, or a certificate of `ca` is of no use.
    pub fn syslog(to: config::SyslogConfig, style: &LineStyle) -> io::Result<Self> {
        Self::start(LogDestination::syslog(to)?, &style.json())
    }

    fn start(destination: LogDestination, style: &LineStyle) -> io::Result<Self> {
        let shared = Arc::new(LogQueue::new(destination.to_string()));
        let writer = LogWriter::new(Arc::clone(&shared), destination, style.clone());
        // Never joined: every wait for a destination has a deadline.
        let thread = thread::Builder::new().name("callgate-log".to_owned()).spawn(move || writer.run())?;
        shared.thread.get_or_init(|| thread.thread().clone());
        let (buffer, open) = (Arc::<LineBuffer>::default(), Arc::new(CloseOnDrop(Arc::clone(&shared))));
        shared.add_buffer(&buffer);
        Ok(Self { shared, buffer, _open: open })
    }

    /// Returns a handle with a buffer of its own, for a worker: only the writer's thread contends for its lock, for a
    /// moment.
    #[must_use]
    pub fn of_worker(&self) -> Self {
        let buffer = Arc::<LineBuffer>::default();
        self.shared.add_buffer(&buffer);
        Self { buffer, ..self.clone() }
    }

    /// Adds a line, which `write` appends without its newline. Never waits; counts the line as lost if the queue is
    /// full.
    pub fn line_with(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.add(MAX_UNNEEDED, write);
    }

    /// Adds a line, as [`Sink::line_with`] does.
    #[cfg(test)]
    pub(super) fn line(&self, line: &str) {
        self.line_with(|bytes| bytes.extend_from_slice(line.as_bytes()));
    }

    /// Adds a line that may also use the room reserved for audit lines. Never waits.
    pub fn needed_line(&self, line: &str) {
        self.add(MAX_WAITING, |bytes| bytes.extend_from_slice(line.as_bytes()));
    }

    fn add(&self, most: usize, write: impl FnOnce(&mut Vec<u8>)) {
        match self.buffer.push(write, |length| self.shared.reserve(length, most)) {
            Some(gathered) if gathered >= HAND_OVER => self.shared.hurry(),
            Some(_) => self.shared.wake(),
            None => self.shared.losses.add(1),
        }
    }

    /// Adds a line and waits until it is written, for two seconds at most. A line that is not written by then is
    /// withdrawn, unless it is partly written or `when_stuck` lets the login go on. In that case a log that is known to
    /// be stuck is not waited for.
    ///
    /// # Errors
    /// Names the cause: the line is not written, or its fate is unknown.
    pub async fn awaited_line(&self, line: &str, when_stuck: WhenStuck) -> Result<(), String> {
        if when_stuck == WhenStuck::GoOn
            && let Err(problem) = self.check()
        {
            self.needed_line(line);
            return Err(problem);
        }
        let Some(mut receipt) = self.buffer.push_awaited(line, |length| self.shared.reserve(length, MAX_WAITING))
        else {
            self.shared.losses.add(1);
            return Err(format!("too many lines wait for {}", self.destination()));
        };
        let hurry = HurryOnDrop(&self.shared);
        // The other logins that the worker serves in this turn add their lines first: one write is for all of them.
        tokio::task::yield_now().await;
        drop(hurry);
        match timeout(PATIENCE, &mut receipt.written).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(self.cannot_be_written()),
            Ok(Err(_)) => Err(format!("{} is closed", self.destination())),
            Err(_) => {
                if when_stuck == WhenStuck::Refuse
                    && let Some(bytes) = self.buffer.withdraw(&receipt)
                {
                    self.shared.waiting.fetch_sub(bytes, Ordering::SeqCst);
                }
                Err(format!("{} took no line in time", self.destination()))
            }
        }
    }

    /// Lets the thread write the gathered lines now. Does not wait.
    pub fn hurry(&self) {
        self.shared.hurry();
    }

    /// Returns the name of the destination.
    #[must_use]
    pub fn destination(&self) -> &str {
        &self.shared.destination
    }

    /// Returns whether another handle belongs to the same log.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Returns how many lines were lost since the start: the queue was full, or the destination failed.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.losses.lines.load(Ordering::Relaxed)
    }

    /// Checks that lines can be written. A check lets a destination that failed try again, to report its lost lines.
    ///
    /// # Errors
    /// When the destination has accepted nothing for more than two seconds, or the last attempt to write failed.
    pub fn check(&self) -> Result<(), String> {
        if let Some(stuck) = self.shared.stuck_for() {
            return Err(format!("{} has taken no line for {} s", self.destination(), stuck.as_secs()));
        }
        if !self.shared.losses.failing.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.shared.hurry();
        Err(self.cannot_be_written())
    }

    fn cannot_be_written(&self) -> String {
        format!("cannot write {}", self.destination())
    }

    /// Waits until all lines added before are written or lost, or until the deadline. Returns whether they are. Lines for
    /// a server that takes none are not waited for.
    pub fn flush(&self, deadline: Instant) -> bool {
        let asked = self.request_flush();
        self.shared.wait_until(deadline, |orders| orders.done.max(orders.put_off) >= asked.number) && asked.is_done()
    }

    /// Requests that all lines added before are written. Does not wait.
    #[must_use]
    pub fn request_flush(&self) -> FlushRequest {
        let number = {
            let mut orders = self.shared.orders();
            orders.asked += 1;
            orders.asked
        };
        self.shared.hurry();
        FlushRequest { shared: Arc::clone(&self.shared), number }
    }

    /// Opens the file again after all lines added before are written. Does not wait.
    pub fn reopen(&self) {
        self.shared.orders().reopen = true;
        self.shared.hurry();
    }

    /// Returns a handle that tells when the log has ended, after all its handles are dropped.
    #[must_use]
    pub fn closing(&self) -> ClosingLog {
        ClosingLog(Arc::clone(&self.shared))
    }
}

impl FlushRequest {
    /// Returns whether all those lines are written or lost.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.shared.orders().done >= self.number || self.shared.is_over.load(Ordering::SeqCst)
    }
}

impl ClosingLog {
    /// Returns whether everything is written and the thread has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::SeqCst)
    }

    /// Returns whether another handle belongs to the same log.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.orders().close = true;
        self.0.hurry();
    }
}

impl Drop for HurryOnDrop<'_> {
    fn drop(&mut self) {
        self.0.hurry();
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("destination", &self.destination()).finish_non_exhaustive()
    }
}

impl fmt::Debug for FlushRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushRequest").field("destination", &self.shared.destination).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClosingLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosingLog").field("destination", &self.0.destination).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
