//! The queue of one log, between the handles that add lines and the thread that writes them.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::time::Instant;

use super::buffer::LineBuffer;
use super::{GATHER, PATIENCE};

/// The state that the handles and the thread share.
pub(super) struct LogQueue {
    /// The name of the destination.
    pub(super) destination: String,
    started: Instant,
    /// The buffers of all workers.
    buffers: Mutex<Vec<Arc<LineBuffer>>>,
    /// Bytes of lines that are not written yet.
    pub(super) waiting: AtomicUsize,
    pub(super) losses: LostLines,
    orders: Mutex<WriterOrders>,
    /// Notified when orders are carried out.
    carried_out: Condvar,
    pub(super) thread: OnceLock<Thread>,
    is_asleep: AtomicBool,
    is_hurried: AtomicBool,
    pub(super) is_over: AtomicBool,
    /// When the destination last received bytes that it has not accepted yet, in milliseconds after the start; 0: it
    /// has accepted all.
    busy_since: AtomicU64,
}

/// Lines that were not written.
#[derive(Debug, Default)]
pub(super) struct LostLines {
    /// How many since the start.
    pub(super) lines: AtomicU64,
    /// How many of them no note in the log reports yet.
    pub(super) unreported: AtomicU64,
    /// Whether the last attempt to write failed.
    pub(super) failing: AtomicBool,
}

/// Orders to the thread, besides writing lines.
#[derive(Debug, Default)]
pub(super) struct WriterOrders {
    pub(super) reopen: bool,
    pub(super) close: bool,
    /// How many flushes were requested.
    pub(super) asked: u64,
    /// The number of the last flush that is done.
    pub(super) done: u64,
    /// The number of the last flush whose lines wait for a server that takes none.
    pub(super) put_off: u64,
}

impl LostLines {
    pub(super) fn add(&self, lines: u64) {
        self.lines.fetch_add(lines, Ordering::Relaxed);
        self.unreported.fetch_add(lines, Ordering::Relaxed);
    }
}

impl LogQueue {
    pub(super) fn new(destination: String) -> Self {
        Self {
            destination,
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
    pub(super) fn add_buffer(&self, buffer: &Arc<LineBuffer>) {
        let mut buffers = lock(&self.buffers);
        buffers.retain(|buffer| Arc::strong_count(buffer) > 1 || !buffer.is_empty());
        buffers.push(Arc::clone(buffer));
    }

    pub(super) fn buffers(&self) -> Vec<Arc<LineBuffer>> {
        lock(&self.buffers).clone()
    }

    pub(super) fn orders(&self) -> MutexGuard<'_, WriterOrders> {
        lock(&self.orders)
    }

    /// Reserves so many bytes of the queue. Returns whether there was room.
    pub(super) fn reserve(&self, length: usize, most: usize) -> bool {
        let before = self.waiting.fetch_add(length, Ordering::SeqCst);
        let is_admitted = before + length <= most && !self.is_over.load(Ordering::Relaxed);
        if !is_admitted {
            self.waiting.fetch_sub(length, Ordering::SeqCst);
        }
        is_admitted
    }

    pub(super) fn has_lines(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Wakes the thread if it sleeps: one system call for the first of many lines.
    pub(super) fn wake(&self) {
        if self.is_asleep.load(Ordering::SeqCst) && self.is_asleep.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    /// Waits until the thread sleeps.
    #[cfg(test)]
    pub(super) fn wait_for_sleep(&self) {
        while !self.is_asleep.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        // It looks once more for lines before it does.
        thread::sleep(Duration::from_millis(50));
    }

    /// Lets the thread write now instead of soon.
    pub(super) fn hurry(&self) {
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
    pub(super) fn wait_until(&self, deadline: Instant, is_done: impl Fn(&WriterOrders) -> bool) -> bool {
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
    pub(super) fn stuck_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Relaxed);
        let stuck = self.started.elapsed().saturating_sub(Duration::from_millis(since));
        (since != 0 && stuck > PATIENCE).then_some(stuck)
    }

    // === For the thread ===

    /// Sleeps until there is something to do, at the latest until `due`, and then for as long as lines may gather.
    pub(super) fn sleep(&self, due: Option<Instant>) {
        self.is_asleep.store(true, Ordering::SeqCst);
        while !self.has_lines() && !self.is_hurried.load(Ordering::SeqCst) {
            match due.map(|due| due.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(Duration::ZERO) => break,
                Some(left) => thread::park_timeout(left),
            }
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
    pub(super) fn take_orders(&self) -> WriterOrders {
        let mut orders = self.orders();
        let (asked, done, put_off) = (orders.asked, orders.done, orders.put_off);
        std::mem::replace(&mut *orders, WriterOrders { asked, done, put_off, ..WriterOrders::default() })
    }

    /// Reports that all flushes up to this number are done.
    pub(super) fn report_flushed(&self, asked: u64) {
        self.orders().done = asked;
        self.carried_out.notify_all();
    }

    /// Reports that the lines of all flushes up to this number wait for a server that takes none.
    pub(super) fn report_put_off(&self, asked: u64) {
        self.orders().put_off = asked;
        self.carried_out.notify_all();
    }

    pub(super) fn note_write(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        self.busy_since.store(now.max(1), Ordering::Relaxed);
    }

    pub(super) fn note_idle(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
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
