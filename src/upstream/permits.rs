//! How many connections an upstream may have, of all workers together, and how many of them may serve one client.
//!
//! A client may hold seven times as many as are unused beyond a few, which are kept for clients that hold next to none: so
//! the next one to come finds some, however many there are. Within a client, the last quarter is for connections with few
//! exchanges and the last eighth for those with none: behind one address may be many people, and HTTP/2 is no lever. The
//! very last ones are for the gate's own questions.
//! Those who find none wait in a line, from which a slot goes to who holds fewest.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::budget::{ClientUsage, ConnectionCounts, Ledger};

/// How many exchanges wait for a connection at most. The next one is told at once that there is none.
const MAX_WAITING: usize = 1024;
/// How many times the unused connections one client may hold.
const SHARE: usize = 7;
/// This part of the connections is for clients that hold next to none: one, and this part of all besides.
const KEPT: usize = 32;
const FEW: usize = 256;
/// With so many exchanges under way a connection of a client is a busy one.
const BUSY: usize = 8;
/// A client that is served by less than this part of the connections takes an idle one without more ado.
const SMALL: usize = 16;
/// This part of the connections is for the gate's own questions, up to so many.
const OWN: usize = 64;
const MAX_OWN: usize = 16;

/// For whom a connection is.
#[derive(Debug, Clone, Default)]
pub enum Requester {
    /// The gate itself, which has a question.
    #[default]
    Gate,
    /// A client, whose request is passed on.
    Client(ClientUsage, ConnectionCounts),
}

impl Requester {
    /// Makes a tenant of a client, whose request came over this connection.
    #[must_use]
    pub fn client(client: ClientUsage, connection: &Ledger) -> Self {
        Self::Client(client, connection.connections().clone())
    }

    /// Returns how many connections serve the client, and how many the connection that it came over.
    fn held(&self, upstream: usize) -> (usize, usize) {
        match self {
            Self::Gate => (0, 0),
            Self::Client(client, connection) => (client.connections().count(upstream), connection.count(upstream)),
        }
    }

    fn begin(&self, upstream: usize) {
        if let Self::Client(client, connection) = self {
            client.connections().add(upstream);
            connection.add(upstream);
        }
    }

    fn end(&self, upstream: usize) {
        if let Self::Client(client, connection) = self {
            client.connections().remove(upstream);
            connection.remove(upstream);
        }
    }
}

/// The connections that may be, and those who wait for one.
#[derive(Debug)]
pub(super) struct ConnectionPermits {
    count: usize,
    /// Which of a client's counts is this upstream's.
    upstream: usize,
    line: Mutex<PermitQueue>,
    waiting: AtomicUsize,
    /// How many of those who wait need an idle connection to end.
    lacking: AtomicUsize,
}

#[derive(Debug)]
struct PermitQueue {
    free: usize,
    next: u64,
    waiting: VecDeque<Waiter>,
    /// How many idle connections each worker has.
    idle: Vec<Weak<AtomicUsize>>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    tenant: Requester,
    grant: oneshot::Sender<()>,
}

/// The right to one connection, given back when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit(Arc<ConnectionPermits>);

/// A connection's service to one tenant, until it is dropped.
#[derive(Debug)]
pub(super) struct CountGuard {
    slots: Arc<ConnectionPermits>,
    tenant: Requester,
}

impl ConnectionPermits {
    pub(super) fn new(count: usize, upstream: usize) -> Arc<Self> {
        let line = PermitQueue { free: count, next: 0, waiting: VecDeque::new(), idle: Vec::new() };
        let (waiting, lacking) = Default::default();
        Arc::new(Self { count, upstream, line: Mutex::new(line), waiting, lacking })
    }

    /// Takes a slot for a tenant, or waits for one.
    pub(super) async fn take(
        self: &Arc<Self>,
        tenant: &Requester,
        due: Instant,
    ) -> Option<(ConnectionPermit, CountGuard)> {
        let place = match self.take_now(tenant) {
            Admission::ConnectionPermit(slot) => return Some((slot, self.begin(tenant.clone()))),
            Admission::QueueTicket(place) => place,
            Admission::Nothing => return None,
        };
        place.granted(due).await
    }

    /// Lets a tenant have a connection that is idle, unless it has its share.
    pub(super) fn reuse(self: &Arc<Self>, tenant: &Requester) -> Option<CountGuard> {
        let may = match tenant {
            Requester::Gate => true,
            Requester::Client(..) if tenant.held(self.upstream).0 < self.count / SMALL => true,
            Requester::Client(..) => self.may_have(tenant, self.unused(&self.lock())),
        };
        may.then(|| self.begin(tenant.clone()))
    }

