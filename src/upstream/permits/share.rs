//! Who asks for a connection, and how many of all connections it may have.

use crate::budget::{ClientUsage, ConnectionCounts, Ledger};
use crate::model::upstream_name::UpstreamName;

/// One client may hold this many times the unused permits.
pub(super) const SHARE: usize = 7;
/// One in this many permits is reserved for clients that hold next to none.
const RESERVED: usize = 32;
/// Of those, each client may have one, and one more for this many permits of the upstream.
const RESERVED_EACH: usize = 256;
/// A connection of a client with this many exchanges under way is busy.
const BUSY: usize = 8;
/// One in this many permits is for requests of callgate itself, but not more than [`MAX_OWN`].
const OWN: usize = 64;
pub(super) const MAX_OWN: usize = 16;

/// For whom a connection is needed.
#[derive(Debug, Clone, Default)]
pub(crate) enum Requester {
    /// For a request of callgate itself.
    #[default]
    Gate,
    /// For a request of a client, counted for the client and for the connection it came over.
    Client(ClientUsage, ConnectionCounts),
}

impl Requester {
    /// Makes the requester for a client whose request came over this connection.
    #[must_use]
    pub(crate) fn client(client: ClientUsage, connection: &Ledger) -> Self {
        Self::Client(client, connection.connections().clone())
    }

    /// Returns how many upstream connections serve the client, and how many of them the connection it came over.
    pub(super) fn held(&self, upstream: UpstreamName) -> (usize, usize) {
        match self {
            Self::Gate => (0, 0),
            Self::Client(client, connection) => (client.connections().count(upstream), connection.count(upstream)),
        }
    }

    /// Counts an upstream connection that begins to serve.
    pub(super) fn count(&self, upstream: UpstreamName) {
        if let Self::Client(client, connection) = self {
            client.connections().add(upstream);
            connection.add(upstream);
        }
    }

    /// Counts an upstream connection that serves no longer.
    pub(super) fn uncount(&self, upstream: UpstreamName) {
        if let Self::Client(client, connection) = self {
            client.connections().remove(upstream);
            connection.remove(upstream);
        }
    }
}

/// Decides whether one of the `unused` permits may go to a client that holds `client` of them, `connection` of which
/// serve the connection that asks. `count` is the number of all permits.
pub(super) fn is_within((client, connection): (usize, usize), unused: usize, count: usize) -> bool {
    let spare = unused.saturating_sub((count / OWN).min(MAX_OWN));
    let share = SHARE * spare.saturating_sub(count / RESERVED);
    // Each permit that is taken also leaves one fewer unused.
    let left = share.saturating_sub(client).div_ceil(SHARE + 1);
    let few = (1 + count / RESERVED_EACH).saturating_sub(client).min(spare);
    let left = left.max(few);
    let all = client + left;
    match connection {
        0 => left > 0,
        1..BUSY => left > all / 8,
        _ => left > all / 4,
    }
}
