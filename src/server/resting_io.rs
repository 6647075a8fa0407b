//! An HTTP/1 connection at rest: it waits for the client's next byte without hyper and its buffers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::deadlines::GracefulShutdown;
use super::filtered_io::FilteredIo;
use super::head_filter::HeadFilter;

/// A connection that completes when the client has sent something, or when it has been shut down.
pub(super) struct RestingIo {
    io: FilteredIo<HeadFilter>,
    is_shut_down: bool,
}

impl RestingIo {
    /// Lays a connection to rest. Every byte that was written is out.
    pub(super) const fn new(io: FilteredIo<HeadFilter>) -> Self {
        Self { io, is_shut_down: false }
    }

    /// Returns the connection; nothing if it was shut down.
    pub(super) fn wake(self) -> Option<FilteredIo<HeadFilter>> {
        (!self.is_shut_down).then_some(self.io)
    }
}

impl Future for RestingIo {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        // A connection that is broken is read like any other, and hyper finds the error.
        let _ = match self.is_shut_down {
            true => ready!(Pin::new(&mut self.io).poll_shutdown(cx)),
            false => ready!(self.io.io.poll_readable(cx)),
        };
        Poll::Ready(Ok(()))
    }
}

impl GracefulShutdown for RestingIo {
    const NAMES_LAST_REQUEST: bool = false;
    const CAN_REST: bool = false;

    fn shut_down(mut self: Pin<&mut Self>) {
        self.is_shut_down = true;
    }
}
