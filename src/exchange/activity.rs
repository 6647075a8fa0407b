//! The activity of a connection: the facts that its deadlines follow from.

mod rest;

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use self::rest::{REST, RestState, RestWait};
use crate::observe::metrics::Tally;

/// The activity of one connection. Its I/O and its exchanges record it; its deadlines and the worker read it.
#[derive(Debug)]
pub(crate) struct Activity {
    exchanges: ExchangeCount,
    head: HeadWait,
    /// Since when the client takes none of the bytes that are ready for it.
    write_blocked_since: Cell<Option<Instant>>,
    /// Whether bytes for the client wait for its connection's next turn.
    is_corked: Cell<bool>,
    rest: RestWait,
    closing: ClosingState,
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
            is_corked: Cell::new(false),
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

    /// Records that bytes have arrived. While the client has yet to take the last answer, the next head has no deadline.
    pub(crate) fn on_read(&self) {
        let is_answered = self.exchanges.in_flight.get() == 0 && self.write_blocked_since.get().is_none();
        if is_answered && self.head.is_next.get() && self.head.since.get().is_none() {
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

    /// Returns whether the connection may have many exchanges at once.
    pub(crate) const fn is_multiplexed(&self) -> bool {
        self.head.is_multiplexed
    }

    /// Records whether bytes for the client gather, although they are to be sent.
    pub(crate) fn set_corked(&self, is_corked: bool) {
        self.is_corked.set(is_corked);
    }

    /// Returns whether bytes wait for the connection's next turn.
    #[must_use]
    pub(crate) fn is_corked(&self) -> bool {
        self.is_corked.get()
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
