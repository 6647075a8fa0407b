//! A client's connection that hyper reads through a filter: the filter decides which bytes pass, and when.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_io::TrackedIo;
use crate::budget::Ledger;

/// Decides what hyper reads of a client's bytes.
pub(super) trait ReadFilter {
    /// Reads from the client, and leaves in `buf` the bytes that pass.
    fn poll_read(&mut self, io: &mut TrackedIo, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;

    /// Writes the bytes that go before hyper's next ones.
    fn poll_before_write(&mut self, _io: &mut TrackedIo, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Records whether bytes that hyper wrote may not be out.
    fn on_flush(&self, _is_busy: bool) {}
}

/// A client's connection, read through a filter.
#[derive(Debug)]
pub(super) struct FilteredIo<F> {
    pub(super) io: TrackedIo,
    pub(super) filter: F,
}

impl<F: ReadFilter + Unpin> FilteredIo<F> {
    /// Writes the bytes that go before hyper's next ones.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.filter.poll_before_write(&mut self.io, cx)
    }
}

impl<F: ReadFilter + Unpin> AsyncRead for FilteredIo<F> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.filter.poll_read(&mut this.io, cx, buf)
    }
}

impl<F: ReadFilter + Unpin> AsyncWrite for FilteredIo<F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_ready(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ready(cx))?;
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.filter.on_flush(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Bytes of a client that a filter holds back, counted in the ledger of the connection.
#[derive(Debug)]
pub(super) struct HeldBytes {
    pub(super) bytes: Vec<u8>,
    /// How many of them may pass.
    pub(super) passing: usize,
    /// How many bytes the ledger counts for them.
    counted: usize,
    ledger: Arc<Ledger>,
}

impl HeldBytes {
    pub(super) const fn new(ledger: Arc<Ledger>) -> Self {
        Self { bytes: Vec::new(), passing: 0, counted: 0, ledger }
    }

    /// Holds more bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.count();
    }

    /// Passes on as many bytes as may pass and fit.
    pub(super) fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.passing.min(buf.remaining());
        buf.put_slice(&self.bytes[..length]);
        self.bytes.drain(..length);
        self.passing -= length;
        if self.bytes.is_empty() {
            // An idle connection keeps no memory for this.
            self.bytes = Vec::new();
        }
        self.count();
    }

    fn count(&mut self) {
        self.counted = self.ledger.replace(self.counted, self.bytes.capacity());
    }
}
