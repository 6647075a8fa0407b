//! The connections of one worker, so that they can be counted, closed, evicted and aborted.

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

/// How old a connection in its handshake is before it may be evicted: honest handshakes are faster.
const HANDSHAKE_RESPITE: Duration = Duration::from_secs(1);

/// The connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    is_closing: Cell<bool>,
    /// Whether only tunnels may go on.
    is_overtime: Cell<bool>,
    next: Cell<u64>,
    /// How many exchanges the open connections had begun at the last count.
    begun: Cell<u64>,
    entries: RefCell<HashMap<u64, ConnectionEntry>>,
    removed: Notify,
}

/// One connection.
#[derive(Debug)]
struct ConnectionEntry {
    accepted: Instant,
    /// Wakes its task, once that has been polled.
    waker: Option<Waker>,
    /// Whether it is evicted during its handshake.
    is_evicted: bool,
    /// What it does and holds; `None` before the end of its handshake.
    state: Option<(Rc<Activity>, Arc<Ledger>)>,
}

impl ConnectionEntry {
    fn new() -> Self {
        Self { accepted: Instant::now(), waker: None, is_evicted: false, state: None }
    }

    /// Returns since when the connection may be evicted: since when it is idle, or its handshake goes on.
    fn evictable_since(&self, now: Instant) -> Option<Instant> {
        match &self.state {
            Some((activity, _)) => activity.evictable_since(),
            None => (!self.is_evicted && now - self.accepted > HANDSHAKE_RESPITE).then_some(self.accepted),
        }
    }

    fn evict(&mut self) {
        match &self.state {
            Some((activity, _)) => activity.evict(),
            None => self.is_evicted = true,
        }
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn ledger(&self) -> Option<&Ledger> {
        self.state.as_ref().map(|(_, ledger)| &**ledger)
    }
}

impl Registry {
    /// Adds a connection, until the handle is dropped.
    pub(super) fn add(self: &Rc<Self>) -> ConnectionHandle {
        let id = self.next.get();
        self.next.set(id + 1);
        self.entries.borrow_mut().insert(id, ConnectionEntry::new());
        ConnectionHandle { registry: Rc::clone(self), id, has_waker: Cell::new(false) }
    }

    /// Lets every connection end when its exchanges have.
    pub(super) fn close(&self) {
        self.is_closing.set(true);
        for waker in self.entries.borrow().values().filter_map(|entry| entry.waker.as_ref()) {
            waker.wake_by_ref();
        }
    }

    /// Lets tunnels go on, and ends every other exchange. Returns how many connections had one.
    pub(super) fn keep_tunnels(&self) -> usize {
        self.is_overtime.set(true);
        let mut entries = self.entries.borrow_mut();
        for entry in entries.values_mut() {
            entry.is_evicted = entry.state.is_none();
            if let Some(waker) = &entry.waker {
                waker.wake_by_ref();
            }
        }
        let activities = entries.values().filter_map(|entry| entry.state.as_ref()).map(|(activity, _)| activity);
        activities.filter(|activity| activity.has_exchange_beside_tunnels()).count()
    }

    /// Returns whether only tunnels may go on.
    pub(super) fn is_overtime(&self) -> bool {
        self.is_overtime.get()
    }

    /// Records for the connections that are still open that the drain deadline ends them.
    pub(super) fn abort(&self) {
        for (activity, _) in self.entries.borrow().values().filter_map(|entry| entry.state.as_ref()) {
            activity.abort(AbortReason::Drain);
        }
    }

    /// Evicts the connection that has been idle for longest. Returns whether there is one.
    pub(super) fn evict_idle(&self) -> bool {
        let now = Instant::now();
        let mut entries = self.entries.borrow_mut();
        let wakeable = entries.values_mut().filter(|entry| entry.waker.is_some());
        let evictable = wakeable.filter_map(|entry| Some((entry.evictable_since(now)?, entry)));
        evictable.min_by_key(|(since, _)| *since).map(|(_, entry)| entry.evict()).is_some()
    }

