//! Two connections joined after both left HTTP, byte for byte.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::io::UpstreamIo;
use super::permits::CountGuard;
use crate::budget::Ledger;
use crate::lazy_timer::LazyTimer;
use crate::observe::metrics::TunnelEnd;

/// The upstream's end of a tunnel, and what it said behind its 101.
#[derive(Debug)]
pub struct Upgraded {
    pub(super) wire: UpstreamIo,
    pub(super) early: Bytes,
    /// Where it is counted what waits.
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) _tenancy: Option<CountGuard>,
}

/// How many bytes a tunnel has carried so far: they are known also of one that is dropped.
#[derive(Debug, Default)]
pub struct TunnelBytes {
    up: Cell<u64>,
    down: Cell<u64>,
}

impl TunnelBytes {
    /// Returns how many bytes went from the client to the upstream.
    #[must_use]
    pub const fn up(&self) -> u64 {
        self.up.get()
    }

    /// Returns how many bytes went from the upstream to the client.
    #[must_use]
    pub const fn down(&self) -> u64 {
        self.down.get()
    }
}

/// How long a tunnel goes on by itself.
#[derive(Debug, Clone, Copy)]
pub struct TunnelTimeouts {
    /// The longest silence of both sides.
    pub idle: Duration,
    /// How long the client may take nothing of what is there for it.
    pub client_stall: Duration,
    /// The same of the upstream: over HTTP/2, what waits for it is in the way of the other streams.
    pub upstream_stall: Duration,
}

/// After how much silence the kernel asks the other side whether it still exists, and how long it waits to ask again.
/// A phone that left its network is noticed within minutes, and a NAT on the way forgets nobody who is still there.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));
/// How much is read at a time. Each direction keeps a buffer only while the other side does not take it all.
const CHUNK: usize = 16 << 10;

/// Lets the kernel watch over a connection that may be silent for long (RFC 9293 §3.8.4).
pub fn set_tcp_keepalive(stream: &TcpStream) {
    let (first, next) = KEEP_ALIVE;
    let asking = TcpKeepalive::new().with_time(first).with_interval(next);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&asking) {
        tracing::debug!(%error, "no keep-alive");
    }
}

/// Carries bytes both ways until both sides have ended, one fails, patience does, or it is cut.
///
/// An end of one direction is passed on, and the other direction goes on (half-close).
/// `early` is what the client sent behind its request. What is carried is counted in `carried`; returns why it ended.
pub async fn copy_bidirectional<S, C>(
    mut near: S,
    early: Bytes,
    far: Upgraded,
    patience: TunnelTimeouts,
    carried: &TunnelBytes,
    mut cut: Pin<&mut C>,
) -> TunnelEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Future<Output = ()>,
{
    let (mut wire, mut held) = (far.wire, BufferedBytes::new(far.ledger));
    if let Some(stream) = wire.tcp() {
        set_tcp_keepalive(stream);
    }
    let (mut up, mut down) = (Lane::new(early), Lane::new(far.early));
    let mut timer = LazyTimer::default();
    let mut quiet_since = Instant::now();
    poll_fn(|cx| {
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(TunnelEnd::Frozen);
        }
        let before = (up.carried, down.carried);
        let ended_up = up.poll(cx, &mut near, &mut wire);
        let ended_down = down.poll(cx, &mut wire, &mut near);
        carried.up.set(up.carried);
        carried.down.set(down.carried);
        match (ended_up, ended_down) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => {
                return Poll::Ready(TunnelEnd::Failed);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(TunnelEnd::Closed),
            _ => {}
        }
        held.count(up.waiting.len() + down.waiting.len());
        if before != (up.carried, down.carried) {
            quiet_since = Instant::now();
        }
        let idle = (quiet_since + patience.idle, TunnelEnd::Idle);
        let stalls = [
            down.stuck_since.map(|since| (since + patience.client_stall, TunnelEnd::Stalled)),
            up.stuck_since.map(|since| (since + patience.upstream_stall, TunnelEnd::Stalled)),
        ];
        let (due, late) =
            stalls.into_iter().flatten().fold(idle, |first, next| if next.0 < first.0 { next } else { first });
        timer.poll(cx, due).map(|()| late)
    })
    .await
}

/// What waits in both directions, counted until this is dropped.
struct BufferedBytes {
    ledger: Option<Arc<Ledger>>,
    bytes: usize,
}

impl BufferedBytes {
    const fn new(ledger: Option<Arc<Ledger>>) -> Self {
        Self { ledger, bytes: 0 }
    }

    fn count(&mut self, bytes: usize) {
        if let Some(ledger) = &self.ledger {
            self.bytes = ledger.replace(self.bytes, bytes);
        }
    }
}

impl Drop for BufferedBytes {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// One direction.
struct Lane {
    /// Read and not yet written.
    waiting: Bytes,
    carried: u64,
    state: LaneState,
    /// Since when the writer takes nothing of what is there for it.
    stuck_since: Option<Instant>,
}

#[derive(PartialEq, Eq)]
enum LaneState {
    Open,
    /// The reader has ended; what waits is written, then the writer is told.
    Ending,
    Ended,
}

impl Lane {
    const fn new(early: Bytes) -> Self {
        Self { waiting: early, carried: 0, state: LaneState::Open, stuck_since: None }
    }

    /// Carries what can be carried now, and notes whether it waits for the writer.
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

    /// `is_starved` is set when all that was read is written, and there is nothing more to read.
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
        let mut chunk = [MaybeUninit::uninit(); CHUNK];
        loop {
            ready!(self.poll_waiting(cx, to))?;
            match self.state {
                LaneState::Ended => return Poll::Ready(Ok(())),
                LaneState::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = LaneState::Ended;
                    return Poll::Ready(Ok(()));
                }
                LaneState::Open => {}
            }
            let mut buffer = ReadBuf::uninit(&mut chunk);
            let polled = Pin::new(&mut *from).poll_read(cx, &mut buffer);
            if polled.is_pending() {
                // Nothing more to add: what was written goes out now.
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                *is_starved = true;
                return Poll::Pending;
            }
            ready!(polled)?;
            if buffer.filled().is_empty() {
                self.state = LaneState::Ending;
            }
            self.pass(cx, to, buffer.filled())?;
        }
    }

    /// Writes as much as the other side takes, and keeps the rest.
    fn pass<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W, mut bytes: &[u8]) -> io::Result<()> {
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