    /// Keeps count of a worker's idle connections.
    pub(super) fn idle(&self) -> Arc<AtomicUsize> {
        let idle = Arc::default();
        let mut line = self.lock();
        line.idle.retain(|known| known.strong_count() > 0);
        line.idle.push(Arc::downgrade(&idle));
        idle
    }

    /// Tells whether somebody waits who can only be helped by an idle connection that ends.
    pub(super) fn is_lacking(&self) -> bool {
        self.lacking.load(Ordering::Relaxed) > 0
    }

    /// Tells whether somebody waits while there are as many connections as may be.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 && self.lock().free == 0
    }

    fn take_now(self: &Arc<Self>, tenant: &Requester) -> Admission {
        let mut line = self.lock();
        if line.free > 0 && self.may_have(tenant, self.unused(&line)) {
            line.free -= 1;
            return Admission::ConnectionPermit(ConnectionPermit(Arc::clone(self)));
        }
        if !line.has_room_for(tenant) {
            return Admission::Nothing;
        }
        Admission::QueueTicket(self.line_up(&mut line, tenant.clone()))
    }

    fn line_up(self: &Arc<Self>, line: &mut PermitQueue, tenant: Requester) -> QueueTicket {
        let (grant, granted) = oneshot::channel();
        let id = line.next;
        line.next += 1;
        line.waiting.push_back(Waiter { id, tenant: tenant.clone(), grant });
        self.note(line);
        QueueTicket { slots: Arc::clone(self), tenant, id, granted, is_taken: false }
    }

    /// Decides whether a tenant may have one more connection while so many are unused.
    fn may_have(&self, tenant: &Requester, unused: usize) -> bool {
        match tenant {
            Requester::Gate => unused > 0,
            Requester::Client(..) => is_within_share(tenant.held(self.upstream), unused, self.count),
        }
    }

    fn unused(&self, line: &PermitQueue) -> usize {
        let idle = line.idle.iter().filter_map(Weak::upgrade).map(|idle| idle.load(Ordering::Relaxed));
        (line.free + idle.sum::<usize>()).min(self.count)
    }

    fn begin(self: &Arc<Self>, tenant: Requester) -> CountGuard {
        tenant.begin(self.upstream);
        CountGuard { slots: Arc::clone(self), tenant }
    }

    /// Gives free slots to those who wait and may have one: the gate first, then who holds fewest, then who came first.
    fn serve(&self, line: &mut PermitQueue) {
        while line.free > 0 {
            let unused = self.unused(line);
            let may = line.waiting.iter().enumerate().filter(|(_, waiter)| self.may_have(&waiter.tenant, unused));
            let held = |waiter: &Waiter| match &waiter.tenant {
                Requester::Gate => None,
                Requester::Client(..) => Some(waiter.tenant.held(self.upstream)),
            };
            let Some((at, _)) = may.min_by_key(|(_, waiter)| held(waiter)) else { break };
            let Some(waiter) = line.waiting.remove(at) else { break };
            line.free -= 1;
            waiter.tenant.begin(self.upstream);
            // Who has just given up gives it back.
            let _ = waiter.grant.send(());
        }
        self.note(line);
    }

    fn note(&self, line: &PermitQueue) {
        self.waiting.store(line.waiting.len(), Ordering::Relaxed);
        let unused = self.unused(line);
        let lacks = |waiter: &&Waiter| line.free == 0 && self.may_have(&waiter.tenant, unused);
        self.lacking.store(line.waiting.iter().filter(lacks).count(), Ordering::Relaxed);
    }

    /// Looks whether somebody who waits can be helped by now.
    pub(super) fn look(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.serve(&mut self.lock());
        }
    }

    fn lock(&self) -> MutexGuard<'_, PermitQueue> {
        // Numbers and the line are changed together, without a panic between.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Decides whether one more of the unused connections may be for a client and its connection, which hold so many.
fn is_within_share((client, connection): (usize, usize), unused: usize, count: usize) -> bool {
    let spare = unused.saturating_sub((count / OWN).min(MAX_OWN));
    // Each one more also makes one fewer unused.
    let share = SHARE * spare.saturating_sub(count / KEPT);
    let left = share.saturating_sub(client).div_ceil(SHARE + 1);
    let few = (1 + count / FEW).saturating_sub(client).min(spare);
    let left = left.max(few);
    let all = client + left;
    match connection {
        0 => left > 0,
        1..BUSY => left > all / 8,
        _ => left > all / 4,
    }
}

