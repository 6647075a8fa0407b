//! The activity of a connection: the facts that its deadlines follow from.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::observe::metrics::Tally;

/// How long a connection is idle before it rests for the first time: longer than between the requests of a client that is busy,
/// even one of thousands. To make the buffers anew costs more than a small request.
const REST: Duration = Duration::from_secs(5);
/// How long a connection is idle at most before it rests.
const LATEST_REST: Duration = Duration::from_secs(40);
/// A rest that is shorter makes the next one begin later.
const LONG_REST: Duration = Duration::from_secs(30);

/// The activity of one connection. Its I/O and its exchanges record it; its deadlines and the worker read it.
#[derive(Debug)]
pub(crate) struct Activity {
    exchanges: ExchangeCount,
    head: HeadWait,
    /// Since when the client takes none of the bytes that are ready for it.
    write_blocked_since: Cell<Option<Instant>>,
    rest: RestWait,
    closing: ClosingState,
}

/// When the connection rests: releases the buffers of HTTP because it is idle.
#[derive(Debug)]
struct RestWait {
    state: Cell<RestState>,
    /// How long it is idle before.
    after: Cell<Duration>,
}

/// Whether a connection keeps the buffers of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RestState {
    /// It does.
    Awake,
    /// It is to release them, unless an exchange has begun after so many.
    Ordered(u64),
    /// It released them at this time, until the client's next byte.
    AtRest(Instant),
    /// It always does (HTTP/2).
    Never,
}

/// The exchanges of a connection.
#[derive(Debug)]
struct ExchangeCount {
    tally: Tally,
    begun: Cell<u64>,
    in_flight: Cell<u32>,
    /// How many of those in flight are tunnels.
    tunnels: Cell<u32>,
    /// Since when no exchange is in flight.
    idle_since: Cell<Instant>,
}

/// The head of the next request.
#[derive(Debug)]
struct HeadWait {
    /// Since when it is arriving.
    since: Cell<Option<Instant>>,
    /// Whether the next byte begins one. Not in HTTP/2 after the first: there it may belong to any frame.
    is_next: Cell<bool>,
    is_multiplexed: bool,
    /// Whether it took too long.
    is_overdue: Cell<bool>,
}

/// The ways in which the connection is to end.
#[derive(Debug, Default)]
struct ClosingState {
    is_last_answer: Cell<bool>,
    is_ending: Cell<bool>,
    abort: Cell<Option<AbortReason>>,
}

/// Why a connection ended before its exchanges did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AbortReason {
    /// The client took no byte for as long as `write_stall`.
    WriteStall,
    /// The drain deadline of the process passed.
    Drain,
}

impl Activity {
    /// Starts with a connection that waits for its first request. `is_multiplexed`: it may have many exchanges at once.
    #[must_use]
    pub(crate) fn new(now: Instant, is_multiplexed: bool, tally: Tally) -> Rc<Self> {
        Rc::new(Self {
            exchanges: ExchangeCount {
                tally,
                begun: Cell::new(0),
                in_flight: Cell::new(0),
                tunnels: Cell::new(0),
                idle_since: Cell::new(now),
            },
            head: HeadWait {
                since: Cell::new(None),
                is_next: Cell::new(true),
                is_multiplexed,
                is_overdue: Cell::new(false),
            },
            write_blocked_since: Cell::new(None),
            rest: RestWait {
                state: Cell::new(if is_multiplexed { RestState::Never } else { RestState::Awake }),
                after: Cell::new(REST),
            },
            closing: ClosingState::default(),
        })
    }

    // === Exchanges ===

    /// Counts an exchange as in flight until the returned value is dropped.
    #[must_use]
    pub(crate) fn begin_exchange(self: &Rc<Self>) -> InFlight {
        self.exchanges.begun.set(self.exchanges.begun.get() + 1);
        self.head.since.set(None);
        self.head.is_next.set(!self.head.is_multiplexed);
        InFlight::new(Rc::clone(self), false)
    }

    /// Counts a tunnel without an exchange as in flight until the returned value is dropped.
    #[must_use]
    pub(crate) fn begin_tunnel(self: &Rc<Self>) -> InFlight {
        InFlight::new(Rc::clone(self), true)
    }

