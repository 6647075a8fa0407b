//! File descriptors for connections, counted for the whole process: the limit of open files, less what callgate itself
//! needs, is shared by connections from clients and connections to upstreams.
//!
//! Each side takes what it needs, but clients never take all of them: otherwise no upstream could be reached for them.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Clients leave one of this many descriptors to upstreams.
const TO_UPSTREAMS: usize = 6;

/// The descriptors of this process.
static ALL: Descriptors = Descriptors::new();

/// Sets how many descriptors there are for connections. Before the first call there is no limit.
pub(crate) fn set_limit(most: usize) {
    ALL.most.store(most, Ordering::Relaxed);
}

/// Takes a descriptor for the connection of a client.
pub(crate) fn acquire_for_client() -> Option<DescriptorPermit> {
    ALL.take(ConnectionSide::Client)
}

/// Takes a descriptor for a connection to an upstream.
pub(crate) fn acquire_for_upstream() -> Option<DescriptorPermit> {
    ALL.take(ConnectionSide::Upstream)
}

/// Returns how many of `most` descriptors clients may have.
pub(crate) const fn client_share(most: usize) -> usize {
    most - most / TO_UPSTREAMS
}

/// The permission to use one descriptor, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct DescriptorPermit {
    all: &'static Descriptors,
    side: ConnectionSide,
}

#[derive(Debug, Clone, Copy)]
enum ConnectionSide {
    Client,
    Upstream,
}

#[derive(Debug)]
struct Descriptors {
    most: AtomicUsize,
    clients: AtomicUsize,
    upstreams: AtomicUsize,
}

impl Descriptors {
    const fn new() -> Self {
        Self { most: AtomicUsize::new(usize::MAX), clients: AtomicUsize::new(0), upstreams: AtomicUsize::new(0) }
    }

    /// Two threads that take the last one at the same moment may both get it: the reserve for callgate itself allows
    /// that.
    fn take(&'static self, side: ConnectionSide) -> Option<DescriptorPermit> {
        let most = self.most.load(Ordering::Relaxed);
        let (clients, upstreams) = (self.clients.load(Ordering::Relaxed), self.upstreams.load(Ordering::Relaxed));
        let is_free = match side {
            ConnectionSide::Client => clients + upstreams.max(most / TO_UPSTREAMS) < most,
            ConnectionSide::Upstream => clients + upstreams < most,
        };
        is_free.then(|| {
            self.count(side).fetch_add(1, Ordering::Relaxed);
            DescriptorPermit { all: self, side }
        })
    }

    const fn count(&self, side: ConnectionSide) -> &AtomicUsize {
        match side {
            ConnectionSide::Client => &self.clients,
            ConnectionSide::Upstream => &self.upstreams,
        }
    }
}

impl Drop for DescriptorPermit {
    fn drop(&mut self) {
        self.all.count(self.side).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(descriptors: &'static Descriptors, side: ConnectionSide) -> Vec<DescriptorPermit> {
        std::iter::from_fn(|| descriptors.take(side)).collect()
    }

    #[test]
    fn clients_leave_descriptors_to_upstreams_and_upstreams_take_all_free_ones() {
        static DESCRIPTORS: Descriptors = Descriptors::new();
        assert!(DESCRIPTORS.take(ConnectionSide::Client).is_some(), "no limit is known yet");
        DESCRIPTORS.most.store(12, Ordering::Relaxed);
        let mut clients = all(&DESCRIPTORS, ConnectionSide::Client);
        let upstreams = all(&DESCRIPTORS, ConnectionSide::Upstream);
        assert_eq!((clients.len(), upstreams.len(), client_share(12)), (10, 2, 10));
        clients.truncate(5);
        assert_eq!(all(&DESCRIPTORS, ConnectionSide::Upstream).len(), 5);
        drop((clients, upstreams));
        assert_eq!(all(&DESCRIPTORS, ConnectionSide::Upstream).len(), 12);
        assert_eq!(DESCRIPTORS.clients.load(Ordering::Relaxed) + DESCRIPTORS.upstreams.load(Ordering::Relaxed), 0);
    }
}
