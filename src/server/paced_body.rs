//! The body of an answer on its way to the client. Its bytes are counted from where they are read to where they are written.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::stream_executor::StallClock;
use crate::budget::{CountedBytes, Flow, Ledger};
use crate::exchange;
use crate::upstream;

/// The body of an answer, read as fast as the client takes it. Over HTTP/2 it records when hyper asked for more: hyper asks
/// only once the client has room for the bytes before.
#[derive(Debug)]
pub(super) struct PacedBody {
    body: exchange::Body,
    flow: Arc<Flow>,
    /// The most bytes of a frame.
    max_frame: usize,
    /// The bytes that did not fit into the last frame.
    rest: Bytes,
    clock: Option<StallClock>,
}

/// The most bytes of a DATA frame of HTTP/2: with the nine bytes of its head it fills one TLS record, and does not spill into
/// a second.
const MAX_DATA: usize = (16 << 10) - 9;

impl Body for PacedBody {
    type Data = CountedBytes;
    type Error = upstream::BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<CountedBytes>, upstream::BodyError>>> {
        let this = self.get_mut();
        let polled = this.poll_data(cx);
        if let Some(clock) = &this.clock {
            match &polled {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => clock.start(),
                // The frame before has yet to be written: the clock runs on.
                Poll::Pending if this.flow.is_waited_for() => {}
                Poll::Ready(_) | Poll::Pending => clock.stop(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(exact) = hint.exact() {
            return SizeHint::with_exact(exact + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

impl PacedBody {
    /// Makes the body of an answer over HTTP/1. A connection has one at a time, so its answers share one flow.
    pub(super) fn http1(body: exchange::Body, flow: &Arc<Flow>) -> Self {
        Self { body, flow: Arc::clone(flow), max_frame: usize::MAX, rest: Bytes::new(), clock: None }
    }

    /// Makes the body of an answer over HTTP/2. `clock` records how long the client takes none of it.
    pub(super) fn http2(body: exchange::Body, ledger: &Arc<Ledger>, clock: StallClock) -> Self {
        Self { body, flow: Flow::new(ledger), max_frame: MAX_DATA, rest: Bytes::new(), clock: Some(clock) }
    }

    /// Reads as much of the body as fits into one frame and into the budget.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<CountedBytes>, upstream::BodyError>>> {
        // A body of callgate's own is small, and in memory already.
        let most = if self.body.is_relayed() { ready!(self.flow.poll_room(cx)) } else { usize::MAX };
        if self.rest.is_empty() {
            self.body.limit_read(most);
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(frame))) => return Poll::Ready(Some(Ok(frame.map_data(CountedBytes::from)))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(self.max_frame).min(most);
        let data = self.rest.split_to(length);
        self.flow.set_waiting(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.flow.count(data)))))
    }
}

impl Drop for PacedBody {
    fn drop(&mut self) {
        self.flow.set_waiting(0);
    }
}
