//! How many connections there are: in all, and of each client. Shared by all workers.
//!
//! Beyond the total nobody is turned away: who comes waits, while what rests longest makes room. A client that has as
//! many as one may have is turned away, so that others find room.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::descriptors::{self, DescriptorPermit};
use crate::limit::client_key;

/// The connections of all workers.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    open: AtomicUsize,
    waiting: AtomicUsize,
    left: Notify,
    seed: RandomState,
    /// Clients with their connections, never none: so there are as many entries as connections at most.
    clients: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
    /// What was said of them all.
    pub(super) told: Told,
}

/// What was said, by any worker, of that there is not enough.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// There is no room for more connections.
    pub(super) full: Notice,
    /// No connection can be accepted.
    pub(super) short: Notice,
    /// Connections are closed because memory is short.
    pub(super) slow: Notice,
}

/// A notice that is given once a minute at most.
#[derive(Debug, Default)]
pub(super) struct Notice(Mutex<Option<Instant>>);

/// How long a notice is not repeated.
const SILENCE: Duration = Duration::from_secs(60);

impl Notice {
    /// Tells whether it is to be given, and takes it as given then.
    pub(super) fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = given.is_none_or(|given| now - given > SILENCE);
        if is_due {
            *given = Some(now);
        }
        is_due
    }
}

/// How soon it is looked again whether there is a file descriptor.
const AGAIN: Duration = Duration::from_millis(100);

/// So many, that two workers seldom want the same.
const SHARDS: usize = 16;

/// One connection's place among all, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    /// None in a moment: it is given back before the next one is told that there is room.
    descriptor: Option<DescriptorPermit>,
}

/// One connection's place among its client's, until it is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    crowd: Arc<Crowd>,
    client: IpAddr,
}

impl Crowd {
    /// Takes a place, if fewer than `most` are taken and one more file may be open.
    pub(super) fn enter(self: &Arc<Self>, most: usize) -> Option<Place> {
        let descriptor = descriptors::acquire_for_client()?;
        let more = |open| (open < most).then_some(open + 1);
        let entered = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        entered.is_ok().then(|| Place { crowd: Arc::clone(self), descriptor: Some(descriptor) })
    }

    /// Waits for a place.
    pub(super) async fn wait(self: &Arc<Self>, most: usize) -> Place {
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            let mut left = pin!(self.left.notified());
            // Whoever leaves between the look and the wait is noticed.
            left.as_mut().enable();
            match self.enter(most) {
                Some(place) => return place,
                // That an upstream has given back a descriptor is not told.
                None => drop(timeout(AGAIN, left).await),
            }
        }
    }

    /// Tells whether somebody waits for a place.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Counts a connection of a client, if it has fewer than `most`.
    pub(super) fn admit(self: &Arc<Self>, client: IpAddr, most: usize) -> Option<Visit> {
        let client = client_key(client);
        let mut clients = self.shard(&client);
        let count = clients.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Visit { crowd: Arc::clone(self), client })
    }

    fn shard(&self, client: &IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let at = self.seed.hash_one(client) as usize % SHARDS;
        // Plain numbers are never half-written.
        self.clients[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.descriptor.take());
        self.crowd.open.fetch_sub(1, Ordering::AcqRel);
        self.crowd.left.notify_one();
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.crowd.shard(&self.client).entry(self.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// One who waits.
struct Waiting<'c>(&'c AtomicUsize);

impl<'c> Waiting<'c> {
    fn begin(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_client_has_a_number_of_its_own() {
        let crowd = Arc::<Crowd>::default();
        let visits: Vec<_> = (0..3).map(|_| crowd.admit(ip("192.0.2.1"), 3)).collect();
        assert!(visits.iter().all(Option::is_some) && crowd.admit(ip("192.0.2.1"), 3).is_none());
        assert!(crowd.admit(ip("192.0.2.2"), 3).is_some());
        drop(visits);
        assert!(crowd.admit(ip("192.0.2.1"), 1).is_some());
    }

    #[test]
    fn what_is_told_of_all_workers_is_told_by_one() {
        let crowd = Arc::<Crowd>::default();
        let workers: Vec<_> = (0..4).map(|_| Arc::clone(&crowd)).collect();
        assert_eq!(workers.iter().filter(|crowd| crowd.told.full.is_due()).count(), 1);
        assert!(crowd.told.short.is_due(), "another notice");
        let long_ago = Instant::now().checked_sub(SILENCE + Duration::from_secs(1)).unwrap();
        *crowd.told.full.0.lock().unwrap() = Some(long_ago);
        assert!(crowd.told.full.is_due() && !crowd.told.full.is_due());
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let crowd = Arc::<Crowd>::default();
        let _visit = crowd.admit(ip("2001:db8::1"), 1).unwrap();
        assert!(crowd.admit(ip("2001:db8::2"), 1).is_none());
        assert!(crowd.admit(ip("2001:db8:0:1::1"), 1).is_some());
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let crowd = Arc::<Crowd>::default();
        for nth in 0..1000_u32 {
            let visit = crowd.admit(IpAddr::V4(nth.into()), 1);
            assert!(visit.is_some() && crowd.admit(IpAddr::V4(nth.into()), 1).is_none());
        }
        assert_eq!(crowd.clients.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>(), 0);
    }

    #[tokio::test]
    async fn a_place_is_waited_for() {
        let crowd = Arc::<Crowd>::default();
        let places = [crowd.enter(2).unwrap(), crowd.enter(2).unwrap()];
        assert!(crowd.enter(2).is_none() && !crowd.is_wanted());
        assert!(timeout(Duration::ZERO, crowd.wait(2)).await.is_err());
        assert!(!crowd.is_wanted(), "who gave up waiting waits no more");
        let waiting = tokio::spawn({
            let crowd = Arc::clone(&crowd);
            async move { (crowd.wait(2).await, crowd.wait(2).await) }
        });
        tokio::task::yield_now().await;
        assert!(crowd.is_wanted());
        drop(places);
        let both = waiting.await.unwrap();
        assert!(crowd.enter(2).is_none());
        drop(both);
        assert_eq!(crowd.open.load(Ordering::Acquire), 0);
    }
}
