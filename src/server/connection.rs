//! One connection over TLS: handshake, exchanges, and perhaps a tunnel at the end.

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
use rustls::server::Acceptor as ClientHelloAcceptor;
use rustls::{HandshakeKind, ServerConnection};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::admission::{self, AdmissionPermit, AdmittedClient};
use super::client_io::{ClientStream, TrackedIo};
use super::deadlines::{ConnectionEnd, DeadlineDriver};
use super::filtered_io::FilteredIo;
use super::first_message::{self, FirstMessage};
use super::paced_body::PacedBody;
use super::passed_connection::{self, ClientEnd};
use super::registry::ConnectionHandle;
use super::resting_io::RestingIo;
use super::snapshot::Snapshot;
use super::stream_executor::StreamExecutor;
use super::worker::Worker;
use crate::budget::{Flow, Ledger};
use crate::exchange::{Activity, ClientConnection, SideChannel, TlsPeer, TlsSession, Tunnel};
use crate::message::forwarded_chain::ForwardedChain;
use crate::message::framing;
use crate::observe::metrics::{ClientProtocol, HandshakeResult, TlsVersion};
use crate::tls::server::{TlsPolicies, TlsPolicy};
use crate::upstream::{self, BoundConnections, TunnelTimeouts};

/// The most bytes of requests that hyper buffers (HTTP/1): more than a head may have.
const MAX_BUFFER: usize = 2 * framing::MAX_HEAD;
/// The most bytes of a request's fields (HTTP/2).
const MAX_HEADER_LIST: u32 = 16 << 10;
/// The most exchanges at once on one connection (HTTP/2).
const MAX_STREAMS: u32 = 100;
/// The most bytes that wait to be sent on one stream (HTTP/2).
const MAX_SEND_BUFFER: usize = 128 << 10;
/// The number of reset streams at which a connection counts as an attack and ends (HTTP/2).
const MAX_RESETS: usize = 128;

/// Serves a connection from accept to its last byte.
pub(super) async fn serve(mut stream: ClientStream, address: SocketAddr, _permit: AdmissionPermit, worker: Rc<Worker>) {
    let handle = worker.registry.add();
    let snapshot = worker.snapshot();
    let server = &snapshot.config.server;
    let timeouts = server.timeouts;
    let admitted = handle.until_evicted(admission::admit(&mut stream, address, server, &worker.limits)).await;
    let Some(AdmittedClient { address: client, permit, named }) = admitted.flatten() else { return };
    let (is_one_client, due) = (permit.is_some(), Instant::now() + timeouts.handshake);
    if !snapshot.passthrough.is_empty() {
        match meet(stream, due, &snapshot, &handle, &worker).await {
            FirstMessage::Served(replayed) => stream = replayed,
            FirstMessage::Refused => return,
            FirstMessage::Passed(passed) => {
                drop(snapshot);
                let ledger = worker.open_ledger(client, is_one_client);
                let end = ClientEnd { address: client, peer: address, named, ledger, handle };
                return Box::pin(passed_connection::run(passed, end, TunnelTimeouts::of(timeouts), worker)).await;
            }
        }
    }
    let Some((tls, policy)) = hand_shake(stream, client, due, &snapshot, &handle, &worker).await else { return };
    // A connection of days keeps no configuration of long ago.
    drop(snapshot);
    let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let _open = worker.tally.connection(if is_h2 { ClientProtocol::H2 } else { ClientProtocol::H1 });
    let ledger = worker.open_ledger(client, is_one_client);
    let activity = Activity::new(Instant::now(), is_h2, worker.tally.clone());
    let driver = DeadlineDriver::new(Rc::clone(&activity), Arc::clone(&ledger), timeouts, handle);
    let connection = Rc::new(ClientConnection {
        origin: Rc::new(ForwardedChain::direct(client)),
        tls: tls_session(tls.get_ref().1, client, policy),
        ledger: Arc::clone(&ledger),
        activity: Rc::clone(&activity),
        side_channel: SideChannel::default(),
        bound: BoundConnections::default(),
    });
    let io = TrackedIo::new(tls, activity, ledger);
    // Boxed, so that each takes only its own room.
    if is_h2 {
        Box::pin(serve_h2(io, connection, worker, driver)).await;
    } else if let Some(TunnelRun { future, handle: _handle }) = Box::pin(serve_h1(io, connection, worker, driver)).await
    {
        future.await;
    }
}

/// The run of the tunnel that a connection has become. It runs when HTTP is over, so that days of it keep nothing of HTTP.
struct TunnelRun {
    future: Pin<Box<dyn Future<Output = ()>>>,
    /// Dropped when the connection ends.
    handle: ConnectionHandle,
}

// === Before the handshake ===

