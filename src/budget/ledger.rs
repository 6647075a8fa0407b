//! The bytes of one connection that wait in memory, and how fast the connection moves.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::room::{LEAST, Room, UsageClass, room};
use super::{ClientUsage, ConnectionCounts, LocalCount, TURN, WorkerBudget, lock};

/// The ledger reports a change to the client's count once it is this large, in bytes.
const STEP: usize = 16 << 10;
/// The wakers that one connection keeps for lack of room: more than it has streams, uploads included.
const MAX_STARVED: usize = 256;
/// The most bytes that count for data which a client may send ahead of its uploads (HTTP/2), however many uploads it
/// has.
const MAX_AHEAD: usize = 1 << 20;
/// The shortest time over which a speed is measured.
const SHORTEST: Duration = Duration::from_millis(500);
/// A connection that needs this many seconds or more to move what it holds is slow.
const SLOW: usize = 5;

/// What one connection holds.
#[derive(Debug)]
pub(crate) struct Ledger {
    worker: Arc<WorkerBudget>,
    client: Option<ClientUsage>,
    connections: ConnectionCounts,
    held: LocalCount,
    /// The part of `held` that the client's count knows.
    reported: LocalCount,
    /// The part of `held` that is on its way to one of the sides.
    pub(super) under_way: LocalCount,
    /// The bytes that the client may have sent ahead of what the upstreams of its uploads take.
    ahead: LocalCount,
    /// All bytes that were taken so far.
    pub(super) moved: LocalCount,
    /// The bytes that were handed over in this turn.
    turn: LocalCount,
    speed: Mutex<Option<SpeedSample>>,
    /// Wakers of the flows that wait for room.
    starved: Mutex<Vec<Waker>>,
    is_shed: AtomicBool,
}

/// How fast a connection moved until some time.
#[derive(Debug)]
struct SpeedSample {
    at: Instant,
    /// All bytes that were taken until then.
    moved: usize,
    /// In bytes a second; unknown in the first sample.
    speed: Option<usize>,
}

impl Ledger {
    pub(super) fn new(worker: Arc<WorkerBudget>, client: Option<ClientUsage>) -> Self {
        Self {
            worker,
            client,
            connections: ConnectionCounts::default(),
            held: LocalCount::default(),
            reported: LocalCount::default(),
            under_way: LocalCount::default(),
            ahead: LocalCount::default(),
            moved: LocalCount::default(),
            turn: LocalCount::default(),
            speed: Mutex::default(),
            starved: Mutex::default(),
            is_shed: AtomicBool::new(false),
        }
    }

    /// Returns the client of the connection, if its connections are counted together.
    #[must_use]
    pub(crate) const fn client(&self) -> Option<&ClientUsage> {
        self.client.as_ref()
    }

    /// Returns how many upstream connections serve this connection.
    #[must_use]
    pub(crate) const fn connections(&self) -> &ConnectionCounts {
        &self.connections
    }

    /// Finds the counts of a client whose request came over this connection.
    #[must_use]
    pub(crate) fn client_at(&self, key: IpAddr) -> ClientUsage {
        match &self.client {
            Some(client) if client.key() == key => client.clone(),
            Some(_) | None => self.worker.process().client(key),
        }
    }

    /// Returns the bytes that the connection holds.
    #[must_use]
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// Counts `now` bytes in place of the `before` bytes counted so far, and returns `now`.
    pub(crate) fn replace(&self, before: usize, now: usize) -> usize {
        if before == now {
            return now;
        }
        let held = (self.held.get() + now).saturating_sub(before);
        self.held.set(held);
        if held.abs_diff(self.reported.get()) >= STEP {
            self.report();
        }
        let worker = &self.worker;
        worker.set_held((worker.held.get() + now).saturating_sub(before));
        now
    }

    /// Brings the client's count up to date.
    fn report(&self) {
        let (reported, held) = (self.reported.replace(self.held.get()), self.held.get());
        if let Some(client) = &self.client {
            client.change(reported, held);
        }
    }

    /// Counts `now` bytes that the client may send ahead of an upload, in place of the `before` bytes counted so far.
    pub(super) fn replace_ahead(&self, before: usize, now: usize) {
        let ahead = self.ahead.get();
        let next = (ahead + now).saturating_sub(before);
        self.ahead.set(next);
        self.replace(ahead.min(MAX_AHEAD), next.min(MAX_AHEAD));
    }

    pub(super) fn room(&self) -> Room {
        let budget = self.worker.process();
        let limit = budget.limit();
        let class = UsageClass::of(self.held.get(), self.client.as_ref().map_or(0, ClientUsage::held), limit);
        room(self.under_way.get(), class, budget.held(), limit)
    }

    /// Returns how many bytes one read may take from an answer that begins now.
    #[must_use]
    pub(crate) fn read_limit(&self) -> usize {
        match self.room() {
            Room::Plenty => usize::MAX,
            Room::Least | Room::None => LEAST,
        }
    }

    /// Counts bytes that are handed over in this turn.
    pub(super) fn add_to_turn(&self, bytes: usize) {
        self.turn.set(self.turn.get() + bytes);
    }

    /// Tells whether the turn is over. Then the next one begins.
    pub(super) fn ends_turn(&self) -> bool {
        let is_over = self.turn.get() >= TURN;
        if is_over {
            self.turn.set(0);
        }
        is_over
    }

    /// Keeps a waker until there is room.
    pub(super) fn wait_for_room(&self, waker: &Waker) {
        let mut starved = lock(&self.starved);
        if !starved.iter().any(|known| known.will_wake(waker)) {
            starved.push(waker.clone());
        }
        if starved.len() > MAX_STARVED {
            // Most of these tasks have ended; the others come back.
            starved.drain(..).for_each(Waker::wake);
        }
        self.worker.starved.notify_one();
    }

    /// Measures the speed, and wakes the flows that wait for room if there is some. The worker calls this regularly
    /// while the pressure is high.
    pub(crate) fn refresh(&self, now: Instant) {
        self.report();
        self.measure(now);
        if !matches!(self.room(), Room::None) {
            std::mem::take(&mut *lock(&self.starved)).into_iter().for_each(Waker::wake);
        }
    }

    fn measure(&self, now: Instant) {
        let (moved, mut sample) = (self.moved.get(), lock(&self.speed));
        let speed = match &*sample {
            None => None,
            Some(before) if now - before.at < SHORTEST => return,
            Some(before) => Some((moved - before.moved) * 1000 / (now - before.at).as_millis().max(1) as usize),
        };
        *sample = Some(SpeedSample { at: now, moved, speed });
    }

    /// Returns how many seconds the connection needs to move what it holds, if it is slow.
    #[must_use]
    pub(crate) fn slowness(&self) -> Option<usize> {
        let speed = lock(&self.speed).as_ref()?.speed?;
        let seconds = self.held.get() / speed.max(1);
        (seconds >= SLOW && !self.is_shed()).then_some(seconds)
    }

    /// Orders the connection to end; its task sees that when it is next polled.
    pub(crate) fn shed(&self) {
        self.is_shed.store(true, Ordering::Relaxed);
    }

    /// Tells whether the connection was ordered to end.
    #[must_use]
    pub(crate) fn is_shed(&self) -> bool {
        self.is_shed.load(Ordering::Relaxed)
    }

    /// Runs a future until it completes or the connection is ordered to end.
    pub(crate) async fn unless_shed<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| match self.is_shed() {
            true => Poll::Ready(None),
            false => future.as_mut().poll(cx).map(Some),
        })
        .await
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.replace(self.held.get(), 0);
        self.report();
    }
}
