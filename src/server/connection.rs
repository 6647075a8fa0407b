//! One connection: handshake, exchanges, and perhaps a tunnel at the end.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::crowd::{Place, Visit};
use super::io::{Socket, Watched};
use super::pace::Streams;
use super::registry::Guest;
use super::worker::Worker;
use super::{FAREWELL, proxy_protocol};
use crate::alarm::Alarm;
use crate::config::{Server, ServerTimeouts};
use crate::message::framing;
use crate::message::origin::Origin;
use crate::proxy::{Peer, Vitals};
use crate::tls::server::{Doors, Policy};
use crate::upstream;

/// The most bytes that are buffered of a request (HTTP/1): more than a head may have, so that we are the ones who say why it is refused.
const MAX_BUFFER: usize = 2 * framing::MAX_HEAD;
/// The most fields of a request.
const MAX_FIELDS: usize = 100;
/// The most bytes of a request's fields (HTTP/2).
const MAX_HEADER_LIST: u32 = 16 << 10;
/// The most exchanges at once on one connection (HTTP/2).
const MAX_STREAMS: u32 = 100;
/// The most bytes waiting to be sent on one stream (HTTP/2).
const MAX_SEND_BUFFER: usize = 128 << 10;
/// How many streams that the client reset are remembered, before the connection counts as an attack (HTTP/2).
const MAX_RESETS: usize = 128;

/// Serves a connection from accept to its last byte.
pub(super) async fn serve(mut stream: TcpStream, address: SocketAddr, _place: Place, worker: Rc<Worker>) {
    let guest = worker.registry.enter();
    let timeouts = worker.timeouts();
    let Some((client, _visit)) = admit(&mut stream, address, &worker).await else { return };
    let handshake = async {
        stream.set_nodelay(true)?;
        shake_hands(Socket(stream), &worker.doors).await
    };
    // Boxed, as is all that a resting connection has no use for.
    let (tls, policy) = match Box::pin(timeout(timeouts.handshake, handshake)).await {
        Ok(Ok(agreed)) => agreed,
        Ok(Err(error)) => return tracing::debug!(%client, %error, "no handshake"),
        Err(_) => return tracing::debug!(%client, "no handshake in time"),
    };
    let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let vitals = Vitals::new(Instant::now(), h2);
    let io = TokioIo::new(Watched::new(tls, Rc::clone(&vitals)));
    guest.sit(&vitals);
    let watch = Watch { vitals: Rc::clone(&vitals), timeouts, guest, alarm: Alarm::default(), told: None };
    let peer = Rc::new(Peer { origin: Rc::new(Origin::direct(client)), policy, vitals, tunnel: RefCell::default() });
    if h2 {
        serve_h2(io, peer, worker, watch).await;
    } else {
        serve_h1(io, peer, worker, watch).await;
    }
}

/// Makes the TLS handshake, under the policy of the name that the client asks for.
async fn shake_hands(stream: Socket, doors: &Arc<Doors>) -> io::Result<(TlsStream<Socket>, Policy)> {
    if let Some(policy) = doors.only() {
        return Ok((TlsAcceptor::from(policy.config()).accept(stream).await?, policy));
    }
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let policy = doors.policy(start.client_hello().server_name());
    Ok((start.into_stream(policy.config()).await?, policy))
}

