//! The idle connections of one worker to one endpoint.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::conn::Conn;

/// The most idle connections that one worker keeps to one endpoint.
const MAX_IDLE: usize = 1024;

/// Idle connections. The one used last is at the end and is taken first, so that the others grow old and are closed.
#[derive(Debug)]
pub(super) struct IdleConns {
    #[expect(
        clippy::vec_box,
        reason = "a connection is large, and moves from here to an exchange and back many times"
    )]
    conns: RefCell<Vec<Box<Conn>>>,
    /// Their number, as all workers see it.
    count: Arc<AtomicUsize>,
}

impl IdleConns {
    /// Starts empty; `count` always holds the number of connections.
    pub(super) const fn new(count: Arc<AtomicUsize>) -> Self {
        Self { conns: RefCell::new(Vec::new()), count }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.conns.borrow().is_empty()
    }

    /// Takes the latest connection that is usable, and closes those after it that are not.
    pub(super) fn take(&self, mut is_usable: impl FnMut(&mut Conn) -> bool) -> Option<Box<Conn>> {
        let mut conns = self.conns.borrow_mut();
        let taken = std::iter::from_fn(|| conns.pop()).find_map(|mut conn| is_usable(&mut conn).then_some(conn));
        self.count.store(conns.len(), Ordering::Relaxed);
        taken
    }

    /// Keeps a connection, or closes it if there are [`MAX_IDLE`] already.
    pub(super) fn put(&self, conn: Box<Conn>) {
        let mut conns = self.conns.borrow_mut();
        if conns.len() < MAX_IDLE {
            conns.push(conn);
            self.count.store(conns.len(), Ordering::Relaxed);
        }
    }

    /// Closes the connection that has been idle for longest. Tells whether there was one.
    pub(super) fn close_oldest(&self) -> bool {
        let mut conns = self.conns.borrow_mut();
        let oldest = (!conns.is_empty()).then(|| conns.remove(0));
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
