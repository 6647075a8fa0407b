//! The connections that callgate has opened to targets of `[[passthrough]]`, by its own addresses. One that comes in at a
//! listener of callgate would be passed on again, without end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The own addresses of open connections to targets, of all workers. There are at most as many as connections of clients.
#[derive(Debug, Default)]
pub(super) struct OwnConnections(Mutex<HashSet<SocketAddr>>);

/// One connection, until it is dropped.
#[derive(Debug)]
pub(super) struct OwnConnection {
    all: Arc<OwnConnections>,
    address: SocketAddr,
}

impl OwnConnections {
    /// Adds a connection.
    pub(super) fn add(self: &Arc<Self>, address: SocketAddr) -> OwnConnection {
        let address = canonical(address);
        self.lock().insert(address);
        OwnConnection { all: Arc::clone(self), address }
    }

    /// Returns whether the other end of an accepted connection is callgate itself.
    pub(super) fn has(&self, peer: SocketAddr) -> bool {
        self.lock().contains(&canonical(peer))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        // A set is never left half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnConnection {
    fn drop(&mut self) {
        self.all.lock().remove(&self.address);
    }
}

/// Writes an IPv4 address as one, also where a socket is for both families.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_connection_is_known_by_either_spelling_of_its_address() {
        let all = Arc::<OwnConnections>::default();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let open = all.add(address("[::ffff:192.0.2.1]:5000"));
        assert!(all.has(address("192.0.2.1:5000")) && all.has(address("[::ffff:192.0.2.1]:5000")));
        assert!(!all.has(address("192.0.2.1:5001")) && !all.has(address("192.0.2.2:5000")));
        drop(open);
        assert!(!all.has(address("192.0.2.1:5000")));
    }
}