/// Finds out who is at the other end, and counts it, unless it has too many connections already. Known proxies and
/// balancers are not counted: they come for many.
pub(super) async fn admit(
    stream: &mut TcpStream,
    address: SocketAddr,
    worker: &Worker,
) -> Option<(IpAddr, Option<Visit>)> {
    let server = worker.settings();
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
async fn client(stream: &mut TcpStream, address: SocketAddr, server: &Server) -> Option<IpAddr> {
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

async fn serve_h1(io: TokioIo<Watched>, peer: Rc<Peer>, worker: Rc<Worker>, mut watch: Watch) {
    // Until its first request a client is given the time for a head, not that for a rest.
    peer.vitals.received(0);
    let service = {
        let (worker, peer) = (Rc::clone(&worker), Rc::clone(&peer));
        service_fn(move |request| {
            let (proxy, peer) = (worker.proxy(), Rc::clone(&peer));
            Box::pin(async move { Ok::<_, Infallible>(proxy.handle(request, &peer).await) })
        })
    };
    let mut connection =
        http1::Builder::new().max_buf_size(MAX_BUFFER).max_headers(MAX_FIELDS).serve_connection(io, service);
    watch.drive(Pin::new(&mut connection)).await;
    let Some(mut tunnel) = peer.tunnel.take() else { return };
    let parts = connection.into_parts();
    let end =
        Box::pin(upstream::join(parts.io.into_inner(), parts.read_buf, tunnel.far, watch.timeouts.tunnel_idle)).await;
    tunnel.exchange.carried(end.up, end.down);
}

async fn serve_h2(io: TokioIo<Watched>, peer: Rc<Peer>, worker: Rc<Worker>, mut watch: Watch) {
    let streams = Streams::new(watch.timeouts.write_stall);
    let service = {
        let streams = streams.clone();
        service_fn(move |request| {
            let (proxy, peer, pace) = (worker.proxy(), Rc::clone(&peer), streams.begin());
            // Boxed, because HTTP/2 moves it into a task of its own.
            Box::pin(async move { Ok::<_, Infallible>(proxy.handle(request, &peer).await.map(|body| pace.of(body))) })
        })
    };
    let connection = http2::Builder::new(streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .serve_connection(io, service);
    watch.drive(pin!(connection)).await;
}

/// A connection that can be asked to end when its exchanges have.
trait Closing: Future<Output = hyper::Result<()>> {
    fn close(self: Pin<&mut Self>);
}

impl<S, B> Closing for http1::Connection<TokioIo<Watched>, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn close(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, B> Closing for http2::Connection<TokioIo<Watched>, S, Streams>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Future: 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Streams: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn close(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Keeps a connection to its deadlines.
struct Watch {
    vitals: Rc<Vitals>,
    timeouts: ServerTimeouts,
    guest: Guest,
    alarm: Alarm,
    /// When the connection was told to end.
    told: Option<Instant>,
}

impl Watch {
    /// Polls a connection until it ends, or is late.
    async fn drive<C: Closing>(&mut self, mut connection: Pin<&mut C>) {
        poll_fn(|cx| {
            if self.told.is_none() && (self.guest.shall_end(cx) || self.vitals.shall_leave()) {
                self.tell(connection.as_mut());
            }
            loop {
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection broke");
                    }
                    return Poll::Ready(());
                }
                match self.poll_late(cx) {
                    Poll::Pending => return Poll::Pending,
                    // Nothing was under way: it may say goodbye.
                    Poll::Ready(Late::Idle) => self.tell(connection.as_mut()),
                    Poll::Ready(Late::Stuck) => return Poll::Ready(()),
                }
            }
        })
        .await;
    }

    fn tell<C: Closing>(&mut self, connection: Pin<&mut C>) {
        self.told = Some(Instant::now());
        connection.close();
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let Some((due, late)) = self.due() else { return Poll::Pending };
        self.alarm.poll(cx, due).map(|()| late)
    }

    /// When the connection is late, and for what.
    fn due(&self) -> Option<(Instant, Late)> {
        let stalled = self.vitals.blocked_since().map(|since| (since + self.timeouts.write_stall, Late::Stuck));
        let waiting = match (self.vitals.quiet_since(), self.told, self.vitals.head_since()) {
            (None, _, _) => None,
            (Some(_), Some(told), _) => Some((told + FAREWELL, Late::Stuck)),
            (Some(_), None, Some(since)) => Some((since + self.timeouts.header, Late::Stuck)),
            (Some(since), None, None) => Some((since + self.timeouts.idle, Late::Idle)),
        };
        match (stalled, waiting) {
            (Some(stalled), Some(waiting)) => Some(if stalled.0 <= waiting.0 { stalled } else { waiting }),
            (one, other) => one.or(other),
        }
    }
}

/// How a connection is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    /// It has rested for too long.
    Idle,
    /// It does not go on where it should.
    Stuck,
}
