//! The queue of requests that wait for a permit.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::share::{MAX_OWN, Requester, SHARE};
use super::{ConnectionPermit, ConnectionPermits, ConnectionUsage};

/// The most requests that wait. The next one is refused at once.
pub(super) const MAX_WAITING: usize = 1024;

/// The free permits, and the requests that wait for one.
#[derive(Debug)]
pub(super) struct PermitQueue {
    pub(super) free: usize,
    next_id: u64,
    pub(super) waiting: VecDeque<Waiter>,
    /// How many idle connections each worker has.
    pub(super) idle: Vec<Weak<AtomicUsize>>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    id: u64,
    pub(super) requester: Requester,
    pub(super) grant: oneshot::Sender<()>,
}

impl PermitQueue {
    pub(super) const fn new(free: usize) -> Self {
        Self { free, next_id: 0, waiting: VecDeque::new(), idle: Vec::new() }
    }

    /// Adds a request at the end. Returns its number, and where the grant will arrive.
    pub(super) fn push(&mut self, requester: Requester) -> (u64, oneshot::Receiver<()>) {
        let (grant, granted) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push_back(Waiter { id, requester, grant });
        (id, granted)
    }

    /// Tells whether one more request of a requester may wait. As with permits, the requests of one client may be seven
    /// times as many as there are places left.
    pub(super) fn has_room_for(&self, requester: &Requester) -> bool {
        let left = MAX_WAITING.saturating_sub(self.waiting.len());
        let Requester::Client(client, _) = requester else { return left > 0 };
        let is_its = |waiter: &&Waiter| matches!(&waiter.requester, Requester::Client(one, _) if one.is(client));
        let left = left.saturating_sub(MAX_OWN);
        left > MAX_WAITING / 2 || self.waiting.iter().filter(is_its).count() < SHARE * left
    }
}

/// A request's place in the queue, left when it is dropped.
pub(super) struct QueueTicket {
    permits: Arc<ConnectionPermits>,
    pub(super) requester: Requester,
    id: u64,
    pub(super) granted: oneshot::Receiver<()>,
    pub(super) is_taken: bool,
}

impl QueueTicket {
    pub(super) const fn new(
        permits: Arc<ConnectionPermits>,
        requester: Requester,
        id: u64,
        granted: oneshot::Receiver<()>,
    ) -> Self {
        Self { permits, requester, id, granted, is_taken: false }
    }

    /// Waits until the permit is granted, at most until `due`.
    pub(super) async fn granted(mut self, due: Instant) -> Option<(ConnectionPermit, ConnectionUsage)> {
        timeout_at(due, &mut self.granted).await.ok()?.ok()?;
        self.is_taken = true;
        Some(self.take())
    }

    /// Takes the permit that was granted; its usage has been counted already.
    pub(super) fn take(&self) -> (ConnectionPermit, ConnectionUsage) {
        let permits = || Arc::clone(&self.permits);
        (ConnectionPermit(permits()), ConnectionUsage { permits: permits(), requester: self.requester.clone() })
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        let mut queue = self.permits.lock();
        match queue.waiting.iter().position(|waiter| waiter.id == self.id) {
            Some(position) => {
                queue.waiting.remove(position);
                self.permits.publish(&queue);
            }
            // The permit was granted just before the request gave up.
            None => {
                drop(queue);
                drop(self.take());
            }
        }
    }
}
