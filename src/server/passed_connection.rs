//! One connection that is passed on before TLS: its bytes go to a target and back, untouched.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::client_io::ClientStream;
use super::first_message::{ClientToPass, FatalAlert, refuse};
use super::passthrough::PassthroughRoute;
use super::proxy_header;
use super::proxy_protocol::AddressPair;
use super::registry::ConnectionHandle;
use super::worker::Worker;
use crate::budget::Ledger;
use crate::exchange::{Activity, PassedConnection};
use crate::observe::metrics::{ClientProtocol, ConnectResult};
use crate::upstream::{self, Error, TunnelTimeouts, Upgraded};

/// The client's end of a connection that is passed on.
pub(super) struct ClientEnd {
    /// The client's address.
    pub(super) address: IpAddr,
    /// The other end of the socket.
    pub(super) peer: SocketAddr,
    /// The addresses that a balancer's PROXY header names.
    pub(super) named: Option<AddressPair>,
    /// Counts the memory of the connection.
    pub(super) ledger: Arc<Ledger>,
    pub(super) handle: ConnectionHandle,
}

/// Passes a connection on until it ends.
pub(super) async fn run(passed: ClientToPass, client: ClientEnd, timeouts: TunnelTimeouts, worker: Rc<Worker>) {
    let ClientToPass { stream, first, name, route } = passed;
    let activity = Activity::new(Instant::now(), false, worker.tally.clone());
    client.handle.open(&activity, &client.ledger);
    let _open = worker.tally.connection(ClientProtocol::Passthrough);
    let to = Arc::clone(route.target.address());
    let mut connection = PassedConnection::begin(client.address, name, to, &activity, worker.proxy().logs());
    if let Some(tcp) = stream.tcp() {
        upstream::set_tcp_keepalive(tcp);
    }
    if worker.limits.own.has(client.peer) {
        connection.fail("loop");
        warn(&route, "its target leads back to callgate", None);
        return refuse(stream, FatalAlert::InternalError).await;
    }
    let opened = open(&route, &stream, &client).await;
    let result = opened.as_ref().map_or_else(Error::connect_result, |_| ConnectResult::Ok);
    worker.tally.passthrough_connect(result);
    match opened {
        // A failure to set this up costs some delay, and shows again when bytes are copied.
        Ok(target) => {
            drop(stream.set_nodelay());
            // Before the client's first byte is sent, by which a listener would know that it is to pass it on.
            let _own = target.local_address().map(|address| worker.limits.own.add(address));
            connection.run(stream, first, target, timeouts, &client.ledger).await;
        }
        Err(error) => {
            connection.fail(reason(result));
            warn(&route, "its target cannot be reached", Some(&error));
            refuse(stream, FatalAlert::InternalError).await;
        }
    }
}

/// Warns that connections cannot be passed on, once a minute at most.
fn warn(route: &PassthroughRoute, why: &str, error: Option<&Error>) {
    if route.unreachable.is_due() {
        let error = error.map(|error| error as &dyn std::error::Error);
        tracing::warn!(to = %route.target.address(), why, error, "a connection cannot be passed on");
    }
}

/// Connects to the target, and tells it the client's address if it wants to know.
async fn open(route: &PassthroughRoute, stream: &ClientStream, client: &ClientEnd) -> Result<Upgraded, Error> {
    let header = route.config.proxy_protocol.map(|version| {
        let direct = || {
            let destination = stream.tcp()?.local_addr().ok()?;
            Some(AddressPair { source: client.peer, destination })
        };
        proxy_header::header(version, client.named.or_else(direct))
    });
    route.target.open(&header.unwrap_or_default(), Arc::clone(&client.ledger)).await
}

/// Returns why there is no connection to the target, in the words of the access log.
const fn reason(result: ConnectResult) -> &'static str {
    match result {
        ConnectResult::Timeout => "connect_timeout",
        ConnectResult::Full => "no_file_descriptor",
        ConnectResult::Failed | ConnectResult::Ok => "unreachable",
    }
}
