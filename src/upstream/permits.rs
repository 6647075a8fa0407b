//! Permits for connections to one upstream: how many all workers may have together, and how many may serve one client.
//!
//! A client may hold seven times as many permits as are unused, beyond a few that are reserved for clients that hold
//! next to none. So the next client finds some, however many clients there are. Within a client, the last quarter is
//! for connections with few exchanges and the last eighth for connections with none: one address may stand for many
//! people, and one of them must not take all permits by opening many HTTP/2 streams. The very last permits are for
//! requests of callgate itself.
//! Requests without a permit wait in a queue; a permit that is given back goes to the requester that holds fewest.

mod queue;
mod share;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use self::queue::{PermitQueue, QueueTicket};
pub(crate) use self::share::Requester;
use crate::model::upstream_name::UpstreamName;

/// A client that holds less than this part of all permits may take an idle connection without further checks.
const SMALL: usize = 16;

/// The permits for connections to one upstream, and the requests that wait for one.
#[derive(Debug)]
pub(super) struct ConnectionPermits {
    count: usize,
    upstream: UpstreamName,
    queue: Mutex<PermitQueue>,
    /// How many requests wait.
    waiting: AtomicUsize,
    /// How many of them could have a permit if an idle connection were closed.
    lacking_idle: AtomicUsize,
}

/// The right to have one connection, given back when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit(Arc<ConnectionPermits>);

/// The use of a connection by one requester, counted until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionUsage {
    permits: Arc<ConnectionPermits>,
    requester: Requester,
}

/// What a request for a permit gets at once.
enum Admission {
    Permit(ConnectionPermit),
    Queued(QueueTicket),
    /// The queue is full.
    Refused,
}

impl ConnectionPermits {
    pub(super) fn new(count: usize, upstream: UpstreamName) -> Arc<Self> {
        let (waiting, lacking_idle) = Default::default();
        Arc::new(Self { count, upstream, queue: Mutex::new(PermitQueue::new(count)), waiting, lacking_idle })
    }

    /// Takes a permit, or waits for one until `due`.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        requester: &Requester,
        due: Instant,
    ) -> Option<(ConnectionPermit, ConnectionUsage)> {
        let ticket = match self.try_acquire(requester) {
            Admission::Permit(permit) => return Some((permit, self.begin_usage(requester.clone()))),
            Admission::Queued(ticket) => ticket,
            Admission::Refused => return None,
        };
        ticket.granted(due).await
    }

    /// Lets a requester use an idle connection, unless it holds its share.
    pub(super) fn reuse(self: &Arc<Self>, requester: &Requester) -> Option<ConnectionUsage> {
        let is_allowed = match requester {
            Requester::Gate => true,
            Requester::Client(..) if requester.held(self.upstream).0 < self.count / SMALL => true,
            Requester::Client(..) => self.is_allowed(requester, self.unused(&self.lock())),
        };
        is_allowed.then(|| self.begin_usage(requester.clone()))
    }

    /// Returns the count of a worker's idle connections, which the worker keeps up to date.
    pub(super) fn idle_count(&self) -> Arc<AtomicUsize> {
        let idle = Arc::default();
        let mut queue = self.lock();
        queue.idle.retain(|known| known.strong_count() > 0);
        queue.idle.push(Arc::downgrade(&idle));
        idle
    }

    /// Tells whether a waiting request could have a permit if an idle connection were closed.
    pub(super) fn lacks_idle(&self) -> bool {
        self.lacking_idle.load(Ordering::Relaxed) > 0
    }

    /// Tells whether no permit is free, although a connection may be idle.
    pub(super) fn are_used_up(&self) -> bool {
        self.lock().free == 0
    }

    /// Tells whether a request waits while all permits are in use.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 && self.lock().free == 0
    }

    fn try_acquire(self: &Arc<Self>, requester: &Requester) -> Admission {
        let mut queue = self.lock();
        if queue.free > 0 && self.is_allowed(requester, self.unused(&queue)) {
            queue.free -= 1;
            return Admission::Permit(ConnectionPermit(Arc::clone(self)));
        }
        if !queue.has_room_for(requester) {
            return Admission::Refused;
        }
        Admission::Queued(self.enqueue(&mut queue, requester.clone()))
    }

    fn enqueue(self: &Arc<Self>, queue: &mut PermitQueue, requester: Requester) -> QueueTicket {
        let (id, granted) = queue.push(requester.clone());
        self.publish(queue);
        QueueTicket::new(Arc::clone(self), requester, id, granted)
    }

    /// Decides whether a requester may have one more permit while `unused` are not in use.
    fn is_allowed(&self, requester: &Requester, unused: usize) -> bool {
        match requester {
            Requester::Gate => unused > 0,
            Requester::Client(..) => share::is_within(requester.held(self.upstream), unused, self.count),
        }
    }

    fn unused(&self, queue: &PermitQueue) -> usize {
        let idle = queue.idle.iter().filter_map(Weak::upgrade).map(|idle| idle.load(Ordering::Relaxed));
        (queue.free + idle.sum::<usize>()).min(self.count)
    }

    fn begin_usage(self: &Arc<Self>, requester: Requester) -> ConnectionUsage {
        requester.count(self.upstream);
        ConnectionUsage { permits: Arc::clone(self), requester }
    }

    /// Grants free permits to waiting requests that may have one: callgate's own first, then those of the requester
    /// that holds fewest, then the oldest.
    fn grant_waiting(&self, queue: &mut PermitQueue) {
        while queue.free > 0 {
            let unused = self.unused(queue);
            let allowed =
                queue.waiting.iter().enumerate().filter(|(_, waiter)| self.is_allowed(&waiter.requester, unused));
            let held = |requester: &Requester| match requester {
                Requester::Gate => None,
                Requester::Client(..) => Some(requester.held(self.upstream)),
            };
            let Some((position, _)) = allowed.min_by_key(|(_, waiter)| held(&waiter.requester)) else { break };
            let Some(waiter) = queue.waiting.remove(position) else { break };
            queue.free -= 1;
            waiter.requester.count(self.upstream);
            // If the request has just given up, its ticket gives the permit back.
            let _ = waiter.grant.send(());
        }
        self.publish(queue);
    }

    /// Brings the counts up to date that are read without the lock.
    fn publish(&self, queue: &PermitQueue) {
        self.waiting.store(queue.waiting.len(), Ordering::Relaxed);
        let unused = self.unused(queue);
        let lacking =
            queue.waiting.iter().filter(|waiter| queue.free == 0 && self.is_allowed(&waiter.requester, unused));
        self.lacking_idle.store(lacking.count(), Ordering::Relaxed);
    }

    /// Grants free permits after the shares have changed.
    fn reconsider(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.grant_waiting(&mut self.lock());
        }
    }

    fn lock(&self) -> MutexGuard<'_, PermitQueue> {
        // The queue is consistent even after a panic: nothing between its changes can panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.free += 1;
        self.0.grant_waiting(&mut queue);
    }
}

impl Drop for ConnectionUsage {
    fn drop(&mut self) {
        self.requester.uncount(self.permits.upstream);
        self.permits.reconsider();
    }
}

#[cfg(test)]
mod tests;
