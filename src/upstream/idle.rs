//! The idle connections of one worker to one endpoint.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::conn::Conn;

/// Idle connections. The one used last is at the end and is taken first, so that the others grow old and are closed.
#[derive(Debug)]
pub(super) struct IdleConns {
    conns: RefCell<VecDeque<Box<Conn>>>,
    /// Their number, as all workers see it.
    count: Arc<AtomicUsize>,
}

impl IdleConns {
    /// Starts empty; `count` always holds the number of connections.
    pub(super) const fn new(count: Arc<AtomicUsize>) -> Self {
        Self { conns: RefCell::new(VecDeque::new()), count }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.conns.borrow().is_empty()
    }

    /// Takes the latest connection that is usable, and closes those after it that are not.
    pub(super) fn take(&self, mut is_usable: impl FnMut(&mut Conn) -> bool) -> Option<Box<Conn>> {
        let mut conns = self.conns.borrow_mut();
        let taken = std::iter::from_fn(|| conns.pop_back()).find_map(|mut conn| is_usable(&mut conn).then_some(conn));
        self.count.store(conns.len(), Ordering::Relaxed);
        taken
    }

    /// Keeps a connection. `max_connections` of the upstream bounds their number.
    pub(super) fn put(&self, conn: Box<Conn>) {
        let mut conns = self.conns.borrow_mut();
        conns.push_back(conn);
        self.count.store(conns.len(), Ordering::Relaxed);
    }

    /// Closes the connection that has been idle for longest. Tells whether there was one.
    pub(super) fn close_oldest(&self) -> bool {
        let mut conns = self.conns.borrow_mut();
        let oldest = conns.pop_front();
        self.count.store(conns.len(), Ordering::Relaxed);
        oldest.is_some()
    }

    /// Closes the connections that are not to be kept.
    pub(super) fn retain(&self, keep: impl Fn(&Conn) -> bool) {
        let mut conns = self.conns.borrow_mut();
        conns.retain(|conn| keep(conn));
        self.count.store(conns.len(), Ordering::Relaxed);
    }
}
