//! HTTP/2: an exchange whose client takes nothing of it is ended alone, and the others on the connection go on.
//! A tunnel runs beside the stream that it has become, and ends with it.
//!
//! Over both protocols the bytes of an answer are counted from where they are read to where they are written.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::budget::{CountedBytes, Flow, Ledger};
use crate::exchange;
use crate::lazy_timer::LazyTimer;
use crate::upstream;

/// Since when a stream waits for its client to take what is ready.
type Waiting = Rc<Cell<Option<Instant>>>;

/// Runs the streams of one connection on its own thread, each under the deadline of a client that takes nothing.
#[derive(Clone)]
pub(super) struct Streams {
    write_stall: Duration,
    /// What hyper runs next: it calls the service, and then hands over what came of the call.
    next: Rc<Cell<Next>>,
}

/// What hyper hands over next.
#[derive(Default)]
enum Next {
    #[default]
    Nothing,
    /// An exchange.
    Exchange(Waiting),
    /// What writes to a stream that becomes this tunnel.
    Tunnel(Pin<Box<dyn Future<Output = ()>>>),
}

impl Streams {
    pub(super) fn new(write_stall: Duration) -> Self {
        Self { write_stall, next: Rc::default() }
    }

    /// Begins a stream, and returns what its body will tell.
    pub(super) fn begin(&self) -> Pace {
        let waiting = Waiting::default();
        self.next.set(Next::Exchange(Rc::clone(&waiting)));
        Pace(waiting)
    }

    /// Lets the stream whose answer is made now, and which is a success, become a tunnel.
    pub(super) fn become_tunnel(&self, tunnel: impl Future<Output = ()> + 'static) {
        self.next.set(Next::Tunnel(Box::pin(tunnel)));
    }

    /// Runs an exchange. One that is dropped unfinished is reset.
    async fn exchange<F: Future>(self, stream: F, waiting: Waiting) {
        let mut stream = pin!(stream);
        let mut timer = LazyTimer::default();
        poll_fn(|cx| match (stream.as_mut().poll(cx), waiting.get()) {
            (Poll::Ready(_), _) => Poll::Ready(()),
            (Poll::Pending, Some(since)) => timer.poll(cx, since + self.write_stall),
            (Poll::Pending, None) => Poll::Pending,
        })
        .await;
        // A tunnel that was agreed, while the client reset its stream.
        self.next.take();
    }
}

/// Runs a tunnel with what writes to its stream. Unless the tunnel has said its end, that is dropped unfinished, and the
/// stream is reset: a connection that breaks is not one that ends (RFC 8441 §5).
async fn run_tunnel<F: Future>(writer: F, mut tunnel: Pin<Box<dyn Future<Output = ()>>>) {
    let mut writer = pin!(Some(writer));
    poll_fn(|cx| {
        if writer.as_mut().as_pin_mut().is_some_and(|writer| writer.poll(cx).is_ready()) {
            // Only then the tunnel learns of it.
            writer.set(None);
        }
        tunnel.as_mut().poll(cx)
    })
    .await;
}

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        match self.next.take() {
            Next::Nothing => tokio::task::spawn_local(self.clone().exchange(stream, Waiting::default())),
            Next::Exchange(waiting) => tokio::task::spawn_local(self.clone().exchange(stream, waiting)),
            Next::Tunnel(tunnel) => tokio::task::spawn_local(run_tunnel(stream, tunnel)),
        };
    }
}

/// One stream's side of the deadline.
#[derive(Debug)]
pub(super) struct Pace(Waiting);

impl Pace {
    pub(super) fn of(self, body: exchange::Body, ledger: &Arc<Ledger>) -> Paced {
        Paced { body, flow: Flow::new(ledger), frame: MAX_DATA, rest: Bytes::new(), waiting: Some(self.0) }
    }
}

/// A body that is read as fast as its client takes it. Over HTTP/2 it notes when it was asked for more: hyper asks only
/// once the client has room for what it has.
#[derive(Debug)]
pub(super) struct Paced {
    body: exchange::Body,
    flow: Arc<Flow>,
    /// The most data of a frame.
    frame: usize,
    /// What did not fit into the last frame.
    rest: Bytes,
    waiting: Option<Waiting>,
}

/// The most data in a frame of HTTP/2: with the frame's own nine bytes it fills one TLS record, instead of spilling into a
/// second.
const MAX_DATA: usize = (16 << 10) - 9;

impl Body for Paced {
    type Data = CountedBytes;
    type Error = upstream::BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<CountedBytes>, upstream::BodyError>>> {
        let this = self.get_mut();
        let polled = this.poll_data(cx);
        if let Some(waiting) = &this.waiting {
            let since = match &polled {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => Some(Instant::now()),
                // The piece before has yet to be written.
                Poll::Pending if this.flow.is_waited_for() => waiting.get(),
                Poll::Ready(_) | Poll::Pending => None,
            };
            waiting.set(since);
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

impl Paced {
    /// Begins an answer over HTTP/1. A connection has one at a time, so all of them are of one flow.
    pub(super) fn plain(body: exchange::Body, flow: &Arc<Flow>) -> Self {
        Self { body, flow: Arc::clone(flow), frame: usize::MAX, rest: Bytes::new(), waiting: None }
    }

    /// Takes as much of the body as goes into one frame, and as there is room for.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<CountedBytes>, upstream::BodyError>>> {
        // What is our own is small, and here already.
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
        let length = self.rest.len().min(self.frame).min(most);
        let data = self.rest.split_to(length);
        self.flow.set_waiting(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.flow.count(data)))))
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.flow.set_waiting(0);
    }
}
