//! Tunnels: bytes copied both ways between two connections that left HTTP.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::choice::ExchangeCounts;
use super::io::UpstreamIo;
use crate::budget::{Ledger, TURN, end_turn};
use crate::config::ServerTimeouts;
use crate::lazy_timer::LazyTimer;
use crate::observe::metrics::TunnelEnd;

/// A connection to an upstream that left HTTP.
#[derive(Debug)]
pub(crate) struct Upgraded {
    pub(super) io: UpstreamIo,
    /// The bytes that followed the 101.
    pub(super) early: Bytes,
    /// Counts the bytes that wait for either side.
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) counts: ExchangeCounts,
}

impl Upgraded {
    /// Returns the own address of the connection; `None` for a unix socket.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.io.tcp()?.local_addr().ok()
    }
}

/// The bytes that a tunnel has carried so far. They remain known when the tunnel is dropped.
#[derive(Debug, Default)]
pub(crate) struct TunnelBytes {
    up: Cell<u64>,
    down: Cell<u64>,
}

impl TunnelBytes {
    /// Returns how many bytes went from the client to the upstream.
    #[must_use]
    pub(crate) const fn up(&self) -> u64 {
        self.up.get()
    }

    /// Returns how many bytes went from the upstream to the client.
    #[must_use]
    pub(crate) const fn down(&self) -> u64 {
        self.down.get()
    }
}

/// The deadlines of a tunnel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TunnelTimeouts {
    /// The longest time without a byte either way.
    pub idle: Duration,
    /// The longest time in which the client takes none of the bytes that wait for it.
    pub client_stall: Duration,
    /// The same for the upstream. Over HTTP/2, bytes that wait for it use up the window of the other streams.
    pub upstream_stall: Duration,
    /// The longest time without a byte after the upstream has ended its direction.
    pub half_closed: Duration,
}

impl TunnelTimeouts {
    /// Returns those of a configuration.
    #[must_use]
    pub(crate) const fn of(timeouts: ServerTimeouts) -> Self {
        Self {
            idle: timeouts.tunnel_idle,
            client_stall: timeouts.write_stall,
            upstream_stall: timeouts.body_idle,
            half_closed: timeouts.tunnel_idle,
        }
    }

    /// Returns those of a WebSocket. The end of its server is the end of both directions (RFC 6455 §7.1.1), and over HTTP/2
    /// some browsers leave their own end out.
    #[must_use]
    pub(crate) fn of_websocket(timeouts: ServerTimeouts) -> Self {
        Self { half_closed: HALF_CLOSED.min(timeouts.tunnel_idle), ..Self::of(timeouts) }
    }
}

/// The silence after which the kernel sends a keep-alive probe, and the interval between further probes.
/// So the loss of a phone that left its network is noticed within minutes, and a NAT on the way keeps its entry.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));
/// How long a client of a WebSocket may take to end its direction after the server has.
const HALF_CLOSED: Duration = Duration::from_secs(5);
/// The most bytes that one read takes. A direction keeps a buffer only while the other side does not take everything.
const CHUNK: usize = 16 << 10;

/// Turns on TCP keep-alive for a connection that may be silent for long (RFC 9293 §3.8.4).
pub(crate) fn set_tcp_keepalive(stream: &TcpStream) {
    let (first, next) = KEEP_ALIVE;
    let asking = TcpKeepalive::new().with_time(first).with_interval(next);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&asking) {
        tracing::debug!(%error, "cannot turn on TCP keep-alive");
    }
}

/// Copies bytes both ways until both sides have ended, one fails, a deadline passes, or `cut` completes with a reason. Returns why.
///
/// The end of one direction is passed on, and the other direction goes on (half-close) until it is silent for too long.
/// `early` holds the bytes that followed the client's request. The bytes are counted in `carried`.
pub(crate) fn copy_bidirectional<S, C>(
    mut client: S,
    early: Bytes,
    upgraded: Upgraded,
    timeouts: TunnelTimeouts,
    carried: &TunnelBytes,
    mut cut: Pin<&mut C>,
) -> impl Future<Output = TunnelEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Future<Output = TunnelEnd>,
{
    let (mut upstream, mut buffered) = (upgraded.io, BufferedBytes::new(upgraded.ledger));
    // Held until the tunnel ends.
    let counts = upgraded.counts;
    if let Some(stream) = upstream.tcp() {
        set_tcp_keepalive(stream);
    }
    let (mut up, mut down) = (Transfer::new(early), Transfer::new(upgraded.early));
    let mut timer = LazyTimer::default();
    let mut quiet_since = Instant::now();
    poll_fn(move |cx| {
        let _ = &counts;
        if let Poll::Ready(end) = cut.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        let before = (up.carried, down.carried, down.has_ended());
        let ended_up = up.poll(cx, &mut client, &mut upstream);
        let ended_down = down.poll(cx, &mut upstream, &mut client);
        carried.up.set(up.carried);
        carried.down.set(down.carried);
        if let Some(end) = end_of(ended_up, ended_down) {
            return Poll::Ready(end);
        }
        buffered.set(up.waiting.len() + down.waiting.len());
        if before != (up.carried, down.carried, down.has_ended()) {
            quiet_since = Instant::now();
        }
        let (due, late) = next_deadline(quiet_since, &up, &down, timeouts);
        timer.poll(cx, due).map(|()| late)
    })
}

