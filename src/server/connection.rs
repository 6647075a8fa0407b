//! One connection: handshake, exchanges, and perhaps a tunnel at the end.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use rustls::{HandshakeKind, ServerConnection};
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::admission::{Place, Visit};
use super::client_io::{Stream, Watched};
use super::deadlines::{Ended, Watch};
use super::guarded::Guarded;
use super::paced_body::{Paced, Streams};
use super::proxy_protocol;
use super::screened::Screened;
use super::worker::Worker;
use crate::budget::{Flow, Ledger};
use crate::config::{ServerConfig, ServerTimeouts};
use crate::exchange::{Activity, ClientConnection, SideChannel, TlsPeer, TlsSession, Tunnel};
use crate::limit::client_key;
use crate::message::forwarded_chain::ForwardedChain;
use crate::message::framing;
use crate::observe::metrics::{ClientProtocol, HandshakeResult, TlsVersion};
use crate::tls::server::{TlsPolicies, TlsPolicy};
use crate::upstream::{self, BoundConnections, TunnelTimeouts};

/// The most bytes that are buffered of requests (HTTP/1): more than a head may have.
const MAX_BUFFER: usize = 2 * framing::MAX_HEAD;
/// The most bytes of a request's fields (HTTP/2).
const MAX_HEADER_LIST: u32 = 16 << 10;
/// The most exchanges at once on one connection (HTTP/2).
const MAX_STREAMS: u32 = 100;
/// The most bytes waiting to be sent on one stream (HTTP/2).
const MAX_SEND_BUFFER: usize = 128 << 10;
/// How many streams that the client reset are remembered, before the connection counts as an attack (HTTP/2).
const MAX_RESETS: usize = 128;

/// Serves a connection from accept to its last byte.
pub(super) async fn serve(mut stream: Stream, address: SocketAddr, _place: Place, worker: Rc<Worker>) {
    let guest = worker.registry.enter();
    let live = worker.snapshot();
    let timeouts = live.config.server.timeouts;
    let admitted = guest.until_evicted(admit(&mut stream, address, &worker)).await;
    let Some((client, visit)) = admitted.flatten() else { return };
    let handshake = async {
        stream.set_nodelay()?;
        shake_hands(stream, &live.tls).await
    };
    // Boxed, as is all that a resting connection has no use for.
    let agreed = guest.until_evicted(Box::pin(timeout(timeouts.handshake, handshake))).await;
    let (tls, policy) = match agreed {
        Some(Ok(Ok(agreed))) => agreed,
        Some(Ok(Err(error))) => {
            worker.tally.handshake(HandshakeResult::Failed, TlsVersion::None);
            return tracing::debug!(%client, %error, "no handshake");
        }
        // Late, or in the way of another.
        Some(Err(_)) | None => {
            worker.tally.handshake(HandshakeResult::Timeout, TlsVersion::None);
            return tracing::debug!(%client, "no handshake in time");
        }
    };
    // A connection of days keeps no configuration of long ago.
    drop(live);
    worker.tally.handshake(handshake_kind(tls.get_ref().1), tls.get_ref().1.protocol_version().into());
    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let _open = worker.tally.connection(if h2 { ClientProtocol::H2 } else { ClientProtocol::H1 });
    let name = tls.get_ref().1.server_name().map(Box::from);
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|one| one.clone().into_owned());
    let ledger = open_ledger(&worker, client, visit.is_some());
    let activity = Activity::new(Instant::now(), h2, worker.tally.clone());
    let io = Watched::new(tls, Rc::clone(&activity), Arc::clone(&ledger));
    let watch = Watch::new(Rc::clone(&activity), Arc::clone(&ledger), timeouts, guest);
    let peer = Rc::new(TlsPeer { address: client, certificate, client_ca: policy.client_ca() });
    let peer = Rc::new(ClientConnection {
        origin: Rc::new(ForwardedChain::direct(client)),
        tls: TlsSession { peer, policy, server_name: name },
        ledger,
        activity,
        side_channel: SideChannel::default(),
        bound: BoundConnections::default(),
    });
    if h2 {
        serve_h2(io, peer, worker, watch).await;
    } else {
        serve_h1(io, peer, worker, watch).await;
    }
}

/// Begins to count what waits in a connection's buffers. Those of a known proxy are for many: no client's share bounds them.
fn open_ledger(worker: &Worker, client: IpAddr, is_counted: bool) -> Arc<Ledger> {
    let budget = worker.budget.process();
    worker.budget.open(is_counted.then(|| budget.client(client_key(client))))
}

fn handshake_kind(tls: &ServerConnection) -> HandshakeResult {
    match tls.handshake_kind() {
        Some(HandshakeKind::Resumed) => HandshakeResult::Resumed,
        _ => HandshakeResult::Full,
    }
}

/// Makes the TLS handshake, under the policy of the name that the client asks for.
async fn shake_hands(stream: Stream, tls: &Arc<TlsPolicies>) -> io::Result<(TlsStream<Stream>, TlsPolicy)> {
    if let Some(policy) = tls.only() {
        return Ok((TlsAcceptor::from(policy.config()).accept(stream).await?, policy));
    }
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let policy = tls.policy(start.client_hello().server_name());
    Ok((start.into_stream(policy.config()).await?, policy))
}

