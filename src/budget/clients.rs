//! What each client holds, summed over all workers.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::{Budget, change, lock};
use crate::model::upstream_name::UpstreamName;

/// Enough that two workers seldom lock the same shard.
const SHARDS: usize = 16;

/// The clients that have a connection or exchange open.
#[derive(Debug, Default)]
pub(super) struct Clients {
    seed: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

type Shard = HashMap<IpAddr, Weak<ClientCounts>>;

/// The counts of one client.
#[derive(Debug)]
struct ClientCounts {
    budget: Arc<Budget>,
    key: IpAddr,
    bytes: AtomicUsize,
    connections: ConnectionCounts,
}

/// How many connections to each upstream serve one client, or one connection of a client. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ConnectionCounts(Arc<CountPerUpstream>);

#[derive(Debug, Default)]
struct CountPerUpstream {
    app: AtomicUsize,
    pbx: AtomicUsize,
}

/// A handle to the counts of one client. The counts exist as long as a handle does.
#[derive(Debug, Clone)]
pub struct ClientUsage(Arc<ClientCounts>);

impl Clients {
    pub(super) fn find(&self, budget: &Arc<Budget>, key: IpAddr) -> ClientUsage {
        let mut shard = self.shard(&key);
        if let Some(usage) = shard.get(&key).and_then(Weak::upgrade) {
            return ClientUsage(usage);
        }
        let (bytes, connections) = Default::default();
        let usage = Arc::new(ClientCounts { budget: Arc::clone(budget), key, bytes, connections });
        shard.insert(key, Arc::downgrade(&usage));
        ClientUsage(usage)
    }

    /// Returns the client with the most bytes.
    pub(super) fn largest(&self) -> Option<ClientUsage> {
        // The lock of a shard ends before a handle is dropped: dropping the last handle of a client locks the shard
        // again.
        let all =
            self.shards.iter().flat_map(|shard| lock(shard).values().filter_map(Weak::upgrade).collect::<Vec<_>>());
        all.map(ClientUsage).max_by_key(ClientUsage::held)
    }

    fn shard(&self, key: &IpAddr) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.seed.hash_one(key) as usize % SHARDS])
    }
}

impl ClientUsage {
    /// Returns the address, or network, that names the client.
    #[must_use]
    pub fn key(&self) -> IpAddr {
        self.0.key
    }

    /// Tells whether both handles are of the same client.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the bytes that its connections hold, to within 16 KiB for each.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn change(&self, before: usize, after: usize) {
        change(&self.0.bytes, before, after);
    }

    /// Returns how many upstream connections serve the client.
    #[must_use]
    pub fn connections(&self) -> &ConnectionCounts {
        &self.0.connections
    }
}

impl ConnectionCounts {
    fn counter(&self, upstream: UpstreamName) -> &AtomicUsize {
        match upstream {
            UpstreamName::App => &self.0.app,
            UpstreamName::Pbx => &self.0.pbx,
        }
    }

    /// Returns how many connections to an upstream there are.
    #[must_use]
    pub fn count(&self, upstream: UpstreamName) -> usize {
        self.counter(upstream).load(Ordering::Relaxed)
    }

    /// Counts a connection to an upstream that begins to serve.
    pub fn add(&self, upstream: UpstreamName) {
        self.counter(upstream).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection to an upstream that serves no longer.
    pub fn remove(&self, upstream: UpstreamName) {
        self.counter(upstream).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ClientCounts {
    fn drop(&mut self) {
        let mut shard = self.budget.clients.shard(&self.key);
        // A new entry for the same client may stand here by now.
        if shard.get(&self.key).is_some_and(|known| known.strong_count() == 0) {
            shard.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(budget: &Budget) -> usize {
        budget.clients.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    #[test]
    fn a_clients_counts_exist_as_long_as_a_handle_to_them() {
        let budget = Budget::new(1 << 20);
        let first = budget.client("192.0.2.1".parse().unwrap());
        let again = budget.client(first.key());
        let other = budget.client("2001:db8::".parse().unwrap());
        first.connections().add(UpstreamName::App);
        let count = |client: &ClientUsage, upstream| client.connections().count(upstream);
        let counts =
            [count(&again, UpstreamName::App), count(&again, UpstreamName::Pbx), count(&other, UpstreamName::App)];
        assert_eq!(counts, [1, 0, 0]);
        again.change(0, 70_000);
        assert_eq!((first.held(), budget.clients.largest().unwrap().key()), (70_000, first.key()));
        drop(first.clone());
        drop(first);
        assert_eq!(known(&budget), 2);
        drop((again, other));
        assert_eq!(known(&budget), 0);
    }
}