/// Returns why the tunnel ends, if both directions have ended or one has failed.
fn end_of(up: Poll<io::Result<()>>, down: Poll<io::Result<()>>) -> Option<TunnelEnd> {
    match (up, down) {
        (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Some(TunnelEnd::Failed),
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Some(TunnelEnd::Closed),
        (Poll::Ready(Ok(())) | Poll::Pending, Poll::Ready(Ok(())) | Poll::Pending) => None,
    }
}

/// Returns when the tunnel ends if nothing moves, and why it ends then.
fn next_deadline(
    quiet_since: Instant,
    up: &Transfer,
    down: &Transfer,
    timeouts: TunnelTimeouts,
) -> (Instant, TunnelEnd) {
    let idle = match down.has_ended() {
        true => (quiet_since + timeouts.half_closed, TunnelEnd::Closed),
        false => (quiet_since + timeouts.idle, TunnelEnd::Idle),
    };
    let stalls = [
        down.stuck_since.map(|since| (since + timeouts.client_stall, TunnelEnd::Stalled)),
        up.stuck_since.map(|since| (since + timeouts.upstream_stall, TunnelEnd::Stalled)),
    ];
    stalls.into_iter().flatten().fold(idle, |first, next| if next.0 < first.0 { next } else { first })
}

/// The bytes that wait in both directions, counted in the ledger until this is dropped.
struct BufferedBytes {
    ledger: Option<Arc<Ledger>>,
    bytes: usize,
}

impl BufferedBytes {
    const fn new(ledger: Option<Arc<Ledger>>) -> Self {
        Self { ledger, bytes: 0 }
    }

    fn set(&mut self, bytes: usize) {
        if let Some(ledger) = &self.ledger {
            self.bytes = ledger.replace(self.bytes, bytes);
        }
    }
}

impl Drop for BufferedBytes {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// One direction of a tunnel.
struct Transfer {
    /// Bytes that are read and not yet written.
    waiting: Bytes,
    carried: u64,
    state: TransferState,
    /// When the writer last took bytes, if bytes wait for it.
    stuck_since: Option<Instant>,
}

#[derive(PartialEq, Eq)]
enum TransferState {
    Open,
    /// The reader has ended. The waiting bytes are written, then the writer is shut down.
    Ending,
    Ended,
}

impl Transfer {
    const fn new(early: Bytes) -> Self {
        Self { waiting: early, carried: 0, state: TransferState::Open, stuck_since: None }
    }

    fn has_ended(&self) -> bool {
        self.state == TransferState::Ended
    }

    /// Copies what can be copied now, and notes whether it waits for the writer.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (before, mut is_starved) = (self.carried, false);
        let polled = self.carry(cx, from, to, &mut is_starved);
        if polled.is_ready() || is_starved {
            self.stuck_since = None;
        } else if self.stuck_since.is_none() || self.carried > before {
            self.stuck_since = Some(Instant::now());
        }
        polled
    }

    /// Sets `is_starved` when all bytes that were read are written, and there are no more to read.
    fn carry<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        is_starved: &mut bool,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (mut chunk, begun) = ([MaybeUninit::uninit(); CHUNK], self.carried);
        loop {
            ready!(self.poll_waiting(cx, to))?;
            if self.carried - begun >= TURN as u64 {
                end_turn(cx);
                return Poll::Pending;
            }
            match self.state {
                TransferState::Ended => return Poll::Ready(Ok(())),
                TransferState::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = TransferState::Ended;
                    return Poll::Ready(Ok(()));
                }
                TransferState::Open => {}
            }
            let mut buffer = ReadBuf::uninit(&mut chunk);
            let polled = Pin::new(&mut *from).poll_read(cx, &mut buffer);
            if polled.is_pending() {
                // Nothing more can be read, so the written bytes are sent now.
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                *is_starved = true;
                return Poll::Pending;
            }
            ready!(polled)?;
            if buffer.filled().is_empty() {
                self.state = TransferState::Ending;
            }
            self.write(cx, to, buffer.filled())?;
        }
    }

    /// Writes as many bytes as the writer takes, and keeps the rest.
    fn write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.carried += written as u64;
                    bytes = &bytes[written..];
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.waiting = Bytes::copy_from_slice(bytes);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Writes the bytes that wait.
    fn poll_waiting<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.carried += written as u64;
            self.waiting = self.waiting.slice(written..);
        }
        self.waiting = Bytes::new();
        Poll::Ready(Ok(()))
    }
}
