//! Upstream connections that each belong to one connection of a client, because credentials prove the connection they
//! come by (NTLM, Negotiate). They serve that client alone and end with its connection.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Upstream;
use super::conn::Conn;

/// An idle bound connection is kept this long although others wait for a connection: longer than a login pauses.
const RESPITE: Duration = Duration::from_secs(2);

/// The upstream connections that are bound to one connection of a client: at most one to each upstream.
#[derive(Debug, Default)]
pub(crate) struct BoundConnections(RefCell<Vec<Rc<Binding>>>);

/// The tie between a connection of a client and an upstream, with the bound connection while no exchange uses it.
#[derive(Debug)]
pub(super) struct Binding {
    upstream: Weak<Upstream>,
    conn: RefCell<Option<Box<Conn>>>,
    /// Whether an exchange has the lease.
    is_leased: Cell<bool>,
    returned: Notify,
}

/// The right of one exchange to a bound connection. Dropping it lets the next exchange have it.
#[derive(Debug)]
pub(super) struct Lease(Rc<Binding>);

impl BoundConnections {
    fn find(&self, upstream: &Rc<Upstream>) -> Option<Rc<Binding>> {
        let bindings = self.0.borrow();
        bindings.iter().find(|binding| binding.is_of(upstream)).map(Rc::clone)
    }

    /// Finds the binding to an upstream, or makes one and removes those of upstreams that a reload has retired.
    fn binding(&self, upstream: &Rc<Upstream>) -> Rc<Binding> {
        self.find(upstream).unwrap_or_else(|| {
            let binding = Binding::new(upstream);
            let mut bindings = self.0.borrow_mut();
            bindings.retain(|other| other.upstream.upgrade().is_some_and(|upstream| !upstream.retired.get()));
            bindings.push(Rc::clone(&binding));
            binding
        })
    }

    /// Tells whether nothing is bound, as for most clients.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Leases the binding to an upstream for an exchange with its credentials. Exchanges take turns until `due`.
    pub(super) async fn lease(&self, upstream: &Rc<Upstream>, due: Instant) -> Option<Lease> {
        let binding = self.binding(upstream);
        loop {
            if let Some(lease) = binding.lease() {
                return Some(lease);
            }
            timeout_at(due, binding.returned.notified()).await.ok()?;
        }
    }

    /// Leases the binding to an upstream if it has a connection that no other exchange uses.
    pub(super) fn lease_existing(&self, upstream: &Rc<Upstream>) -> Option<Lease> {
        self.find(upstream).filter(|binding| binding.conn.borrow().is_some())?.lease()
    }

    /// Leases the binding to an upstream for a connection that the answer binds, unless another exchange has the lease.
    pub(super) fn bind(&self, upstream: &Rc<Upstream>) -> Option<Lease> {
        self.binding(upstream).lease()
    }
}

impl Binding {
    fn new(upstream: &Rc<Upstream>) -> Rc<Self> {
        let (conn, is_leased, returned) = (RefCell::default(), Cell::new(false), Notify::new());
        let binding = Rc::new(Self { upstream: Rc::downgrade(upstream), conn, is_leased, returned });
        upstream.bound.borrow_mut().push(Rc::downgrade(&binding));
        binding
    }

    fn is_of(&self, upstream: &Rc<Upstream>) -> bool {
        Weak::ptr_eq(&self.upstream, &Rc::downgrade(upstream))
    }

    fn lease(self: &Rc<Self>) -> Option<Lease> {
        (!self.is_leased.replace(true)).then(|| Lease(Rc::clone(self)))
    }

    /// Closes the connection if it has died, or if it is idle while all connections are in use and others wait.
    pub(super) fn sweep(&self, now: Instant, is_full: bool) {
        let mut conn = self.conn.borrow_mut();
        if conn.as_mut().is_some_and(|conn| !conn.is_alive() || (is_full && conn.idle_for(now) >= RESPITE)) {
            *conn = None;
        }
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        self.conn.take();
    }
}

impl Lease {
    /// Takes the connection itself, if there is one that can serve another exchange.
    pub(super) fn take(&self) -> Option<Box<Conn>> {
        self.0.conn.take().and_then(|mut conn| conn.is_reusable().then_some(conn))
    }

    /// Gives the connection back.
    pub(super) fn give_back(self, mut conn: Box<Conn>) {
        conn.mark_idle();
        self.0.conn.replace(Some(conn));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.is_leased.set(false);
        self.0.returned.notify_one();
    }
}
