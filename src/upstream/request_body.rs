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

/// What is sent behind the head.
#[derive(Debug, Default)]
pub enum RequestBody {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes of our own.
    Full(Option<Bytes>),
    /// The client's body, passed on frame by frame.
    Upload(Upload),
}

impl RequestBody {
    /// Passes on a client's body. `version` is that of its request, and `ledger` that of its connection.
    #[must_use]
    pub fn of(incoming: Incoming, version: Version, ledger: &Arc<Ledger>) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let progress = Rc::new(Progress {
            phase: Cell::new(Phase::Writing),
            since: Cell::new(Instant::now()),
            bytes: Cell::new(0),
        });
        let (incoming, lingers, flow) = (Some(incoming), version == Version::HTTP_2, Flow::new(ledger));
        Self::Upload(Upload { incoming, first: None, lingers, apart: None, progress, flow })
    }

    /// Waits a moment for a body of unknown length to begin: what ends without a byte has none, and needs no framing.
    pub async fn begin(&mut self) {
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

    /// Keeps these fields, in every spelling, out of its trailers.
    pub fn keep_apart(&mut self, fields: Rc<[HeaderName]>) {
        if let Self::Upload(upload) = self {
            upload.apart = Some(fields);
        }
    }

    /// Returns where the bytes of an upload are counted.
    #[must_use]
    pub fn meter(&self) -> Option<Meter> {
        self.progress().map(Meter)
    }

    /// Returns the shared view of how far an upload is.
    pub(super) fn progress(&self) -> Option<Rc<Progress>> {
        match self {
            Self::Upload(upload) => Some(Rc::clone(&upload.progress)),
            Self::Empty | Self::Full(_) => None,
        }
    }
}

/// Counts the bytes of an upload.
#[derive(Debug)]
pub struct Meter(Rc<Progress>);

impl Meter {
    /// Returns how many bytes have been passed on.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.get()
    }

    /// Tells whether all of it has been passed on.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.phase.get() == Phase::Done
    }
}

/// A client's body under way.
#[derive(Debug)]
pub struct Upload {
    /// It is here until the upload is dropped.
    incoming: Option<Incoming>,
    /// What came of it before its head was passed on.
    first: Option<Result<Frame<Bytes>, hyper::Error>>,
    /// What nobody has read of it is still to be taken.
    lingers: bool,
    /// Fields that only believed proxies may send, and nobody behind a head.
    apart: Option<Rc<[HeaderName]>>,
    progress: Rc<Progress>,
    flow: Arc<Flow>,
}

/// How far an upload is, as seen by the exchange that waits for the answer.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) phase: Cell<Phase>,
    /// Since when it is so.
    pub(super) since: Cell<Instant>,
    bytes: Cell<u64>,
}

/// For whom an upload waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// For the client's next bytes.
    Reading,
    /// For the upstream to take what is there.
    Writing,
    /// For nobody: all is sent.
    Done,
    /// For nobody: the client's body broke off.
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
        // What the upstream has yet to take is waited for as it is, and the client is not asked for more.
        ready!(self.flow.poll_room(cx));
        let mut polled = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(incoming).poll_frame(cx),
        };
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            // Some upstreams put trailers among the fields.
            let apart = self.apart.as_deref().unwrap_or_default();
            let is_apart = |name: &HeaderName| apart.iter().any(|apart| is_like(apart.as_str(), name.as_str()));
            hop::strip_trailers(trailers, |name| forwarded::is_identity(name) || is_apart(name));
        }
        self.progress.enter(match &polled {
            Poll::Pending => Phase::Reading,
            Poll::Ready(None) => Phase::Done,
            Poll::Ready(Some(Err(_))) => Phase::Failed,
            // Nothing comes behind trailers, and nobody asks.
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

    /// Returns how much the client may have sent that waits here, unseen, for the upstream to take what is before it.
    fn ahead(&self) -> usize {
        let Some(incoming) = self.incoming.as_ref().filter(|_| self.progress.phase.get() == Phase::Writing) else {
            return 0;
        };
        incoming.size_hint().upper().map_or(AHEAD, |left| left.min(AHEAD as u64) as usize)
    }
}

/// How long a request of HTTP/2 waits for its body to begin, or to end before it has begun.
const MOMENT: Duration = Duration::from_millis(100);
/// The most that one client sends ahead: what a stream of HTTP/2 may, more than what is read of one in HTTP/1.
const AHEAD: usize = 256 << 10;
/// How long the rest of a body is taken that was answered before its end.
const LINGER: Duration = Duration::from_secs(1);

impl Drop for Upload {
    /// Lets an HTTP/2 client send for a while what nobody reads. Otherwise its stream would be reset together with the
    /// answer, and though that takes nothing from the answer (RFC 9113 §8.1), some clients give up on the whole exchange.
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