/// Reads the first message of a connection within the deadline of the handshake, and counts it as a handshake if it fails.
async fn meet(
    stream: ClientStream,
    due: Instant,
    snapshot: &Snapshot,
    handle: &ConnectionHandle,
    worker: &Worker,
) -> FirstMessage {
    let within = Box::pin(timeout_at(due, first_message::read(stream, &snapshot.passthrough)));
    let failed = match handle.until_evicted(within).await {
        Some(Ok(Ok(first @ (FirstMessage::Served(_) | FirstMessage::Passed(_))))) => return first,
        Some(Ok(Ok(FirstMessage::Refused) | Err(_))) => HandshakeResult::Failed,
        Some(Err(_)) | None => HandshakeResult::Timeout,
    };
    worker.tally.handshake(failed, TlsVersion::None);
    FirstMessage::Refused
}

// === The handshake ===

/// Makes the handshake within its deadline, and counts how it ended. Returns `None` if it failed.
async fn hand_shake(
    stream: ClientStream,
    client: IpAddr,
    due: Instant,
    snapshot: &Snapshot,
    handle: &ConnectionHandle,
    worker: &Worker,
) -> Option<(Box<TlsStream<ClientStream>>, TlsPolicy)> {
    let handshake = async {
        stream.set_nodelay()?;
        accept_tls(stream, client, snapshot).await
    };
    // Boxed, like everything that an idle connection has no use for.
    let within = Box::pin(timeout_at(due, handshake));
    let failed = match handle.until_evicted(within).await {
        Some(Ok(Ok(None))) => {
            tracing::debug!(%client, "answered a challenge of an ACME server");
            worker.tally.handshake(HandshakeResult::Full, TlsVersion::None);
            return None;
        }
        Some(Ok(Ok(Some((tls, policy))))) => {
            worker.tally.handshake(handshake_kind(tls.get_ref().1), tls.get_ref().1.protocol_version().into());
            return Some((tls, policy));
        }
        Some(Ok(Err(error))) => {
            tracing::debug!(%client, %error, "no handshake");
            HandshakeResult::Failed
        }
        // Overdue, or evicted.
        Some(Err(_)) | None => {
            tracing::debug!(%client, "no handshake in time");
            HandshakeResult::Timeout
        }
    };
    worker.tally.handshake(failed, TlsVersion::None);
    None
}

/// Makes the handshake under the policy of the name that the client asks for; `None`: it was a challenge of an ACME server.
async fn accept_tls(
    stream: ClientStream,
    client: IpAddr,
    snapshot: &Snapshot,
) -> io::Result<Option<(Box<TlsStream<ClientStream>>, TlsPolicy)>> {
    let tls = &snapshot.tls;
    if let Some(policy) = tls.only() {
        return Ok(Some((Box::new(TlsAcceptor::from(policy.config()).accept(stream).await?), policy)));
    }
    let start = LazyConfigAcceptor::new(ClientHelloAcceptor::default(), stream).await?;
    if let Some(name) = TlsPolicies::checked_name(&start.client_hello()) {
        let own = tls.challenge(&name);
        let challenge = if own.is_some() { own } else { Box::pin(snapshot.member_handshake(client, &name)).await };
        if let Some(challenge) = challenge {
            start.into_stream(challenge).await?.shutdown().await?;
            return Ok(None);
        }
    }
    if let Some(name) = start.client_hello().server_name().and_then(|name| tls.wanted(name)) {
        // The outcome shows in whether there is a certificate below.
        Box::pin(snapshot.obtain_certificate(&name)).await;
    }
    match tls.policy(start.client_hello().server_name()) {
        Some(policy) => Ok(Some((Box::new(start.into_stream(policy.config()).await?), policy))),
        None => Err(refuse_name(start.io).await),
    }
}

/// Tells a client that there is no certificate for the name that it asks for.
async fn refuse_name(mut stream: ClientStream) -> io::Error {
    let told = async {
        stream.write_all(&UNRECOGNIZED_NAME).await?;
        stream.shutdown().await
    };
    told.await.err().unwrap_or_else(|| io::Error::other("there is no certificate for this name now"))
}

/// A fatal alert `unrecognized_name` (RFC 6066 §3), in a record of its own.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

fn handshake_kind(tls: &ServerConnection) -> HandshakeResult {
    match tls.handshake_kind() {
        Some(HandshakeKind::Resumed) => HandshakeResult::Resumed,
        _ => HandshakeResult::Full,
    }
}

/// Returns what a handshake agreed on.
fn tls_session(tls: &ServerConnection, address: IpAddr, policy: TlsPolicy) -> TlsSession {
    let certificate = tls.peer_certificates().and_then(<[_]>::first).map(|one| one.clone().into_owned());
    let peer = Rc::new(TlsPeer { address, certificate, client_ca: policy.client_ca() });
    TlsSession { peer, version: tls.protocol_version().into(), policy, server_name: tls.server_name().map(Box::from) }
}

