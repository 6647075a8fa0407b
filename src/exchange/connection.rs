//! What a connection and its exchanges know of each other.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::{Exchange, Interims, Vitals};
use crate::budget::Ledger;
use crate::freeze::Leash;
use crate::message::forwarded_chain::ForwardedChain;
use crate::message::guard::Violation;
use crate::tls::server::{ClientCa, TlsPolicy};
use crate::upstream::{BoundConnections, Upgraded};

/// The client's end of one connection.
#[derive(Debug)]
pub struct Peer {
    /// Who requests are from, unless the peer is a proxy that is believed.
    pub origin: Rc<ForwardedChain>,
    /// What auth methods may know of it.
    pub end: Rc<FarEnd>,
    /// What its handshake asked of the client.
    pub policy: TlsPolicy,
    /// The name that its handshake asked for.
    pub name: Option<Box<str>>,
    /// What waits in its buffers.
    pub ledger: Arc<Ledger>,
    /// How the connection is doing.
    pub vitals: Rc<Vitals>,
    /// Why what the client says next is no request. It is set before that takes its turn.
    pub refused: Cell<Option<Violation>>,
    /// What its client is told before it is answered.
    pub interims: Interims,
    /// The connections to upstreams that serve this one alone.
    pub bound: BoundConnections,
    /// The other end of a tunnel that this connection, or a stream of it, becomes once the answer that agrees is out.
    /// Over HTTP/2 it is taken as soon as that answer is made: another stream may put its own here.
    pub tunnel: RefCell<Option<Tunnel>>,
}

/// The other end of a connection, as auth methods see it.
#[derive(Debug)]
pub struct FarEnd {
    /// Its address, IPv4 in its own form.
    pub address: IpAddr,
    /// The certificate that it showed, if its handshake asked for one and verified it.
    pub certificate: Option<CertificateDer<'static>>,
    /// Who signs the certificates that its handshake asked for, if it did.
    pub client_ca: Option<ClientCa>,
}

/// A tunnel that is agreed and not yet dug.
#[derive(Debug)]
pub struct Tunnel {
    /// The upstream's end.
    pub upgraded: Upgraded,
    /// Counts as an exchange in flight, and is logged at its end.
    pub exchange: Exchange,
    /// What ends it before its time.
    pub leash: Leash,
}
