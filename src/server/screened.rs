//! A client's connection in HTTP/2, read through the screen: frames of fields go on whole, and not before they have been
//! looked at.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_io::Watched;
use crate::budget::Ledger;
use crate::message::screen::Screen;

/// A connection behind the screen.
#[derive(Debug)]
pub(super) struct Screened {
    io: Watched,
    screen: Screen,
    /// What came and has not gone on.
    held: Vec<u8>,
    /// How much of that may go on.
    ready: usize,
    /// As how many bytes what is held is counted.
    counted: usize,
    ledger: Arc<Ledger>,
}

impl Screened {
    pub(super) fn new(io: Watched, ledger: &Arc<Ledger>) -> Self {
        let ledger = Arc::clone(ledger);
        Self { io, screen: Screen::default(), held: Vec::new(), ready: 0, counted: 0, ledger }
    }

    fn count(&mut self) {
        self.counted = self.ledger.replace(self.counted, self.held.capacity());
    }

    /// Hands on what may go on.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let here = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..here]);
        self.held.drain(..here);
        self.ready -= here;
        if self.held.is_empty() {
            // A connection at rest keeps no memory for this.
            self.held = Vec::new();
        }
        self.count();
    }

    /// Looks at what has just been read into `buf`, behind what was there `before`, and leaves there what goes on.
    fn look(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let fresh = &mut buf.filled_mut()[before..];
        if self.held.is_empty() {
            let gone = self.screen.look(fresh);
            self.held.extend_from_slice(&fresh[gone..]);
            buf.set_filled(before + gone);
        } else {
            self.held.extend_from_slice(fresh);
            buf.set_filled(before);
            self.ready = self.screen.look(&mut self.held);
        }
        self.count();
    }
}

impl AsyncRead for Screened {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            if this.ready > 0 {
                this.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            this.look(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Screened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