    /// Returns how many exchanges have begun.
    #[must_use]
    pub(crate) const fn exchanges_begun(&self) -> u64 {
        self.exchanges.begun.get()
    }

    /// Returns since when no exchange is in flight; `None` while one is.
    #[must_use]
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.exchanges.in_flight.get() == 0).then(|| self.exchanges.idle_since.get())
    }

    /// Returns whether an exchange is in flight that is no tunnel.
    #[must_use]
    pub(crate) const fn has_exchange_beside_tunnels(&self) -> bool {
        self.exchanges.in_flight.get() > self.exchanges.tunnels.get()
    }

    // === The head of the next request ===

    /// Records that bytes have arrived.
    pub(crate) fn on_read(&self) {
        let begins = self.exchanges.in_flight.get() == 0 && self.head.is_next.get() && self.head.since.get().is_none();
        if begins {
            self.head.since.set(Some(Instant::now()));
        }
    }

    /// Returns since when the head of a request is arriving.
    #[must_use]
    pub(crate) const fn head_since(&self) -> Option<Instant> {
        self.head.since.get()
    }

    /// Records that the head took too long. Returns whether that is new.
    #[must_use]
    pub(crate) fn expire_head(&self) -> bool {
        !self.head.is_overdue.replace(true)
    }

    /// Returns whether the head took too long.
    #[must_use]
    pub(crate) const fn is_head_overdue(&self) -> bool {
        self.head.is_overdue.get()
    }

    // === Writing ===

    /// Records whether a write waits for the client.
    pub(crate) fn on_write(&self, is_blocked: bool) {
        match (is_blocked, self.write_blocked_since.get()) {
            (true, None) => self.write_blocked_since.set(Some(Instant::now())),
            (false, Some(_)) => self.write_blocked_since.set(None),
            _ => {}
        }
    }

    /// Returns since when the client takes no byte.
    #[must_use]
    pub(crate) const fn write_blocked_since(&self) -> Option<Instant> {
        self.write_blocked_since.get()
    }

    // === Rest ===

    /// Orders a connection to rest that has been idle for long enough. Returns whether that is new.
    #[must_use]
    pub(crate) fn order_rest(&self, now: Instant) -> bool {
        let is_awake = self.rest.state.get() == RestState::Awake;
        let is_idle = || self.evictable_since().is_some_and(|since| now - since >= self.rest.after.get());
        let is_ordered = is_awake && is_idle() && self.exchanges_begun() > 0;
        if is_ordered {
            self.rest.state.set(RestState::Ordered(self.exchanges_begun()));
        }
        is_ordered
    }

    /// Begins to rest if that was ordered, and nothing has gone on since. Returns whether it did.
    ///
    /// An exchange that has begun and ended since then may have left the body of its request unread.
    #[must_use]
    pub(crate) fn begin_rest(&self) -> bool {
        let RestState::Ordered(begun) = self.rest.state.get() else { return false };
        let is_quiet =
            self.exchanges_begun() == begun && self.evictable_since().is_some() && self.write_blocked_since().is_none();
        self.rest.state.set(if is_quiet { RestState::AtRest(Instant::now()) } else { RestState::Awake });
        is_quiet
    }

    /// Ends the rest. After a short one the next one begins later: its buffers are made anew for nothing.
    pub(crate) fn end_rest(&self, now: Instant) {
        if let RestState::AtRest(since) = self.rest.state.replace(RestState::Awake) {
            let is_short = now - since < LONG_REST;
            self.rest.after.set(if is_short { LATEST_REST.min(2 * self.rest.after.get()) } else { REST });
        }
    }

    // === The end ===

    /// Makes the next answer the last one.
    pub(crate) fn finish(&self) {
        self.closing.is_last_answer.set(true);
    }

    /// Returns since when nothing at all goes on, unless the connection is to end already.
    #[must_use]
    pub(crate) fn evictable_since(&self) -> Option<Instant> {
        if self.is_ending() || self.head_since().is_some() { None } else { self.idle_since() }
    }

    /// Ends the connection, once its task is woken, so that another one finds room.
    pub(crate) fn evict(&self) {
        self.closing.is_ending.set(true);
    }

    /// Ends the connection once its exchanges have: over HTTP/1.1 the next answer says so, over HTTP/2 a GOAWAY frame.
    pub(crate) fn retire(&self) {
        self.finish();
        self.closing.is_ending.set(true);
    }

    /// Returns whether the connection is to end once its exchanges have.
    #[must_use]
    pub(crate) const fn is_ending(&self) -> bool {
        self.closing.is_ending.get()
    }

    /// Records why the connection ends before its exchanges do.
    pub(crate) fn abort(&self, reason: AbortReason) {
        self.closing.abort.set(Some(reason));
    }
}

