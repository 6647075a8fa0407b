//! Admission of connections: `max_connections` and `max_connections_per_client`, counted for all workers together.
//!
//! At `max_connections` a new connection waits, and the longest idle one is closed. A client that has
//! `max_connections_per_client` open connections gets no further one, so that others find room.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::client_io::ClientStream;
use super::own_connections::OwnConnections;
use super::proxy_protocol::{self, AddressPair};
use crate::config::ServerConfig;
use crate::descriptors::{self, DescriptorPermit};
use crate::limit::client_key;
use crate::observe::notice::Notice;

/// How soon a waiting connection asks again for a file descriptor: an upstream connection that closes does not wake it.
const DESCRIPTOR_RETRY: Duration = Duration::from_millis(100);
/// So many that two workers seldom lock the same one.
const SHARDS: usize = 16;

/// The connections of all workers.
#[derive(Debug, Default)]
pub(super) struct ConnectionLimits {
    open: AtomicUsize,
    waiting: AtomicUsize,
    released: Notify,
    seed: RandomState,
    /// The connections of each client. A client without one has no entry, so there are at most as many entries as
    /// connections.
    clients: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
    pub(super) notices: Notices,
    /// The connections that callgate opened to targets of `[[passthrough]]`.
    pub(super) own: Arc<OwnConnections>,
}

/// Warnings about a shortage, each given by one worker for all.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// `max_connections` is reached.
    pub(super) full: Notice,
    /// The system accepts no connection.
    pub(super) accept_failed: Notice,
    /// Connections are closed because `buffer_budget` is used up.
    pub(super) shed: Notice,
    /// A balancer of `accept_proxy_protocol_from` sends no PROXY header.
    pub(super) no_proxy_header: Notice,
}

/// One connection's share of `max_connections`, until it is dropped.
#[derive(Debug)]
pub(super) struct AdmissionPermit {
    limits: Arc<ConnectionLimits>,
    /// An `Option` so that it is released before a waiting connection is woken.
    descriptor: Option<DescriptorPermit>,
}

/// One connection's share of `max_connections_per_client`, until it is dropped.
#[derive(Debug)]
pub(super) struct ClientPermit {
    limits: Arc<ConnectionLimits>,
    client: IpAddr,
}

impl ConnectionLimits {
    /// Admits a connection if fewer than `most` are open and one more file descriptor may be.
    pub(super) fn try_acquire(self: &Arc<Self>, most: usize) -> Option<AdmissionPermit> {
        let descriptor = descriptors::acquire_for_client()?;
        let more = |open| (open < most).then_some(open + 1);
        let acquired = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        acquired.is_ok().then(|| AdmissionPermit { limits: Arc::clone(self), descriptor: Some(descriptor) })
    }

    /// Waits until a connection is admitted.
    pub(super) async fn acquire(self: &Arc<Self>, most: usize) -> AdmissionPermit {
        let _waiting = WaitingConnection::new(&self.waiting);
        loop {
            let mut released = pin!(self.released.notified());
            // A permit that is released between the attempt and the wait is noticed.
            released.as_mut().enable();
            match self.try_acquire(most) {
                Some(permit) => return permit,
                None => drop(timeout(DESCRIPTOR_RETRY, released).await),
            }
        }
    }

    /// Returns whether a connection waits to be admitted.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Admits a connection of a client if it has fewer than `most`.
    pub(super) fn try_acquire_client(self: &Arc<Self>, client: IpAddr, most: usize) -> Option<ClientPermit> {
        let client = client_key(client);
        let mut clients = self.shard(&client);
        let count = clients.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(ClientPermit { limits: Arc::clone(self), client })
    }