/// Finds out who is at the other end, and counts it, unless it has too many connections already. Known proxies and
/// balancers are not counted: they come for many.
pub(super) async fn admit(
    stream: &mut Stream,
    address: SocketAddr,
    worker: &Worker,
) -> Option<(IpAddr, Option<Visit>)> {
    let live = worker.snapshot();
    let server = &live.config.server;
    let client = client(stream, address, server).await?;
    if server.believes(client) || server.expects_proxy_header(client) {
        return Some((client, None));
    }
    let visit = worker.crowd.admit(client, server.max_connections_per_client);
    if visit.is_none() {
        tracing::debug!(%client, "as many connections as one client may have");
    }
    visit.map(|visit| (client, Some(visit)))
}

/// Returns the socket's peer, or whom a balancer's PROXY header names.
async fn client(stream: &mut Stream, address: SocketAddr, server: &ServerConfig) -> Option<IpAddr> {
    let peer = address.ip().to_canonical();
    if !server.expects_proxy_header(peer) {
        return Some(peer);
    }
    match Box::pin(proxy_protocol::read(stream)).await {
        Ok(client) => Some(client.map_or(peer, |client| client.to_canonical())),
        Err(error) => {
            tracing::debug!(%peer, %error, "no PROXY header");
            None
        }
    }
}

async fn serve_h1(io: Watched, peer: Rc<ClientConnection>, worker: Rc<Worker>, mut watch: Watch) {
    // Until its first request a client is given the time for a head, not that for a rest.
    peer.activity.on_read();
    let io = TokioIo::new(Guarded::new(io, Rc::clone(&peer)));
    let service = {
        let (worker, peer, flow) = (Rc::clone(&worker), Rc::clone(&peer), Flow::new(&peer.ledger));
        service_fn(move |request| {
            let (proxy, peer, flow) = (worker.proxy(), Rc::clone(&peer), Arc::clone(&flow));
            let violation = peer.side_channel.violation.get();
            Box::pin(async move {
                let response = match violation {
                    None => proxy.handle(request, &peer).await,
                    Some(violation) => proxy.refuse(&request, violation, &peer),
                };
                Ok::<_, Infallible>(response.map(|body| Paced::plain(body, &flow)))
            })
        })
    };
    let mut connection =
        http1::Builder::new().max_buf_size(MAX_BUFFER).max_headers(framing::MAX_FIELDS).serve_connection(io, service);
    let ended = watch.drive(Pin::new(&mut connection)).await;
    let parts = connection.into_parts();
    let io = parts.io.into_inner();
    if let Some(tunnel) = peer.side_channel.tunnel.take() {
        let (io, early) = io.into_parts(parts.read_buf);
        if let Some(stream) = io.tcp() {
            upstream::set_tcp_keepalive(stream);
        }
        Box::pin(tunnel.run(io, early, patience(watch.timeouts), &peer.ledger)).await;
    } else if ended == Ended::Itself {
        Box::pin(io.linger(&parts.read_buf)).await;
    }
}

async fn serve_h2(io: Watched, peer: Rc<ClientConnection>, worker: Rc<Worker>, mut watch: Watch) {
    if let Some(stream) = io.tcp() {
        // A stream of it may become a tunnel, and by then it is hyper's.
        upstream::set_tcp_keepalive(stream);
    }
    let (streams, ledger) = (Streams::new(watch.timeouts.write_stall), Arc::clone(&peer.ledger));
    let service = {
        let (streams, patience) = (streams.clone(), patience(watch.timeouts));
        service_fn(move |mut request| {
            let (proxy, peer, streams, pace) = (worker.proxy(), Rc::clone(&peer), streams.clone(), streams.begin());
            let upgrade = (*request.method() == Method::CONNECT).then(|| hyper::upgrade::on(&mut request));
            // Boxed, because HTTP/2 moves it into a task of its own.
            Box::pin(async move {
                let response = proxy.handle(request, &peer).await;
                if let Some(upgrade) = upgrade
                    && let Some(tunnel) = peer.side_channel.tunnel.take()
                {
                    streams.become_tunnel(run_tunnel(upgrade, tunnel, patience, Arc::clone(&peer.ledger)));
                }
                Ok::<_, Infallible>(response.map(|body| pace.of(body, &peer.ledger)))
            })
        })
    };
    let connection = http2::Builder::new(streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .enable_connect_protocol()
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .serve_connection(TokioIo::new(Screened::new(io, &ledger)), service);
    watch.drive(pin!(connection)).await;
}

/// Runs the tunnel that a stream of HTTP/2 becomes, once its answer is out.
async fn run_tunnel(stream: OnUpgrade, tunnel: Tunnel, patience: TunnelTimeouts, ledger: Arc<Ledger>) {
    let Ok(stream) = stream.await else { return };
    tunnel.run(TokioIo::new(stream), Bytes::new(), patience, &ledger).await;
}

const fn patience(timeouts: ServerTimeouts) -> TunnelTimeouts {
    TunnelTimeouts {
        idle: timeouts.tunnel_idle,
        client_stall: timeouts.write_stall,
        upstream_stall: timeouts.body_idle,
    }
}
