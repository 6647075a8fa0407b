//! Where lines go: each worker gathers its own in memory, and one thread for each log writes them.
//!
//! Nothing here waits for a disk, a pipe, a lock or a daemon, except that thread. A worker adds bytes to a buffer, and
//! wakes the thread only when it sleeps; the thread then lets lines gather for a moment. A login awaits its line, with a
//! deadline, while its worker goes on with others.

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
/// How many bytes of one worker are written before that.
const HAND_OVER: usize = 32 << 10;
/// How many bytes of lines may wait for one log.
const MAX_WAITING: usize = 4 << 20;
/// How many of them may be of lines that a login does not need.
const MAX_UNNEEDED: usize = 2 << 20;
/// How long a place may take no line before it counts as stuck, and a login waits for its line.
const PATIENCE: Duration = Duration::from_secs(2);

/// A handle to one log. Dropping the last one lets the thread write what waits, and end.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<LogQueue>,
    buffer: Arc<LineBuffer>,
    /// Closes the log.
    _open: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Arc<LogQueue>);

/// What the handles and the thread share.
struct LogQueue {
    /// What the place is called.
    place: String,
    started: Instant,
    /// Those of all workers.
    buffers: Mutex<Vec<Arc<LineBuffer>>>,
    /// Bytes of lines that are not written yet.
    waiting: AtomicUsize,
    losses: LostLines,
    orders: Mutex<WriterOrders>,
    /// Told whenever orders were followed.
    followed: Condvar,
    thread: OnceLock<Thread>,
    is_asleep: AtomicBool,
    is_hurried: AtomicBool,
    is_over: AtomicBool,
    /// When the place was last given something that it has not taken, in milliseconds after the start; 0: it has taken all.
    busy_since: AtomicU64,
}

/// What is known of lines that were not written.
#[derive(Debug, Default)]
struct LostLines {
    /// All since the start.
    lines: AtomicU64,
    /// Those of which no note is written yet.
    unsaid: AtomicU64,
    /// What was last tried failed.
    failing: AtomicBool,
}

/// What the thread is to do besides writing lines.
#[derive(Debug, Default)]
struct WriterOrders {
    reopen: bool,
    close: bool,
    /// How many times it was asked to write all.
    asked: u64,
    /// The last of those that it has done.
    done: u64,
}

/// What was asked of a log: to write all that it had by then.
pub struct FlushRequest {
    shared: Arc<LogQueue>,
    number: u64,
}

/// The end of a log whose handles are dropped.
#[derive(Clone)]
pub struct ClosingLog(Arc<LogQueue>);

// === The handle ===

impl Sink {
    /// Starts a log on standard output. The format is that of the note about lost lines.
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