// === HTTP/1 ===

async fn serve_h1(
    io: TrackedIo,
    connection: Rc<ClientConnection>,
    worker: Rc<Worker>,
    mut driver: DeadlineDriver,
) -> Option<TunnelRun> {
    // The first request has the deadline of a head, not that of an idle connection.
    connection.activity.on_read();
    let mut io = FilteredIo::http1(io, Rc::clone(&connection));
    let mut service = {
        let (worker, connection, flow) = (Rc::clone(&worker), Rc::clone(&connection), Flow::new(&connection.ledger));
        service_fn(move |request| {
            let (proxy, connection, flow) = (worker.proxy(), Rc::clone(&connection), Arc::clone(&flow));
            let violation = connection.side_channel.violation.get();
            Box::pin(async move {
                let response = match violation {
                    None => proxy.handle(request, &connection).await,
                    Some(violation) => proxy.refuse(&request, violation, &connection),
                };
                Ok::<_, Infallible>(response.map(|body| PacedBody::http1(body, &flow)))
            })
        })
    };
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_BUFFER).max_headers(framing::MAX_FIELDS);
    let (end, io, unparsed) = loop {
        let mut http = Box::new(builder.serve_connection(TokioIo::new(io), service));
        let end = driver.drive(Pin::new(&mut *http)).await;
        let parts = http.into_parts();
        io = parts.io.into_inner();
        if end != ConnectionEnd::Rest {
            break (end, io, parts.read_buf);
        }
        if !io.is_between_requests(&parts.read_buf) {
            break (ConnectionEnd::Closed, io, parts.read_buf);
        }
        drop(parts.read_buf);
        let mut resting = RestingIo::new(io);
        let end = driver.drive(Pin::new(&mut resting)).await;
        connection.activity.end_rest(Instant::now());
        match resting.wake().filter(|_| end == ConnectionEnd::Closed) {
            Some(woken) => (io, service) = (woken, parts.service),
            None => return None,
        }
    };
    if end == ConnectionEnd::Overtime {
        return None;
    }
    if let Some(tunnel) = connection.side_channel.tunnel.take() {
        let (io, early) = io.into_parts(unparsed);
        if let Some(stream) = io.tcp() {
            upstream::set_tcp_keepalive(stream);
        }
        let timeouts = TunnelTimeouts::of_websocket(driver.timeouts);
        let future = Box::pin(tunnel.run(io, early, timeouts, Arc::clone(&connection.ledger)));
        return Some(TunnelRun { future, handle: driver.into_handle() });
    }
    if end == ConnectionEnd::Closed {
        Box::pin(io.linger(&unparsed)).await;
    }
    None
}

// === HTTP/2 ===

async fn serve_h2(io: TrackedIo, connection: Rc<ClientConnection>, worker: Rc<Worker>, mut driver: DeadlineDriver) {
    if let Some(stream) = io.tcp() {
        // A stream may become a tunnel, and then the socket is out of reach inside hyper.
        upstream::set_tcp_keepalive(stream);
    }
    let io = TokioIo::new(FilteredIo::http2(io, &connection.ledger));
    let executor = StreamExecutor::new(driver.timeouts.write_stall, Rc::clone(&worker.registry));
    let service = {
        let (executor, timeouts) = (executor.clone(), TunnelTimeouts::of_websocket(driver.timeouts));
        service_fn(move |mut request| {
            let (proxy, connection, executor) = (worker.proxy(), Rc::clone(&connection), executor.clone());
            let clock = executor.begin();
            let upgrade = (*request.method() == Method::CONNECT).then(|| hyper::upgrade::on(&mut request));
            // Boxed, because hyper moves it into a task of its own.
            Box::pin(async move {
                let response = proxy.handle(request, &connection).await;
                if let Some(upgrade) = upgrade
                    && let Some(tunnel) = connection.side_channel.tunnel.take()
                {
                    executor.become_tunnel(run_tunnel(upgrade, tunnel, timeouts, Arc::clone(&connection.ledger)));
                }
                Ok::<_, Infallible>(response.map(|body| PacedBody::http2(body, &connection.ledger, clock)))
            })
        })
    };
    let http = http2::Builder::new(executor.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .enable_connect_protocol()
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .serve_connection(io, service);
    let mut http = pin!(http);
    while driver.drive(http.as_mut()).await == ConnectionEnd::Overtime {
        executor.end_exchanges().await;
    }
}

/// Runs the tunnel that a stream becomes, once its answer is out.
async fn run_tunnel(stream: OnUpgrade, tunnel: Tunnel, timeouts: TunnelTimeouts, ledger: Arc<Ledger>) {
    let Ok(stream) = stream.await else { return };
    tunnel.run(TokioIo::new(stream), Bytes::new(), timeouts, ledger).await;
}
