//! The connections of one worker: so that they can be counted, and told to end.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::budget::{ClientUsage, Ledger};
use crate::exchange::{AbortReason, Activity};

/// All connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    closing: Cell<bool>,
    next: Cell<u64>,
    seats: RefCell<HashMap<u64, Seat>>,
    left: Notify,
}

/// How long a connection may take for its handshake before it makes room for another: those who mean it are faster.
const BEGINNING: Duration = Duration::from_secs(1);

/// How one connection is reached, and how it is doing; nothing before its handshake.
#[derive(Debug)]
struct Seat {
    since: Instant,
    waker: Option<Waker>,
    activity: Option<Rc<Activity>>,
    ledger: Option<Arc<Ledger>>,
    /// Whether it shall make room for another before its handshake is done.
    shall_leave: bool,
}

impl Seat {
    fn new() -> Self {
        Self { since: Instant::now(), waker: None, activity: None, ledger: None, shall_leave: false }
    }

    /// Returns since when the connection has rested, or has not come to the end of its handshake.
    fn idle_since(&self, now: Instant) -> Option<Instant> {
        match &self.activity {
            Some(activity) => activity.evictable_since(),
            None => (!self.shall_leave && now - self.since > BEGINNING).then_some(self.since),
        }
    }

    /// Lets the connection make room for another.
    fn leave(&mut self) {
        match &self.activity {
            Some(activity) => activity.evict(),
            None => self.shall_leave = true,
        }
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Registry {
    /// Enters a connection, until the returned value is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> Guest {
        let id = self.next.get();
        self.next.set(id + 1);
        self.seats.borrow_mut().insert(id, Seat::new());
        Guest { registry: Rc::clone(self), id, known: Cell::new(false) }
    }

    /// Tells every connection to end when its exchanges have.
    pub(super) fn close(&self) {
        self.closing.set(true);
        for waker in self.seats.borrow().values().filter_map(|seat| seat.waker.as_ref()) {
            waker.wake_by_ref();
        }
    }

    /// Lets those that are still here know that they end now.
    pub(super) fn cut(&self) {
        for activity in self.seats.borrow().values().filter_map(|seat| seat.activity.as_ref()) {
            activity.abort(AbortReason::Drain);
        }
    }

    /// Tells the connection that has rested longest to end. Tells whether there is one.
    pub(super) fn make_room(&self) -> bool {
        let now = Instant::now();
        let mut seats = self.seats.borrow_mut();
        let idle = seats.values_mut().filter(|seat| seat.waker.is_some());
        let idle = idle.filter_map(|seat| Some((seat.idle_since(now)?, seat)));
        idle.min_by_key(|(since, _)| *since).map(|(_, seat)| seat.leave()).is_some()
    }

    /// Looks how fast each connection gives back what waits in its buffers.
    pub(super) fn look(&self, now: Instant) {
        for ledger in self.seats.borrow().values().filter_map(|seat| seat.ledger.as_ref()) {
            ledger.refresh(now);
        }
    }

    /// Closes the slowest connections, of one client or of all, until they held so many bytes. Returns how many.
    pub(super) fn shed(&self, client: Option<&ClientUsage>, bytes: usize) -> u64 {
        let seats = self.seats.borrow();
        let is_its = |ledger: &Ledger| client.is_none_or(|client| ledger.client().is_some_and(|one| one.is(client)));
        let slow = seats.values().filter_map(|seat| {
            let (ledger, waker) = (seat.ledger.as_ref()?, seat.waker.as_ref()?);
            Some((ledger.slowness().filter(|_| is_its(ledger))?, ledger, waker))
        });
        let mut slow: Vec<_> = slow.collect();
        slow.sort_by_key(|(slowness, ..)| Reverse(*slowness));
        let (mut shed, mut count) = (0, 0);
        for (_, ledger, waker) in slow {
            if shed >= bytes {
                break;
            }
            shed += ledger.held();
            count += 1;
            ledger.shed();
            waker.wake_by_ref();
        }
        count
    }

    /// Waits until all connections have left.
    pub(super) async fn emptied(&self) {
        while self.count() > 0 {
            self.left.notified().await;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.seats.borrow().len()
    }
}

/// One connection's entry.
#[derive(Debug)]
pub(super) struct Guest {
    registry: Rc<Registry>,
    id: u64,
    known: Cell<bool>,
}

impl Guest {
    /// Notes where to look how the connection is doing.
    pub(super) fn sit(&self, activity: &Rc<Activity>, ledger: &Arc<Ledger>) {
        self.seat(|seat| {
            seat.activity = Some(Rc::clone(activity));
            seat.ledger = Some(Arc::clone(ledger));
        });
    }

    /// Goes on with what comes before the connection has a say, unless it shall make room for another.
    pub(super) async fn until_evicted<F: Future>(&self, begin: F) -> Option<F::Output> {
        let mut begin = pin!(begin);
        poll_fn(|cx| {
            self.note(cx);
            if self.registry.seats.borrow().get(&self.id).is_some_and(|seat| seat.shall_leave) {
                return Poll::Ready(None);
            }
            begin.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Makes sure that the connection's task can be woken.
    fn note(&self, cx: &Context<'_>) {
        // A spawned task keeps its waker for life.
        if !self.known.replace(true) {
            self.seat(|seat| seat.waker = Some(cx.waker().clone()));
        }
    }

    fn seat(&self, change: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self.registry.seats.borrow_mut().get_mut(&self.id) {
            change(seat);
        }
    }

    /// Tells whether the connection shall end, and makes sure that its task is woken when that changes.
    pub(super) fn shall_end(&self, cx: &Context<'_>) -> bool {
        self.note(cx);
        self.registry.closing.get()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.registry.seats.borrow_mut().remove(&self.id);
        self.registry.left.notify_one();
    }
}
