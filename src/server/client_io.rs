//! The I/O of a client's connection, which records whether bytes move.

use std::io::{self, IoSlice, Write};
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::budget::Ledger;
use crate::exchange::Activity;

/// The most bytes that TLS keeps, encrypted, for a client that does not take them.
const MAX_ENCRYPTED: usize = 64 << 10;
/// The most bytes that gather before they are sent: three frames of 16 KiB, which fit into what TLS keeps.
const MAX_CORKED: usize = 50 << 10;
/// How many bytes a write has at least whose flush may wait for the next write.
const LARGE: usize = 8 << 10;

/// A connection below TLS. A vectored write of one buffer is made a plain one, which costs less.
#[derive(Debug)]
pub(super) enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// One of these whose first bytes were read before.
    Replayed(Box<ReplayedStream>),
}

/// A connection that begins with bytes that were read before.
#[derive(Debug)]
pub(super) struct ReplayedStream {
    first: Bytes,
    stream: ClientStream,
}

impl ClientStream {
    /// Returns the stream as it was before its first bytes were read.
    pub(super) fn replay(self, first: Bytes) -> Self {
        Self::Replayed(Box::new(ReplayedStream { first, stream: self }))
    }

    /// Returns the TCP connection, unless it is a unix socket.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) => None,
            Self::Replayed(replayed) => replayed.stream.tcp(),
        }
    }

    /// Returns the unix socket, unless it is a TCP connection.
    pub(super) fn unix(&self) -> Option<&UnixStream> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => Some(stream),
            Self::Replayed(replayed) => replayed.stream.unix(),
        }
    }

    /// Sends small writes at once (`TCP_NODELAY`).
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |stream| stream.set_nodelay(true))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Replayed(replayed) => replayed.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Replayed(replayed) => Pin::new(&mut replayed.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match (&mut *self, bufs) {
            (_, [buf]) => self.poll_write(cx, buf),
            (Self::Tcp(stream), bufs) => Pin::new(stream).poll_write_vectored(cx, bufs),
            (Self::Unix(stream), bufs) => Pin::new(stream).poll_write_vectored(cx, bufs),
            (Self::Replayed(replayed), bufs) => Pin::new(&mut replayed.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Replayed(replayed) => Pin::new(&mut replayed.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Replayed(replayed) => Pin::new(&mut replayed.stream).poll_shutdown(cx),
        }
    }
}

impl ClientStream {
    /// Waits until there is something to read: bytes, the end, or an error.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Replayed(replayed) if replayed.first.is_empty() => replayed.stream.poll_readable(cx),
            Self::Replayed(_) => Poll::Ready(Ok(())),
        }
    }
}

impl ReplayedStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..length]);
        self.first.advance(length);
        if self.first.is_empty() {
            // A connection of days keeps no memory for this.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// A TLS connection that records each read, and each write that waits for the client.
#[derive(Debug)]
pub(super) struct TrackedIo {
    /// Boxed, because each `async fn` that the connection passes through keeps room for it.
    tls: Box<TlsStream<ClientStream>>,
    activity: Rc<Activity>,
    ledger: Arc<Ledger>,
    /// How many encrypted bytes the ledger counts: an upper bound.
    counted: usize,
    cork: Cork,
}

/// What h2 has written, TLS has encrypted, and no system call has sent yet.
///
/// h2 flushes after each DATA frame, and once more after the last. The flush right after a large write is left out, so that several
/// frames share a system call. What then waits is sent in the connection's next turn, which begins at once.
#[derive(Debug, Default)]
struct Cork {
    bytes: usize,
    /// Whether the next flush is left out.
    skips: bool,
}

impl TrackedIo {
    pub(super) fn new(tls: Box<TlsStream<ClientStream>>, activity: Rc<Activity>, ledger: Arc<Ledger>) -> Self {
        Self { tls, activity, ledger, counted: 0, cork: Cork::default() }
    }

    /// Takes the stream out of TLS without a close_notify.
    pub(super) fn into_stream(mut self) -> ClientStream {
        self.counted = self.ledger.replace(self.counted, 0);
        (*self.tls).into_inner().0
    }

    /// Returns the TCP connection, unless it is a unix socket.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        self.tls.get_ref().0.tcp()
    }

    /// Waits until there is something to read. Everything before was read.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.get_ref().0.poll_readable(cx)
    }

    /// Writes to TLS alone, unless too many bytes would gather.
    fn poll_write_corked(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let size = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if self.cork.bytes > 0 && self.cork.bytes + size > MAX_CORKED {
            ready!(self.poll_send(cx))?;
        }
        let mut written = self.tls.get_mut().1.writer().write_vectored(bufs)?;
        if written == 0 && size > 0 {
            // TLS is full: it counts the header of each record, and small frames have many.
            ready!(self.poll_send(cx))?;
            written = self.tls.get_mut().1.writer().write_vectored(bufs)?;
        }
        self.cork.bytes += written;
        self.cork.skips = size >= LARGE;
        Poll::Ready(Ok(written))
    }

    /// Sends everything that was written.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.tls).poll_flush(cx);
        if polled.is_ready() {
            self.cork.bytes = 0;
        }
        self.activity.set_corked(false);
        self.record_write(polled)
    }

    fn record_write<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        self.activity.on_write(polled.is_pending());
        self.counted = self.ledger.replace(self.counted, if polled.is_pending() { MAX_ENCRYPTED } else { 0 });
        polled
    }
}

impl AsyncRead for TrackedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.tls).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.on_read();
        }
        match polled {
            // HTTP's own framing tells whether a message is whole, so an end without TLS's `close_notify` is an end.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl AsyncWrite for TrackedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.activity.is_multiplexed() {
            return self.poll_write_corked(cx, &[IoSlice::new(buf)]);
        }
        let polled = Pin::new(&mut self.tls).poll_write(cx, buf);
        self.record_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.activity.is_multiplexed() {
            return self.poll_write_corked(cx, bufs);
        }
        let polled = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        self.record_write(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if mem::take(&mut self.cork.skips) {
            self.activity.set_corked(true);
            return Poll::Ready(Ok(()));
        }
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It sends everything that waits.
        self.cork = Cork::default();
        self.activity.set_corked(false);
        let polled = Pin::new(&mut self.tls).poll_shutdown(cx);
        self.record_write(polled)
    }
}

#[cfg(test)]
mod tests;