    /// Starts a log at the end of a file, which is made for its owner alone (mode 0600) when it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn file(path: &Path, format: LogFormat) -> io::Result<Self> {
        Self::start(LogDestination::File(LogFile::open(path)?), format)
    }

    /// Starts a log of JSON lines at the end of a file, in which each line is bound to the one before it.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn chain(path: &Path) -> io::Result<Self> {
        Self::start(LogDestination::Chained(ChainedFile::open(path)?), LogFormat::Json)
    }

    /// Starts a log of JSON lines that a syslog daemon takes. Whether it is there shows when it gets a line.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn syslog(to: config::SyslogConfig) -> io::Result<Self> {
        Self::start(LogDestination::Syslog(SyslogClient::new(to)), LogFormat::Json)
    }

    fn start(place: LogDestination, format: LogFormat) -> io::Result<Self> {
        let shared = Arc::new(LogQueue::new(place.to_string()));
        let writer = LogWriter::new(Arc::clone(&shared), place, format);
        // Never joined: whatever a place does, nothing waits for it without a deadline.
        let thread = thread::Builder::new().name("callgate-log".to_owned()).spawn(move || writer.run())?;
        shared.thread.get_or_init(|| thread.thread().clone());
        let (buffer, open) = (Arc::<LineBuffer>::default(), Arc::new(CloseOnDrop(Arc::clone(&shared))));
        shared.add(&buffer);
        Ok(Self { shared, buffer, _open: open })
    }

    /// Returns a handle that gathers lines in a buffer of its own, for a worker: no other thread then holds its lock,
    /// except the writer's for a moment.
    #[must_use]
    pub fn of_worker(&self) -> Self {
        let buffer = Arc::<LineBuffer>::default();
        self.shared.add(&buffer);
        Self { buffer, ..self.clone() }
    }

    /// Adds a line that `write` appends without its end, or counts it as lost when too many wait. Never waits.
    pub fn line_with(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.add(MAX_UNNEEDED, write);
    }

    /// As [`Sink::line_with`], with a line.
    pub fn line(&self, line: &str) {
        self.line_with(|bytes| bytes.extend_from_slice(line.as_bytes()));
    }

    /// Adds a line for which there is room even where there is none for others. Never waits.
    pub fn needed_line(&self, line: &str) {
        self.add(MAX_WAITING, |bytes| bytes.extend_from_slice(line.as_bytes()));
    }

    fn add(&self, most: usize, write: impl FnOnce(&mut Vec<u8>)) {
        match self.buffer.push(write, |length| self.shared.admit(length, most)) {
            Some(gathered) if gathered >= HAND_OVER => self.shared.hurry(),
            Some(_) => self.shared.wake(),
            None => self.shared.losses.add(1),
        }
    }

    /// Adds a line and waits until it is written, for two seconds at most. One that is not written by then is taken back,
    /// unless it is half written or the login goes on without it. Such a login does not wait for a log that is known to
    /// be stuck.
    ///
    /// # Errors
    /// With the cause: the line is not written, or nobody can tell.
    pub async fn awaited_line(&self, line: &str, when_stuck: WhenStuck) -> Result<(), String> {
        if when_stuck == WhenStuck::GoOn
            && let Err(problem) = self.check()
        {
            self.needed_line(line);
            return Err(problem);
        }
        let Some(mut receipt) = self.buffer.push_awaited(line, |length| self.shared.admit(length, MAX_WAITING)) else {
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

    /// Writes what has gathered at once. Does not wait for it.
    pub fn hurry(&self) {
        self.shared.hurry();
    }

    /// Returns what the place is called.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// Tells whether another handle leads to the same log.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Returns how many lines were lost since the start: too many waited, or the place took nothing.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.losses.lines.load(Ordering::Relaxed)
    }

    /// Tells whether lines can be written. A place that failed is tried again meanwhile: it has lines to tell of.
    ///
    /// # Errors
    /// When the place has taken nothing for more than two seconds, or what was last tried failed.
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

    /// Waits until all that was added before is written or lost, or until the deadline. Tells whether it is.
    pub fn flush(&self, deadline: Instant) -> bool {
        let asked = self.ask();
        self.shared.wait_until(deadline, |orders| orders.done >= asked.number)
    }

    /// Asks for all to be written that was added before. Does not wait for it.
    #[must_use]
    pub fn ask(&self) -> FlushRequest {
        let number = {
            let mut orders = self.shared.orders();
            orders.asked += 1;
            orders.asked
        };
        self.shared.hurry();
        FlushRequest { shared: Arc::clone(&self.shared), number }
    }

    /// Opens the file again, once all that was added before is written. Does not wait for it.
    pub fn reopen(&self) {
        self.shared.orders().reopen = true;
        self.shared.hurry();
    }

    /// Returns what tells when the log has ended, once all its handles are dropped.
    #[must_use]
    pub fn closing(&self) -> ClosingLog {
        ClosingLog(Arc::clone(&self.shared))
    }
}

impl FlushRequest {
    /// Tells whether it is written or lost.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.shared.orders().done >= self.number || self.shared.is_over.load(Ordering::SeqCst)
    }
}

impl ClosingLog {
    /// Tells whether everything is written and the thread has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::SeqCst)
    }

    /// Tells whether this is the end of the same log.
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
        self.unsaid.fetch_add(lines, Ordering::Relaxed);
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
            followed: Condvar::new(),
            thread: OnceLock::new(),
            is_asleep: AtomicBool::new(false),
            is_hurried: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            busy_since: AtomicU64::new(0),
        }
    }

    /// Adds a buffer, and drops those that have no worker any more and no lines.
    fn add(&self, buffer: &Arc<LineBuffer>) {
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

    /// Takes so many bytes of the room for lines, if there are.
    fn admit(&self, length: usize, most: usize) -> bool {
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

    /// Wakes the thread if it sleeps: a system call only for the first line of many.
    fn wake(&self) {
        if self.is_asleep.load(Ordering::SeqCst) && self.is_asleep.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    /// Lets the thread write now what it would write soon.
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

    /// Waits on the caller's thread for something the log's thread does.
    fn wait_until(&self, deadline: Instant, is_done: impl Fn(&WriterOrders) -> bool) -> bool {
        let is_done = |orders: &WriterOrders| is_done(orders) || self.is_over.load(Ordering::SeqCst);
        let mut orders = self.orders();
        while !is_done(&orders) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            orders = self.followed.wait_timeout(orders, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Returns for how long the place has taken nothing, if that is too long.
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

    /// Takes the orders that were given, and leaves what was asked and done.
    fn take_orders(&self) -> WriterOrders {
        let mut orders = self.orders();
        let (asked, done) = (orders.asked, orders.done);
        std::mem::replace(&mut *orders, WriterOrders { asked, done, ..WriterOrders::default() })
    }

    /// Notes that everything is written that was asked for by then.
    fn answer(&self, asked: u64) {
        self.orders().done = asked;
        self.followed.notify_all();
    }

    fn moves(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        self.busy_since.store(now.max(1), Ordering::Relaxed);
    }

    fn rests(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.rests();
        // Under the lock, or one that has just looked would wait for ever.
        drop(self.orders());
        self.followed.notify_all();
    }
}

/// Locks even after a panic elsewhere: what is inside is moved in and out whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
