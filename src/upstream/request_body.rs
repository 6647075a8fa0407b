//! The body of a request on its way to an upstream.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::budget::{CountedBytes, Flow, Ledger};
use crate::message::forwarded;
use crate::message::hop;
use crate::model::field::is_like;

/// What follows the head of a request.
#[derive(Debug, Default)]
pub(crate) enum RequestBody {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes of callgate itself.
    Full(Option<Bytes>),
    /// The client's body, passed on frame by frame.
    Upload(Upload),
}

impl RequestBody {
    /// Makes the body of a request from a client's, of that HTTP version. `ledger` is that of the client's connection.
    #[must_use]
    pub(crate) fn of(incoming: Incoming, version: Version, ledger: &Arc<Ledger>) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let progress = Rc::new(Progress {
            phase: Cell::new(Phase::Writing),
            since: Cell::new(Instant::now()),
            bytes: Cell::new(0),
        });
        let (incoming, lingers, flow) = (Some(incoming), version == Version::HTTP_2, Flow::new(ledger));
        Self::Upload(Upload { incoming, first: None, lingers, forbidden_trailers: None, progress, flow })
    }

    /// Waits up to 100 ms for a body of unknown length to begin. If it ends without a byte, there is no body
    /// and no framing is needed.
    pub(crate) async fn begin(&mut self) {
        let Self::Upload(Upload { incoming: Some(incoming), first, .. }) = self else { return };
        let begun = async {
            loop {
                match incoming.frame().await {
                    Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                    other => return other,
                }
            }
        };
        match timeout(MOMENT, begun).await {
            Ok(None) => *self = Self::Empty,
            Ok(begun) => *first = begun,
            Err(_) => {}
        }
    }

    /// Keeps these fields, in every spelling, out of the trailers.
    pub(crate) fn forbid_trailers(&mut self, fields: Rc<[HeaderName]>) {
        if let Self::Upload(upload) = self {
            upload.forbidden_trailers = Some(fields);
        }
    }

    /// Returns the meter of an upload.
    #[must_use]
    pub(crate) fn meter(&self) -> Option<Meter> {
        self.progress().map(Meter)
    }

    /// Returns the shared progress of an upload.
    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        match self {
            Self::Upload(upload) => Some(Rc::clone(&upload.progress)),
            Self::Empty | Self::Full(_) => None,
        }
    }
}

/// Counts the bytes of an upload.
#[derive(Debug)]
pub(crate) struct Meter(Rc<Progress>);

impl Meter {
    /// Returns how many bytes have been passed on.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.get()
    }

    /// Tells whether the whole upload has been passed on.
    #[must_use]
    pub(crate) fn is_done(&self) -> bool {
        self.0.phase.get() == Phase::Done
    }
}

/// The body of a client's request, on its way to the upstream.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Present until the upload is dropped.
    incoming: Option<Incoming>,
    /// What arrived before the head was passed on.
    first: Option<Result<Frame<Bytes>, hyper::Error>>,
    /// Whether the rest of the body is read and discarded after the upload has been dropped.
    lingers: bool,
    /// Fields that only trusted proxies may send, and that nothing may send as trailers.
    forbidden_trailers: Option<Rc<[HeaderName]>>,
    progress: Rc<Progress>,
    flow: Arc<Flow>,
}

/// How far an upload is. The exchange that waits for the answer reads it.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) phase: Cell<Phase>,
    /// When the phase began.
    pub(super) since: Cell<Instant>,
    bytes: Cell<u64>,
}

/// What an upload waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client's next bytes.
    Reading,
    /// The upstream, which has yet to take the bytes that are here.
    Writing,
    /// Nothing: everything is sent.
    Done,
    /// Nothing: the client's body broke off.
    Failed,
}

impl Progress {
    fn enter(&self, phase: Phase) {
        if phase == Phase::Reading && self.phase.get() == Phase::Reading {
            return;
        }
        self.phase.set(phase);
        self.since.set(Instant::now());
    }
}

impl Body for RequestBody {
    type Data = CountedBytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<CountedBytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes.into())))),
            Self::Upload(upload) => upload.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Upload(upload) => upload.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upload(upload) => upload.size_hint(),
        }
    }
}

impl Upload {
    fn has_ended(&self) -> bool {
        self.first.is_none() && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.first, &self.incoming) {
            (None, Some(incoming)) => incoming.size_hint(),
            // Its length was not known before it began.
            (Some(_), _) | (None, None) => SizeHint::default(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<CountedBytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        // While the upstream has yet to take bytes, the client is not asked for more.
        ready!(self.flow.poll_room(cx));
        let mut polled = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(incoming).poll_frame(cx),
        };
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            // Some upstreams merge trailers into the fields of the head.
            let forbidden = self.forbidden_trailers.as_deref().unwrap_or_default();
            let is_forbidden = |name: &HeaderName| forbidden.iter().any(|field| is_like(field.as_str(), name.as_str()));
            hop::strip_trailers(trailers, |name| forwarded::is_identity(name) || is_forbidden(name));
        }
        self.progress.enter(match &polled {
            Poll::Pending => Phase::Reading,
            Poll::Ready(None) => Phase::Done,
            Poll::Ready(Some(Err(_))) => Phase::Failed,
            // Nothing follows trailers, and hyper does not poll again.
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() || self.has_ended() => Phase::Done,
            Poll::Ready(Some(Ok(_))) => Phase::Writing,
        });
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.progress.bytes.set(self.progress.bytes.get() + length as u64);
        }
        self.flow.set_ahead(self.ahead());
        polled.map_ok(|frame| frame.map_data(|bytes| self.flow.count(bytes)))
    }

    /// Returns how many bytes the client may have sent that hyper buffers until the upstream takes the bytes before
    /// them.
    fn ahead(&self) -> usize {
        let Some(incoming) = self.incoming.as_ref().filter(|_| self.progress.phase.get() == Phase::Writing) else {
            return 0;
        };
        incoming.size_hint().upper().map_or(AHEAD, |left| left.min(AHEAD as u64) as usize)
    }
}

/// How long an HTTP/2 request waits for its body to begin, or to end before it has begun.
const MOMENT: Duration = Duration::from_millis(100);
/// The most bytes that a client sends ahead: the window of an HTTP/2 stream, which is more than one read of HTTP/1.
const AHEAD: usize = 256 << 10;
/// How long the rest of a body is read after an early answer.
const LINGER: Duration = Duration::from_secs(1);

impl Drop for Upload {
    /// Reads and discards the rest of an HTTP/2 body for a while. Otherwise the stream would be reset together with the
    /// answer. That takes nothing from the answer (RFC 9113 §8.1), but some clients give up on the whole exchange.
    fn drop(&mut self) {
        let is_over = !self.lingers || self.has_ended() || self.progress.phase.get() == Phase::Failed;
        if let Some(rest) = self.incoming.take().filter(|_| !is_over) {
            tokio::task::spawn_local(timeout(LINGER, discard(rest)));
        }
    }
}

async fn discard(mut rest: Incoming) {
    while let Some(Ok(_)) = rest.frame().await {}
}
