//! The connections of one worker: so that they can be counted, and told to end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use tokio::sync::Notify;

use crate::proxy::Vitals;

/// All connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    closing: Cell<bool>,
    next: Cell<u64>,
    seats: RefCell<HashMap<u64, Seat>>,
    left: Notify,
}

/// How one connection is reached, and how it is doing; nothing before its handshake.
#[derive(Debug, Default)]
struct Seat {
    waker: Option<Waker>,
    vitals: Option<Rc<Vitals>>,
}

impl Registry {
    /// Enters a connection, until the returned value is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> Guest {
        let id = self.next.get();
        self.next.set(id + 1);
        self.seats.borrow_mut().insert(id, Seat::default());
        Guest { registry: Rc::clone(self), id, known: Cell::new(false) }
    }

    /// Tells every connection to end when its exchanges have.
    pub(super) fn close(&self) {
        self.closing.set(true);
        for waker in self.seats.borrow().values().filter_map(|seat| seat.waker.as_ref()) {
            waker.wake_by_ref();
        }
    }

    /// Tells the connection that has rested longest to end.
    pub(super) fn make_room(&self) {
        let seats = self.seats.borrow();
        let resting = seats.values().filter_map(|seat| {
            let vitals = seat.vitals.as_ref()?;
            Some((vitals.resting_since()?, vitals, seat.waker.as_ref()?))
        });
        if let Some((_, vitals, waker)) = resting.min_by_key(|(since, ..)| *since) {
            vitals.leave();
            waker.wake_by_ref();
        }
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
    pub(super) fn sit(&self, vitals: &Rc<Vitals>) {
        self.seat(|seat| seat.vitals = Some(Rc::clone(vitals)));
    }

    fn seat(&self, change: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self.registry.seats.borrow_mut().get_mut(&self.id) {
            change(seat);
        }
    }

    /// Tells whether the connection shall end, and makes sure that its task is woken when that changes.
    pub(super) fn shall_end(&self, cx: &Context<'_>) -> bool {
        // A spawned task keeps its waker for life.
        if !self.known.replace(true) {
            self.seat(|seat| seat.waker = Some(cx.waker().clone()));
        }
        self.registry.closing.get()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.registry.seats.borrow_mut().remove(&self.id);
        self.registry.left.notify_one();
    }
}