    fn shard(&self, client: &IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let at = self.seed.hash_one(client) as usize % SHARDS;
        // Plain numbers are never half-written.
        self.clients[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        drop(self.descriptor.take());
        self.limits.open.fetch_sub(1, Ordering::AcqRel);
        self.limits.released.notify_one();
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.limits.shard(&self.client).entry(self.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Counts a connection as waiting until it is dropped.
struct WaitingConnection<'c>(&'c AtomicUsize);

impl<'c> WaitingConnection<'c> {
    fn new(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for WaitingConnection<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

// === The client of a connection ===

/// The client of a connection.
pub(super) struct AdmittedClient {
    /// Its address.
    pub(super) address: IpAddr,
    /// `None` for trusted proxies and balancers: they carry many clients.
    pub(super) permit: Option<ClientPermit>,
    /// The addresses that a balancer's PROXY header names.
    pub(super) named: Option<AddressPair>,
}

/// Finds the client of a connection, and counts it. Returns `None` for a client that has as many connections as it may have,
/// and for a balancer that sends no PROXY header.
pub(super) async fn admit(
    stream: &mut ClientStream,
    address: SocketAddr,
    server: &ServerConfig,
    limits: &Arc<ConnectionLimits>,
) -> Option<AdmittedClient> {
    let peer = address.ip().to_canonical();
    let named = if server.expects_proxy_header(peer) { read_header(stream, peer, limits).await? } else { None };
    let client = named.map_or(peer, |named| named.source.ip().to_canonical());
    if server.believes(client) || server.expects_proxy_header(client) {
        return Some(AdmittedClient { address: client, permit: None, named });
    }
    let permit = limits.try_acquire_client(client, server.max_connections_per_client);
    if permit.is_none() {
        tracing::debug!(%client, "as many connections as one client may have");
    }
    permit.map(|permit| AdmittedClient { address: client, permit: Some(permit), named })
}

/// Reads the PROXY header of a balancer.
async fn read_header(
    stream: &mut ClientStream,
    peer: IpAddr,
    limits: &ConnectionLimits,
) -> Option<Option<AddressPair>> {
    let read = Box::pin(proxy_protocol::read(stream)).await;
    let warn = |error: &io::Error| {
        tracing::debug!(%peer, %error, "no PROXY header");
        // A balancer that connects and leaves only looks whether callgate is there.
        if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::TimedOut)
            && limits.notices.no_proxy_header.is_due()
        {
            tracing::warn!(
                balancer = %peer,
                "connections of a balancer are closed, because they do not begin with a valid PROXY header: let it send one, \
                 or remove it from accept_proxy_protocol_from"
            );
        }
    };
    read.inspect_err(warn).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_client_has_a_number_of_its_own() {
        let limits = Arc::<ConnectionLimits>::default();
        let permits: Vec<_> = (0..3).map(|_| limits.try_acquire_client(ip("192.0.2.1"), 3)).collect();
        assert!(permits.iter().all(Option::is_some) && limits.try_acquire_client(ip("192.0.2.1"), 3).is_none());
        assert!(limits.try_acquire_client(ip("192.0.2.2"), 3).is_some());
        drop(permits);
        assert!(limits.try_acquire_client(ip("192.0.2.1"), 1).is_some());
    }

    #[test]
    fn a_notice_about_all_workers_is_given_by_one() {
        let limits = Arc::<ConnectionLimits>::default();
        let workers: Vec<_> = (0..4).map(|_| Arc::clone(&limits)).collect();
        assert_eq!(workers.iter().filter(|limits| limits.notices.full.is_due()).count(), 1);
        assert!(limits.notices.accept_failed.is_due(), "another notice");
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let limits = Arc::<ConnectionLimits>::default();
        let _permit = limits.try_acquire_client(ip("2001:db8::1"), 1).unwrap();
        assert!(limits.try_acquire_client(ip("2001:db8::2"), 1).is_none());
        assert!(limits.try_acquire_client(ip("2001:db8:0:1::1"), 1).is_some());
    }

    #[test]
    fn a_client_without_connections_has_no_entry() {
        let limits = Arc::<ConnectionLimits>::default();
        for nth in 0..1000_u32 {
            let permit = limits.try_acquire_client(IpAddr::V4(nth.into()), 1);
            assert!(permit.is_some() && limits.try_acquire_client(IpAddr::V4(nth.into()), 1).is_none());
        }
        assert_eq!(limits.clients.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>(), 0);
    }

    #[tokio::test]
    async fn a_connection_waits_for_its_permit() {
        let limits = Arc::<ConnectionLimits>::default();
        let permits = [limits.try_acquire(2).unwrap(), limits.try_acquire(2).unwrap()];
        assert!(limits.try_acquire(2).is_none() && !limits.has_waiting());
        assert!(timeout(Duration::ZERO, limits.acquire(2)).await.is_err());
        assert!(!limits.has_waiting(), "a wait that was given up is no wait");
        let waiting = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move { (limits.acquire(2).await, limits.acquire(2).await) }
        });
        tokio::task::yield_now().await;
        assert!(limits.has_waiting());
        drop(permits);
        let both = waiting.await.unwrap();
        assert!(limits.try_acquire(2).is_none());
        drop(both);
        assert_eq!(limits.open.load(Ordering::Acquire), 0);
    }
}
