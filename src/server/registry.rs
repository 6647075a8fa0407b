//! The connections of one worker: so that they can be counted, and told to end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use tokio::sync::Notify;

/// All connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    closing: Cell<bool>,
    next: Cell<u64>,
    wakers: RefCell<HashMap<u64, Option<Waker>>>,
    left: Notify,
}

impl Registry {
    /// Enters a connection, until the returned value is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> Guest {
        let id = self.next.get();
        self.next.set(id + 1);
        self.wakers.borrow_mut().insert(id, None);
        Guest { registry: Rc::clone(self), id, known: Cell::new(false) }
    }

    /// Tells every connection to end when its exchanges have.
    pub(super) fn close(&self) {
        self.closing.set(true);
        for waker in self.wakers.borrow().values().flatten() {
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
        self.wakers.borrow().len()
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
    /// Tells whether the connection shall end, and makes sure that its task is woken when that changes.
    pub(super) fn shall_end(&self, cx: &Context<'_>) -> bool {
        // A spawned task keeps its waker for life.
        if !self.known.replace(true) {
            self.registry.wakers.borrow_mut().insert(self.id, Some(cx.waker().clone()));
        }
        self.registry.closing.get()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.registry.wakers.borrow_mut().remove(&self.id);
        self.registry.left.notify_one();
    }
}
