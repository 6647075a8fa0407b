//! One log: each worker adds lines to a buffer in memory, and one thread for each log writes them.
//!
//! Only that thread waits for a disk, a pipe, a lock or a daemon. A worker copies bytes into its buffer and wakes the
//! thread only when it sleeps; the thread then lets lines gather for a moment. A login awaits its line, with a
//! deadline, while its worker serves others.

mod buffer;
mod writer;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use self::buffer::LineBuffer;
use self::writer::LogWriter;
use super::chained_file::ChainedFile;
use super::log_destination::{LogDestination, LogFile};
use super::syslog::SyslogClient;
use crate::config::{self, LogFormat, WhenStuck};

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

/// The state that the handles and the thread share.
struct LogQueue {
    /// The name of the destination.
    place: String,
    started: Instant,
    /// The buffers of all workers.
    buffers: Mutex<Vec<Arc<LineBuffer>>>,
    /// Bytes of lines that are not written yet.
    waiting: AtomicUsize,
    losses: LostLines,
    orders: Mutex<WriterOrders>,
    /// Notified when orders are carried out.
    carried_out: Condvar,
    thread: OnceLock<Thread>,
    is_asleep: AtomicBool,
    is_hurried: AtomicBool,
    is_over: AtomicBool,
    /// When the destination last received bytes that it has not accepted yet, in milliseconds after the start; 0: it
    /// has accepted all.
    busy_since: AtomicU64,
}

/// Lines that were not written.
#[derive(Debug, Default)]
struct LostLines {
    /// How many since the start.
    lines: AtomicU64,
    /// How many of them no note in the log reports yet.
    unreported: AtomicU64,
    /// Whether the last attempt to write failed.
    failing: AtomicBool,
}

/// Orders to the thread, besides writing lines.
#[derive(Debug, Default)]
struct WriterOrders {
    reopen: bool,
    close: bool,
    /// How many flushes were requested.
    asked: u64,
    /// The number of the last flush that is done.
    done: u64,
}

/// A request to write all lines that were added before it.
pub struct FlushRequest {
    shared: Arc<LogQueue>,
    number: u64,
}

/// Tells when a log has ended, after its handles are dropped.
#[derive(Clone)]
pub struct ClosingLog(Arc<LogQueue>);

// === The handle ===

impl Sink {
    /// Starts a log on standard output. The note about lost lines has this format.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn stdout(format: LogFormat) -> io::Result<Self> {
        Self::start(LogDestination::stdout()?, format)
    }

    /// Starts a log on standard error.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn stderr(format: LogFormat) -> io::Result<Self> {
        Self::start(LogDestination::stderr()?, format)
    }

    /// Starts a log at the end of a file; creates a missing file with mode 0600.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn file(path: &Path, format: LogFormat) -> io::Result<Self> {
        Self::start(LogDestination::File(LogFile::open(path)?), format)
    }

    /// Starts a log of JSON lines at the end of a file, in which each line names the digest of the line before it.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn chain(path: &Path) -> io::Result<Self> {
        Self::start(LogDestination::Chained(ChainedFile::open(path)?), LogFormat::Json)
    }

    /// Starts a log of JSON lines at a syslog daemon. A missing daemon shows at the first line.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn syslog(to: config::SyslogConfig) -> io::Result<Self> {
        Self::start(LogDestination::Syslog(SyslogClient::new(to)), LogFormat::Json)
    }

    fn start(place: LogDestination, format: LogFormat) -> io::Result<Self> {
        let shared = Arc::new(LogQueue::new(place.to_string()));
        let writer = LogWriter::new(Arc::clone(&shared), place, format);
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
            return Err(format!("too many lines wait for {}", self.place()));
        };
        self.shared.hurry();
        match timeout(PATIENCE, &mut receipt.written).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(self.cannot_be_written()),
            Ok(Err(_)) => Err(format!("{} is closed", self.place())),
            Err(_) => {
                if when_stuck == WhenStuck::Refuse
                    && let Some(bytes) = self.buffer.withdraw(&receipt)
                {
                    self.shared.waiting.fetch_sub(bytes, Ordering::SeqCst);
                }
                Err(format!("{} took no line in time", self.place()))
            }
        }
    }

    /// Lets the thread write the gathered lines now. Does not wait.
    pub fn hurry(&self) {
        self.shared.hurry();
    }

    /// Returns the name of the destination.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.shared.place
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
            return Err(format!("{} has taken no line for {} s", self.place(), stuck.as_secs()));
        }
        if !self.shared.losses.failing.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.shared.hurry();
        Err(self.cannot_be_written())
    }

    fn cannot_be_written(&self) -> String {
        format!("cannot write {}", self.place())
    }

    /// Waits until all lines added before are written or lost, or until the deadline. Returns whether they are.
    pub fn flush(&self, deadline: Instant) -> bool {
        let asked = self.request_flush();
        self.shared.wait_until(deadline, |orders| orders.done >= asked.number)
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

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("place", &self.place()).finish_non_exhaustive()
    }
}

