//! Bytes on their way from one side of an exchange to the other, counted until they are taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

use super::room::{LEAST, Room};
use super::{Ledger, LocalCount, end_turn, lock};

/// The memory that a piece costs besides its bytes.
pub(super) const OVERHEAD: usize = 256;

/// The bytes of one exchange that are under way in one direction.
#[derive(Debug)]
pub(crate) struct Flow {
    ledger: Arc<Ledger>,
    under_way: LocalCount,
    /// Bytes that are read and not yet on their way.
    waiting: LocalCount,
    /// Bytes that the client may have sent ahead.
    ahead: LocalCount,
    /// The task that waits until nothing is under way.
    waker: Mutex<Option<Waker>>,
    is_waited_for: AtomicBool,
}

impl Flow {
    /// Makes a flow with nothing under way.
    #[must_use]
    pub(crate) fn new(ledger: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            ledger: Arc::clone(ledger),
            under_way: LocalCount::default(),
            waiting: LocalCount::default(),
            ahead: LocalCount::default(),
            waker: Mutex::default(),
            is_waited_for: AtomicBool::new(false),
        })
    }

    /// Waits until something may be read and handed over, and returns the most bytes that may.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.ledger.ends_turn() {
            end_turn(cx);
            return Poll::Pending;
        }
        match self.ledger.room() {
            Room::Plenty => Poll::Ready(usize::MAX),
            Room::Least if self.under_way.get() == 0 => Poll::Ready(LEAST),
            // The end of the piece that is under way wakes the task.
            Room::Least => {
                *lock(&self.waker) = Some(cx.waker().clone());
                self.is_waited_for.store(true, Ordering::Relaxed);
                Poll::Pending
            }
            Room::None => {
                self.ledger.wait_for_room(cx.waker());
                Poll::Pending
            }
        }
    }

    /// Tells whether a task waits until nothing is under way.
    #[must_use]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.is_waited_for.load(Ordering::Relaxed)
    }

    /// Sets how many bytes are read and not yet on their way.
    pub(crate) fn set_waiting(&self, bytes: usize) {
        self.waiting.set(self.ledger.replace(self.waiting.get(), bytes));
    }

    /// Sets how many bytes the client may have sent ahead of this flow.
    pub(crate) fn set_ahead(&self, bytes: usize) {
        let before = self.ahead.replace(bytes);
        if before != bytes {
            self.ledger.replace_ahead(before, bytes);
        }
    }

    /// Counts bytes as under way until they are dropped.
    #[must_use]
    pub(crate) fn count(self: &Arc<Self>, bytes: Bytes) -> CountedBytes {
        self.ledger.add_to_turn(bytes.len());
        let cost = self.ledger.replace(0, bytes.len() + OVERHEAD);
        self.under_way.set(self.under_way.get() + cost);
        self.ledger.under_way.set(self.ledger.under_way.get() + cost);
        CountedBytes { bytes, counted: Some((Arc::clone(self), cost)) }
    }

    fn taken(&self, cost: usize) {
        let ledger = &self.ledger;
        ledger.replace(cost, 0);
        ledger.under_way.set(ledger.under_way.get() - cost);
        ledger.moved.set(ledger.moved.get() + cost);
        self.under_way.set(self.under_way.get() - cost);
        if self.under_way.get() == 0
            && self.is_waited_for.swap(false, Ordering::Relaxed)
            && let Some(waker) = lock(&self.waker).take()
        {
            waker.wake();
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.set_waiting(0);
        self.set_ahead(0);
    }
}

/// Bytes that count as under way until they are dropped.
#[derive(Debug)]
pub(crate) struct CountedBytes {
    bytes: Bytes,
    counted: Option<(Arc<Flow>, usize)>,
}

impl From<Bytes> for CountedBytes {
    /// Takes bytes of callgate itself, which are few and not counted.
    fn from(bytes: Bytes) -> Self {
        Self { bytes, counted: None }
    }
}

impl Buf for CountedBytes {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        if let Some((flow, cost)) = self.counted.take() {
            flow.taken(cost);
        }
    }
}