impl PermitQueue {
    /// Tells whether one more may wait. As for the connections, a client may have seven times as many places as are left.
    fn has_room_for(&self, tenant: &Requester) -> bool {
        let left = MAX_WAITING.saturating_sub(self.waiting.len());
        let Requester::Client(client, _) = tenant else { return left > 0 };
        let is_its = |waiter: &&Waiter| matches!(&waiter.tenant, Requester::Client(one, _) if one.is(client));
        let left = left.saturating_sub(MAX_OWN);
        left > MAX_WAITING / 2 || self.waiting.iter().filter(is_its).count() < SHARE * left
    }
}

enum Admission {
    ConnectionPermit(ConnectionPermit),
    QueueTicket(QueueTicket),
    Nothing,
}

/// A place in the line.
struct QueueTicket {
    slots: Arc<ConnectionPermits>,
    tenant: Requester,
    id: u64,
    granted: oneshot::Receiver<()>,
    is_taken: bool,
}

impl QueueTicket {
    async fn granted(mut self, due: Instant) -> Option<(ConnectionPermit, CountGuard)> {
        timeout_at(due, &mut self.granted).await.ok()?.ok()?;
        self.is_taken = true;
        Some(self.take())
    }

    fn take(&self) -> (ConnectionPermit, CountGuard) {
        let slots = || Arc::clone(&self.slots);
        (ConnectionPermit(slots()), CountGuard { slots: slots(), tenant: self.tenant.clone() })
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        let mut line = self.slots.lock();
        match line.waiting.iter().position(|waiter| waiter.id == self.id) {
            Some(at) => {
                line.waiting.remove(at);
                self.slots.note(&line);
            }
            // It was granted to somebody who had just given up.
            None => {
                drop(line);
                drop(self.take());
            }
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut line = self.0.lock();
        line.free += 1;
        self.0.serve(&mut line);
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.tenant.end(self.slots.upstream);
        self.slots.look();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::budget::Budget;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    /// Names clients of one budget by a number each.
    fn clients(count: u8) -> Vec<Requester> {
        let budget = Budget::new(1 << 20);
        (0..count)
            .map(|nth| Requester::Client(budget.client([192, 0, 2, nth].into()), ConnectionCounts::default()))
            .collect()
    }

    /// Names another connection of a client.
    fn again(tenant: &Requester) -> Requester {
        match tenant {
            Requester::Gate => Requester::Gate,
            Requester::Client(client, _) => Requester::Client(client.clone(), ConnectionCounts::default()),
        }
    }

    /// Takes slots until there is none for a tenant.
    fn take_all(slots: &Arc<ConnectionPermits>, tenant: &Requester) -> Vec<(ConnectionPermit, CountGuard)> {
        // Each over a connection of its own, as with HTTP/1.
        let take = || match slots.take_now(&again(tenant)) {
            Admission::ConnectionPermit(slot) => Some((slot, slots.begin(again(tenant)))),
            Admission::QueueTicket(_) | Admission::Nothing => None,
        };
        std::iter::from_fn(take).collect()
    }

    #[track_caller]
    fn check(count: usize, expected: &[usize]) {
        let slots = ConnectionPermits::new(count, 0);
        let mut taken: Vec<_> =
            clients(expected.len() as u8 - 1).iter().map(|client| take_all(&slots, client)).collect();
        taken.push(take_all(&slots, &Requester::Gate));
        let taken: Vec<_> = taken.iter().map(Vec::len).collect();
        assert_eq!(taken, expected, "of {count}");
    }

    #[test]
    fn a_client_leaves_some_for_the_next_and_the_gate_has_the_last() {
        check(1, &[1, 0]);
        check(2, &[2, 0]);
        check(7, &[7, 0]);
        check(8, &[7, 1, 0]);
        check(1000, &[835, 105, 13, 4, 4, 4, 4, 4, 4, 4, 4, 0, 15]);
        check(100, &[84, 11, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn clients_who_come_together_have_as_many_each() {
        let slots = ConnectionPermits::new(1000, 0);
        let clients = clients(4);
        let mut taken = Vec::new();
        for _ in 0..1000 {
            for client in &clients {
                if let Admission::ConnectionPermit(slot) = slots.take_now(client) {
                    taken.push((slot, slots.begin(client.clone())));
                }
            }
        }
        let held = |tenant: &Requester| tenant.held(0).0;
        let shares: Vec<_> = clients.iter().map(held).collect();
        assert!(shares.iter().all(|held| (205..=215).contains(held)), "{shares:?}");
        drop(taken);
        assert_eq!(clients.iter().map(held).sum::<usize>(), 0);
        assert_eq!(slots.lock().free, 1000);
    }

    #[test]
    fn a_connection_leaves_some_for_the_others_of_its_client() {
        let slots = ConnectionPermits::new(1000, 0);
        let client = &clients(1)[0];
        let connections: Vec<_> = (0..10).map(|_| again(client)).collect();
        let mut taken = Vec::new();
        for connection in connections.iter().cycle().take(1000) {
            if let Admission::ConnectionPermit(slot) = slots.take_now(connection) {
                taken.push((slot, slots.begin(connection.clone())));
            }
        }
        let shares: Vec<_> = connections.iter().map(|connection| connection.held(0).1).collect();
        assert!(shares.iter().all(|held| (55..=75).contains(held)), "{shares:?}");
        let page = again(client);
        assert!(matches!(slots.take_now(&page), Admission::ConnectionPermit(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_gets_the_slot_that_is_given_back_or_gives_up() {
        let (slots, tenant) = (ConnectionPermits::new(1, 0), &clients(1)[0]);
        let slot = slots.take(tenant, soon()).await.unwrap();
        assert!(slots.take(tenant, soon()).await.is_none());
        assert!(!slots.is_lacking());
        let (got, ()) = tokio::join!(slots.take(tenant, soon()), async {
            assert_eq!(slots.waiting.load(Ordering::Relaxed), 1);
            drop(slot);
        });
        assert!(got.is_some());
        drop(got);
        assert_eq!((slots.lock().free, slots.waiting.load(Ordering::Relaxed)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_goes_to_the_gate_first_and_then_to_who_holds_fewest() {
        let slots = ConnectionPermits::new(3, 0);
        let clients = clients(2);
        let mut held = take_all(&slots, &clients[0]);
        assert_eq!(held.len(), 3);
        let places: Vec<_> = [&clients[0], &clients[1], &clients[1], &Requester::Gate]
            .map(|tenant| slots.line_up(&mut slots.lock(), tenant.clone()))
            .into();
        let (mut places, mut order, mut given) = (places, Vec::new(), Vec::new());
        while let Some((slot, tenancy)) = held.pop() {
            drop(slot);
            // It still counts as served.
            given.push(tenancy);
            let at = places.iter_mut().position(|place| place.granted.try_recv().is_ok()).unwrap();
            let mut place = places.remove(at);
            place.is_taken = true;
            order.push(matches!(&place.tenant, Requester::Client(..)).then(|| place.tenant.held(0).0));
            std::mem::forget(place.take());
        }
        assert_eq!(order, [None, Some(1), Some(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_given_up_gives_back_what_was_granted() {
        let (slots, tenant) = (ConnectionPermits::new(1, 0), &clients(1)[0]);
        let slot = slots.take(tenant, soon()).await.unwrap();
        let place = slots.line_up(&mut slots.lock(), tenant.clone());
        drop(slot);
        assert_eq!(slots.lock().free, 0);
        drop(place);
        assert_eq!(slots.lock().free, 1);
        assert!(slots.take(tenant, soon()).await.is_some());
    }

    #[test]
    fn an_idle_connection_is_unused_and_lacking_to_who_may_have_one() {
        let slots = ConnectionPermits::new(16, 0);
        let clients = clients(2);
        let taken = take_all(&slots, &clients[0]);
        assert_eq!(taken.len(), 14);
        assert!(slots.reuse(&clients[0]).is_none());
        assert!(slots.reuse(&clients[1]).is_some() && slots.reuse(&Requester::Gate).is_some());
        let rest = take_all(&slots, &Requester::Gate);
        let place = slots.line_up(&mut slots.lock(), clients[1].clone());
        assert!(!slots.is_lacking(), "nothing is idle");
        let idle = slots.idle();
        idle.store(1, Ordering::Relaxed);
        slots.look();
        assert!(slots.is_lacking());
        drop((place, rest));
        assert!(!slots.is_lacking());
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_is_bounded_and_has_room_for_another_client() {
        let slots = ConnectionPermits::new(1, 0);
        let clients = clients(2);
        let _slot = slots.take(&clients[0], soon()).await.unwrap();
        let line = |tenant: &Requester| {
            let line_up = || match slots.take_now(tenant) {
                Admission::QueueTicket(place) => Some(place),
                Admission::ConnectionPermit(_) | Admission::Nothing => None,
            };
            std::iter::from_fn(line_up).collect::<Vec<_>>()
        };
        let waiting = [line(&clients[0]), line(&clients[1]), line(&Requester::Gate)];
        let asked = Instant::now();
        assert!(slots.take(&clients[0], soon()).await.is_none());
        assert_eq!(asked.elapsed(), Duration::ZERO);
        assert!(waiting[1].len() > 50 && waiting[2].len() >= MAX_OWN);
        assert_eq!(waiting.iter().map(Vec::len).sum::<usize>(), MAX_WAITING);
        drop(waiting);
        assert_eq!(slots.waiting.load(Ordering::Relaxed), 0);
    }
}
