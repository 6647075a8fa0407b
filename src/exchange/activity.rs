//! What a connection and its exchanges tell each other, and what deadlines follow from.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use crate::observe::metrics::Tally;

/// Facts from which a connection's deadline follows.
#[derive(Debug)]
pub struct Vitals {
    tally: Tally,
    in_flight: Cell<u32>,
    /// How many exchanges have begun.
    begun: Cell<u64>,
    /// Since when no exchange is in flight.
    quiet_since: Cell<Instant>,
    /// Since when the head of a request is arriving.
    head_since: Cell<Option<Instant>>,
    /// Whether a byte that arrives begins a request. Not in HTTP/2 after the first: it may belong to any frame.
    expects_head: Cell<bool>,
    /// Whether that took too long.
    late: Cell<bool>,
    multiplexed: bool,
    /// Since when the client takes nothing of what is ready for it.
    blocked_since: Cell<Option<Instant>>,
    /// Whether the next answer shall be the last.
    ending: Cell<bool>,
    /// Whether it shall make room for another.
    shall_leave: Cell<bool>,
    /// What ends it before its exchanges have ended.
    cut: Cell<Option<Cutting>>,
}

/// What ends a connection before its exchanges have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cutting {
    /// Its client took nothing for too long.
    Stall,
    /// The process ends.
    Drain,
}

impl Vitals {
    /// Starts with a connection whose first request is awaited. `multiplexed`: it may have many exchanges at once.
    #[must_use]
    pub fn new(now: Instant, multiplexed: bool, tally: Tally) -> Rc<Self> {
        Rc::new(Self {
            tally,
            in_flight: Cell::new(0),
            begun: Cell::new(0),
            quiet_since: Cell::new(now),
            head_since: Cell::new(None),
            expects_head: Cell::new(true),
            late: Cell::new(false),
            multiplexed,
            blocked_since: Cell::new(None),
            ending: Cell::new(false),
            shall_leave: Cell::new(false),
            cut: Cell::new(None),
        })
    }

    /// Notes that an exchange has begun, until the returned value is dropped.
    #[must_use]
    pub fn begin(self: &Rc<Self>) -> InFlight {
        self.begun.set(self.begun.get() + 1);
        self.head_since.set(None);
        self.expects_head.set(!self.multiplexed);
        InFlight::new(Rc::clone(self))
    }

    /// Notes that bytes have arrived.
    pub fn received(&self) {
        let begins = self.in_flight.get() == 0 && self.expects_head.get() && self.head_since.get().is_none();
        if begins {
            self.head_since.set(Some(Instant::now()));
        }
    }

    /// Returns how many exchanges have begun.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Notes that the next answer shall be the last.
    pub fn end(&self) {
        self.ending.set(true);
    }

    /// Tells whether the next answer shall be the last.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.get()
    }

    /// Notes whether the client takes what is written.
    pub fn written(&self, blocked: bool) {
        match (blocked, self.blocked_since.get()) {
            (true, None) => self.blocked_since.set(Some(Instant::now())),
            (false, Some(_)) => self.blocked_since.set(None),
            _ => {}
        }
    }

    /// Returns since when the client takes nothing.
    #[must_use]
    pub fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since.get()
    }

    /// Returns since when the head of a request is arriving.
    #[must_use]
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since.get()
    }

    /// Gives up waiting for the rest of a head. Tells whether that is new.
    #[must_use]
    pub fn give_up(&self) -> bool {
        !self.late.replace(true)
    }

    /// Tells whether nobody waits for the rest of a head.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.late.get()
    }

    /// Returns since when nothing at all goes on, on a connection that is not told to leave yet.
    #[must_use]
    pub fn resting_since(&self) -> Option<Instant> {
        if self.shall_leave.get() || self.head_since.get().is_some() { None } else { self.quiet_since() }
    }

    /// Lets the connection make room for another, once it is woken.
    pub fn leave(&self) {
        self.shall_leave.set(true);
    }

    /// Tells whether the connection shall make room for another.
    #[must_use]
    pub fn shall_leave(&self) -> bool {
        self.shall_leave.get()
    }

    /// Notes that the connection ends now, because its client takes nothing.
    pub fn stall(&self) {
        self.cut.set(Some(Cutting::Stall));
    }

    /// Notes that the connection ends now, because the process does.
    pub fn drain(&self) {
        self.cut.set(Some(Cutting::Drain));
    }

    /// Returns since when the connection rests; nothing while an exchange is in flight.
    #[must_use]
    pub fn quiet_since(&self) -> Option<Instant> {
        (self.in_flight.get() == 0).then(|| self.quiet_since.get())
    }
}

/// One exchange in flight.
#[derive(Debug)]
pub struct InFlight(Rc<Vitals>);

impl InFlight {
    /// Notes that the exchange goes on in two places.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new(Rc::clone(&self.0))
    }

    fn new(vitals: Rc<Vitals>) -> Self {
        vitals.in_flight.set(vitals.in_flight.get() + 1);
        vitals.tally.begun();
        Self(vitals)
    }

    /// Tells whether the connection ends because its client takes nothing.
    pub(super) fn is_stalled(&self) -> bool {
        self.0.cut.get() == Some(Cutting::Stall)
    }

    /// Tells whether the connection ends because the process does.
    pub(super) fn is_drained(&self) -> bool {
        self.0.cut.get() == Some(Cutting::Drain)
    }

    /// Returns where the exchange is counted.
    pub(super) fn tally(&self) -> &Tally {
        &self.0.tally
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let vitals = &self.0;
        vitals.tally.over();
        vitals.in_flight.set(vitals.in_flight.get() - 1);
        if vitals.in_flight.get() == 0 {
            vitals.quiet_since.set(Instant::now());
        }
    }
}
