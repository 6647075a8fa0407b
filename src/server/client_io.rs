//! The client's side of a connection, with an eye on whether bytes move.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::budget::Ledger;
use crate::exchange::Activity;

/// The most bytes that TLS keeps of what the client does not take.
const MAX_ENCRYPTED: usize = 64 << 10;

/// A connection without its TLS. It writes a single buffer as such: a vectored write of one costs more.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Sends small writes at once.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
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
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A TLS connection that tells its activity of every byte that comes and of every write that waits.
#[derive(Debug)]
pub(super) struct Watched {
    tls: TlsStream<Stream>,
    activity: Rc<Activity>,
    ledger: Arc<Ledger>,
    /// What waits encrypted, at most.
    waiting: usize,
}

impl Watched {
    pub(super) const fn new(tls: TlsStream<Stream>, activity: Rc<Activity>, ledger: Arc<Ledger>) -> Self {
        Self { tls, activity, ledger, waiting: 0 }
    }

    /// Returns what is beneath TLS.
    pub(super) fn into_stream(mut self) -> Stream {
        self.waiting = self.ledger.replace(self.waiting, 0);
        self.tls.into_inner().0
    }

    /// Returns the TCP connection beneath, if it is one.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self.tls.get_ref().0 {
            Stream::Tcp(stream) => Some(stream),
            Stream::Unix(_) => None,
        }
    }

    fn note<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        self.activity.on_write(polled.is_pending());
        self.waiting = self.ledger.replace(self.waiting, if polled.is_pending() { MAX_ENCRYPTED } else { 0 });
        polled
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.tls).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.on_read();
        }
        match polled {
            // What frames a message tells whether it is whole: an end without TLS's farewell is an end.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tls).poll_write(cx, buf);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.tls).poll_flush(cx);
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.tls).poll_shutdown(cx);
        self.note(polled)
    }
}
