//! The filter of HTTP/2: frames with fields pass whole, and only after [`Screen`] has checked them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::client_io::TrackedIo;
use super::filtered_io::{FilteredIo, HeldBytes, ReadFilter};
use crate::budget::Ledger;
use crate::message::screen::Screen;

/// Checks the frames of a client.
#[derive(Debug)]
pub(super) struct FrameFilter {
    screen: Screen,
    held: HeldBytes,
}

impl FilteredIo<FrameFilter> {
    /// Filters a connection over HTTP/2.
    pub(super) fn http2(io: TrackedIo, ledger: &Arc<Ledger>) -> Self {
        let held = HeldBytes::new(Arc::clone(ledger));
        Self { io, filter: FrameFilter { screen: Screen::default(), held } }
    }
}

impl FrameFilter {
    /// Checks the bytes that were just read into `buf`, behind the first `before`, and leaves there those that pass.
    fn check(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let fresh = &mut buf.filled_mut()[before..];
        if self.held.bytes.is_empty() {
            let passing = self.screen.scan(fresh);
            self.held.push(&fresh[passing..]);
            buf.set_filled(before + passing);
        } else {
            self.held.push(fresh);
            buf.set_filled(before);
            self.held.passing = self.screen.scan(&mut self.held.bytes);
        }
    }
}

impl ReadFilter for FrameFilter {
    fn poll_read(&mut self, io: &mut TrackedIo, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            if self.held.passing > 0 {
                self.held.pass(buf);
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut *io).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            self.check(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
