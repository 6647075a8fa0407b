//! A client's connection, as the server and the proxy both know it.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Activity, Exchange, Interims, TunnelGuard};
use crate::budget::Ledger;
use crate::message::forwarded_chain::ForwardedChain;
use crate::message::guard::Violation;
use crate::observe::metrics::{TlsVersion, TunnelEnd};
use crate::tls::server::{ClientCa, TlsPolicy};
use crate::upstream::{self, BoundConnections, TunnelTimeouts, Upgraded};

/// One connection of a client, after its handshake.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    /// The client that requests come from, unless the peer is a trusted proxy and names another one.
    pub origin: Rc<ForwardedChain>,
    /// The facts of its TLS handshake.
    pub tls: TlsSession,
    /// The bytes that its buffers hold.
    pub ledger: Arc<Ledger>,
    /// Its current activity, which its deadlines follow from.
    pub activity: Rc<Activity>,
    /// Messages between the server and the proxy, past hyper.
    pub side_channel: SideChannel,
    /// The upstream connections that serve this one alone.
    pub bound: BoundConnections,
}

/// The TLS facts of a connection.
#[derive(Debug)]
pub(crate) struct TlsSession {
    /// The other end, as auth methods see it.
    pub peer: Rc<TlsPeer>,
    /// The version that the handshake agreed on.
    pub version: TlsVersion,
    /// The policy that the handshake went through.
    pub policy: TlsPolicy,
    /// The host that the client named (SNI).
    pub server_name: Option<Box<str>>,
}

/// The other end of a connection, as auth methods see it.
#[derive(Debug)]
pub(crate) struct TlsPeer {
    /// Its address; an IPv4 address is never written as IPv6.
    pub address: IpAddr,
    /// The client certificate, if the handshake asked for one and verified it.
    pub certificate: Option<CertificateDer<'static>>,
    /// The signers of client certificates that the handshake accepts, if it asks for one.
    pub client_ca: Option<ClientCa>,
}

/// Messages between the server and the proxy, past hyper.
#[derive(Debug, Default)]
pub(crate) struct SideChannel {
    /// The violation in the next bytes of the client. Set before hyper reads them.
    pub violation: Cell<Option<Violation>>,
    /// Interim answers to be written before the answer.
    pub interims: Interims,
    /// The tunnel that this connection, or a stream of it, becomes once the answer that agrees to it is out. Over HTTP/2
    /// it is taken as soon as that answer is made: another stream may put its own here.
    pub tunnel: RefCell<Option<Tunnel>>,
}

/// A tunnel that is agreed and does not run yet.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// The upstream's end.
    pub upgraded: Upgraded,
    /// The exchange that lasts as long as the tunnel.
    pub exchange: Exchange,
    /// Ends the tunnel when it must not go on.
    pub guard: TunnelGuard,
}

impl Tunnel {
    /// Joins the client's end with the upstream's until the tunnel ends, and records how. `early` is what the client sent
    /// behind its request; `ledger` counts the memory of the client's connection.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice, for as long as the tunnel runs")]
    pub(crate) fn run<S>(
        mut self,
        client: S,
        early: Bytes,
        timeouts: TunnelTimeouts,
        ledger: Arc<Ledger>,
    ) -> impl Future<Output = ()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        async move {
            let cut = pin!(self.guard.until_cut());
            let carried = self.exchange.tunnel_bytes();
            // Pinned, because each future that this one passes through would keep room for it.
            let joined = pin!(upstream::copy_bidirectional(client, early, self.upgraded, timeouts, &carried, cut));
            let end = ledger.unless_shed(joined).await.unwrap_or(TunnelEnd::Stalled);
            self.exchange.set_tunnel_end(end);
        }
    }
}