/// One exchange in flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    activity: Rc<Activity>,
    is_tunnel: bool,
}

impl InFlight {
    fn new(activity: Rc<Activity>, is_tunnel: bool) -> Self {
        let exchanges = &activity.exchanges;
        exchanges.in_flight.set(exchanges.in_flight.get() + 1);
        exchanges.tunnels.set(exchanges.tunnels.get() + u32::from(is_tunnel));
        exchanges.tally.begun();
        Self { activity, is_tunnel }
    }

    /// Counts one more part of the same exchange: its tunnel.
    pub(super) fn tunnel(&self) -> Self {
        Self::new(Rc::clone(&self.activity), true)
    }

    /// Returns whether its answer is the last one of the connection.
    pub(super) fn is_last(&self) -> bool {
        self.activity.closing.is_last_answer.get()
    }

    /// Returns why the connection ends before the exchange does.
    pub(super) fn abort_reason(&self) -> Option<AbortReason> {
        self.activity.closing.abort.get()
    }

    /// Returns the counters of the worker.
    pub(super) fn tally(&self) -> &Tally {
        &self.activity.exchanges.tally
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let exchanges = &self.activity.exchanges;
        exchanges.tally.over();
        exchanges.in_flight.set(exchanges.in_flight.get() - 1);
        exchanges.tunnels.set(exchanges.tunnels.get() - u32::from(self.is_tunnel));
        if exchanges.in_flight.get() == 0 {
            exchanges.idle_since.set(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_wakes_soon_rests_later() {
        let activity = Activity::new(Instant::now(), false, Tally::default());
        let rest = async |idle: Duration| {
            drop(activity.begin_exchange());
            tokio::time::advance(idle - Duration::from_millis(1)).await;
            assert!(!activity.order_rest(Instant::now()), "{idle:?}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(activity.order_rest(Instant::now()) && activity.begin_rest(), "{idle:?}");
            assert!(!activity.order_rest(Instant::now()), "it rests");
        };
        let mut after = REST;
        for _ in 0..8 {
            rest(after).await;
            tokio::time::advance(Duration::from_secs(1)).await;
            activity.end_rest(Instant::now());
            after = LATEST_REST.min(after * 2);
        }
        assert_eq!(after, LATEST_REST);
        rest(after).await;
        tokio::time::advance(LONG_REST).await;
        activity.end_rest(Instant::now());
        rest(REST).await;
    }

    #[tokio::test]
    async fn a_connection_that_is_fresh_busy_or_multiplexed_does_not_rest() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let tally = Tally::default();
        let fresh = Activity::new(now, false, tally.clone());
        assert!(!fresh.order_rest(later));
        let multiplexed = Activity::new(now, true, tally);
        drop(multiplexed.begin_exchange());
        assert!(!multiplexed.order_rest(later));
        let exchange = fresh.begin_exchange();
        assert!(!fresh.order_rest(later));
        drop(exchange);
        assert!(fresh.order_rest(later));
        fresh.on_write(true);
        assert!(!fresh.begin_rest(), "an answer waits for the client");
        fresh.on_write(false);
        assert!(fresh.order_rest(later));
        drop(fresh.begin_exchange());
        assert!(!fresh.begin_rest(), "hyper may not have read the last body");
        fresh.on_read();
        assert!(!fresh.order_rest(later), "a head arrives");
    }
}
