//! Connections to upstreams that belong to one connection of a client, because its credentials prove the connection they
//! come by (NTLM, Negotiate). They serve that client alone, and end with its connection.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Upstream;
use super::conn::Conn;

/// For how long a bound connection that rests is kept when others wait for one: longer than a login pauses.
const RESPITE: Duration = Duration::from_secs(2);

/// The connections that are bound to one connection of a client: one to each upstream at most.
#[derive(Debug, Default)]
pub struct BoundConnections(RefCell<Vec<Rc<Binding>>>);

/// The place of a bound connection.
#[derive(Debug)]
pub(super) struct Binding {
    upstream: Weak<Upstream>,
    link: RefCell<Option<Box<Conn>>>,
    /// Whether an exchange has it.
    lent: Cell<bool>,
    back: Notify,
}

/// The right of one exchange to a bound connection.
#[derive(Debug)]
pub(super) struct Lease(Rc<Binding>);

impl BoundConnections {
    fn find(&self, upstream: &Rc<Upstream>) -> Option<Rc<Binding>> {
        let bindings = self.0.borrow();
        bindings.iter().find(|binding| binding.is_of(upstream)).map(Rc::clone)
    }

    /// Finds the place of the connection to an upstream, or makes one. Places of upstreams that are configured no more go.
    fn place(&self, upstream: &Rc<Upstream>) -> Rc<Binding> {
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

    /// Takes the connection to an upstream for an exchange with its credentials, in turn.
    pub(super) async fn lease(&self, upstream: &Rc<Upstream>, due: Instant) -> Option<Lease> {
        let binding = self.place(upstream);
        loop {
            if let Some(lease) = binding.lend() {
                return Some(lease);
            }
            timeout_at(due, binding.back.notified()).await.ok()?;
        }
    }

    /// Takes the connection that is bound already, unless another exchange has it.
    pub(super) fn lease_bound(&self, upstream: &Rc<Upstream>) -> Option<Lease> {
        self.find(upstream).filter(|binding| binding.link.borrow().is_some())?.lend()
    }

    /// Makes room for a connection that is to be bound now, unless another exchange has the place.
    pub(super) fn bind(&self, upstream: &Rc<Upstream>) -> Option<Lease> {
        self.place(upstream).lend()
    }
}

impl Binding {
    fn new(upstream: &Rc<Upstream>) -> Rc<Self> {
        let (link, lent, back) = (RefCell::default(), Cell::new(false), Notify::new());
        let binding = Rc::new(Self { upstream: Rc::downgrade(upstream), link, lent, back });
        upstream.bound.borrow_mut().push(Rc::downgrade(&binding));
        binding
    }

    fn is_of(&self, upstream: &Rc<Upstream>) -> bool {
        Weak::ptr_eq(&self.upstream, &Rc::downgrade(upstream))
    }

    fn lend(self: &Rc<Self>) -> Option<Lease> {
        (!self.lent.replace(true)).then(|| Lease(Rc::clone(self)))
    }

    /// Closes the connection if it has died, or if it rests while others wait for one.
    pub(super) fn sweep(&self, now: Instant, crowded: bool) {
        let mut link = self.link.borrow_mut();
        if link.as_mut().is_some_and(|link| !link.is_alive() || (crowded && link.rests_for(now) >= RESPITE)) {
            *link = None;
        }
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        self.link.take();
    }
}

impl Lease {
    /// Takes the connection itself, if there is one and it still stands.
    pub(super) fn take(&self) -> Option<Box<Conn>> {
        self.0.link.take().and_then(|mut link| link.is_at_hand().then_some(link))
    }

    /// Gives the connection back.
    pub(super) fn give_back(self, mut link: Box<Conn>) {
        link.rest();
        self.0.link.replace(Some(link));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.lent.set(false);
        self.0.back.notify_one();
    }
}