impl fmt::Debug for FlushRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("place", &self.shared.place).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClosingLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closing").field("place", &self.0.place).finish_non_exhaustive()
    }
}

// === Between the handles and the thread ===

impl LostLines {
    fn add(&self, lines: u64) {
        self.lines.fetch_add(lines, Ordering::Relaxed);
        self.unreported.fetch_add(lines, Ordering::Relaxed);
    }
}

impl LogQueue {
    fn new(place: String) -> Self {
        Self {
            place,
            started: Instant::now(),
            buffers: Mutex::default(),
            waiting: AtomicUsize::new(0),
            losses: LostLines::default(),
            orders: Mutex::default(),
            carried_out: Condvar::new(),
            thread: OnceLock::new(),
            is_asleep: AtomicBool::new(false),
            is_hurried: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            busy_since: AtomicU64::new(0),
        }
    }

    /// Adds a buffer, and drops empty buffers of workers that have ended.
    fn add_buffer(&self, buffer: &Arc<LineBuffer>) {
        let mut buffers = lock(&self.buffers);
        buffers.retain(|buffer| Arc::strong_count(buffer) > 1 || !buffer.is_empty());
        buffers.push(Arc::clone(buffer));
    }

    fn buffers(&self) -> Vec<Arc<LineBuffer>> {
        lock(&self.buffers).clone()
    }

    fn orders(&self) -> MutexGuard<'_, WriterOrders> {
        lock(&self.orders)
    }

    /// Reserves so many bytes of the queue. Returns whether there was room.
    fn reserve(&self, length: usize, most: usize) -> bool {
        let before = self.waiting.fetch_add(length, Ordering::SeqCst);
        let is_admitted = before + length <= most && !self.is_over.load(Ordering::Relaxed);
        if !is_admitted {
            self.waiting.fetch_sub(length, Ordering::SeqCst);
        }
        is_admitted
    }

    fn has_lines(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Wakes the thread if it sleeps: one system call for the first of many lines.
    fn wake(&self) {
        if self.is_asleep.load(Ordering::SeqCst) && self.is_asleep.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    /// Lets the thread write now instead of soon.
    fn hurry(&self) {
        if !self.is_hurried.swap(true, Ordering::SeqCst) {
            self.unpark();
        }
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Blocks the caller's thread until the log's thread has reached a state, or until the deadline.
    fn wait_until(&self, deadline: Instant, is_done: impl Fn(&WriterOrders) -> bool) -> bool {
        let is_done = |orders: &WriterOrders| is_done(orders) || self.is_over.load(Ordering::SeqCst);
        let mut orders = self.orders();
        while !is_done(&orders) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            orders = self.carried_out.wait_timeout(orders, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Returns for how long the destination has accepted nothing, if that is longer than [`PATIENCE`].
    fn stuck_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed);
        let stuck = self.started.elapsed().saturating_sub(Duration::from_millis(since));
        (since != 0 && stuck > PATIENCE).then_some(stuck)
    }

    // === For the thread ===

    /// Sleeps until there is something to do, and then for as long as lines may gather.
    fn sleep(&self) {
        self.is_asleep.store(true, Ordering::SeqCst);
        while !self.has_lines() && !self.is_hurried.load(Ordering::SeqCst) {
            thread::park();
        }
        self.is_asleep.store(false, Ordering::SeqCst);
        let end = Instant::now() + GATHER;
        while !self.is_hurried.load(Ordering::SeqCst) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
        self.is_hurried.store(false, Ordering::SeqCst);
    }

    /// Takes the pending orders; keeps the numbers of flushes.
    fn take_orders(&self) -> WriterOrders {
        let mut orders = self.orders();
        let (asked, done) = (orders.asked, orders.done);
        std::mem::replace(&mut *orders, WriterOrders { asked, done, ..WriterOrders::default() })
    }

    /// Reports that all flushes up to this number are done.
    fn report_flushed(&self, asked: u64) {
        self.orders().done = asked;
        self.carried_out.notify_all();
    }

    fn note_write(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        self.busy_since.store(now.max(1), Ordering::Relaxed);
    }

    fn note_idle(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.note_idle();
        // Takes the lock: a waiter between its check and its wait would miss the notification.
        drop(self.orders());
        self.carried_out.notify_all();
    }
}

/// Locks even after a panic elsewhere: values are moved in and out whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