    /// Counts the exchanges that have begun since the last call. Connections that were closed since then count with all of theirs.
    pub(super) fn count_begun(&self) -> u64 {
        let entries = self.entries.borrow();
        let activities = entries.values().filter_map(|entry| entry.state.as_ref());
        let begun = activities.map(|(activity, _)| activity.exchanges_begun()).sum::<u64>();
        begun.abs_diff(self.begun.replace(begun))
    }

    /// Lets connections rest that have been idle for long enough, up to `most`. Returns how many.
    pub(super) fn rest(&self, now: Instant, worker_is_busy: bool, most: usize) -> usize {
        let entries = self.entries.borrow();
        let ordered = entries.values().filter_map(|entry| {
            let (Some((activity, _)), Some(waker)) = (&entry.state, &entry.waker) else { return None };
            activity.order_rest(now, worker_is_busy).then_some(waker)
        });
        ordered.take(most).map(Waker::wake_by_ref).count()
    }

    /// Measures how fast each connection empties its buffers.
    pub(super) fn measure(&self, now: Instant) {
        for ledger in self.entries.borrow().values().filter_map(ConnectionEntry::ledger) {
            ledger.refresh(now);
        }
    }

    /// Closes the slowest connections, of one client or of all, until the closed ones held `bytes`. Returns how many.
    pub(super) fn shed(&self, client: Option<&ClientUsage>, bytes: usize) -> u64 {
        let entries = self.entries.borrow();
        let is_its = |ledger: &Ledger| client.is_none_or(|client| ledger.client().is_some_and(|one| one.is(client)));
        let slow = entries.values().filter_map(|entry| {
            let (ledger, waker) = (entry.ledger()?, entry.waker.as_ref()?);
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

    /// Waits until there is no connection.
    pub(super) async fn emptied(&self) {
        while self.count() > 0 {
            self.removed.notified().await;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.entries.borrow().len()
    }
}

/// A connection's own handle in the registry.
#[derive(Debug)]
pub(super) struct ConnectionHandle {
    registry: Rc<Registry>,
    id: u64,
    has_waker: Cell<bool>,
}

impl ConnectionHandle {
    /// Records the end of the handshake.
    pub(super) fn open(&self, activity: &Rc<Activity>, ledger: &Arc<Ledger>) {
        self.change(|entry| entry.state = Some((Rc::clone(activity), Arc::clone(ledger))));
    }

    /// Runs a step before the end of the handshake. Returns `None` if the connection is evicted meanwhile.
    pub(super) async fn until_evicted<F: Future>(&self, step: F) -> Option<F::Output> {
        let mut step = pin!(step);
        poll_fn(|cx| {
            self.record_waker(cx);
            if self.registry.entries.borrow().get(&self.id).is_some_and(|entry| entry.is_evicted) {
                return Poll::Ready(None);
            }
            step.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Returns whether the worker closes, and makes sure that the task is woken when that changes.
    pub(super) fn is_closing(&self, cx: &Context<'_>) -> bool {
        self.record_waker(cx);
        self.registry.is_closing.get()
    }

    /// Returns whether only tunnels may go on.
    pub(super) fn is_overtime(&self) -> bool {
        self.registry.is_overtime()
    }

    fn record_waker(&self, cx: &Context<'_>) {
        // A spawned task keeps its waker for life.
        if !self.has_waker.replace(true) {
            self.change(|entry| entry.waker = Some(cx.waker().clone()));
        }
    }

    fn change(&self, change: impl FnOnce(&mut ConnectionEntry)) {
        if let Some(entry) = self.registry.entries.borrow_mut().get_mut(&self.id) {
            change(entry);
        }
    }
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        self.registry.entries.borrow_mut().remove(&self.id);
        self.registry.removed.notify_one();
    }
}
