//! HTTP/2: an exchange whose client takes nothing of it is ended alone, and the others on the connection go on.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::alarm::Alarm;

/// Since when a stream waits for its client to take what is ready.
type Waiting = Rc<Cell<Option<Instant>>>;

/// Runs the streams of one connection on its own thread, each under the deadline of a client that takes nothing.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    write_stall: Duration,
    /// The stream that hyper runs next: it calls the service, and then hands over what came of the call.
    next: Rc<RefCell<Waiting>>,
}

impl Streams {
    pub(super) fn new(write_stall: Duration) -> Self {
        Self { write_stall, next: Rc::default() }
    }

    /// Begins a stream, and returns what its body will tell.
    pub(super) fn begin(&self) -> Pace {
        let waiting = Waiting::default();
        self.next.replace(Rc::clone(&waiting));
        Pace(waiting)
    }
}

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (waiting, write_stall) = (self.next.take(), self.write_stall);
        tokio::task::spawn_local(async move {
            let mut stream = pin!(stream);
            let mut alarm = Alarm::default();
            // A stream that is dropped unfinished is reset.
            poll_fn(|cx| match (stream.as_mut().poll(cx), waiting.get()) {
                (Poll::Ready(_), _) => Poll::Ready(()),
                (Poll::Pending, Some(since)) => alarm.poll(cx, since + write_stall),
                (Poll::Pending, None) => Poll::Pending,
            })
            .await;
        });
    }
}

/// One stream's side of the deadline.
#[derive(Debug)]
pub(super) struct Pace(Waiting);

impl Pace {
    pub(super) fn of<B>(self, body: B) -> Paced<B> {
        Paced { body, waiting: self.0 }
    }
}

/// A body that notes when it was asked for more: hyper asks only once the client has room for what it has.
#[derive(Debug)]
pub(super) struct Paced<B> {
    body: B,
    waiting: Waiting,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let handed = matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_data());
        this.waiting.set(handed.then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
