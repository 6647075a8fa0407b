//! The body of an answer, and the exchange it ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode, Version};
use http_body::{Frame, SizeHint};

use super::Exchange;
use crate::message::account_fields;
use crate::message::hop;
use crate::upstream::{BodyError, RequestBody, ResponseBody};

/// The body of an answer. When it is dropped, the exchange is over and logged.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    pub(super) exchange: Option<Exchange>,
}

#[derive(Debug)]
enum Kind {
    /// Bytes of our own, or none.
    Own(Option<Bytes>),
    /// An upstream's.
    Relay(ResponseBody),
    /// None, where a length is told all the same.
    Untold(u64),
}

impl Body {
    /// Makes a body of bytes of our own.
    #[must_use]
    pub fn own(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { kind: Kind::Own((!bytes.is_empty()).then_some(bytes)), exchange: None }
    }

    /// Passes an upstream's body on.
    #[must_use]
    pub const fn relay(relay: ResponseBody) -> Self {
        Self { kind: Kind::Relay(relay), exchange: None }
    }

    /// Tells whether it is an upstream's.
    #[must_use]
    pub const fn is_relayed(&self) -> bool {
        matches!(self.kind, Kind::Relay(_))
    }

    /// Lets at most so many bytes be read at once from now on.
    pub fn read_at_most(&self, bytes: usize) {
        if let Kind::Relay(relay) = &self.kind {
            relay.read_at_most(bytes);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.kind {
            Kind::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Relay(relay) => Pin::new(relay).poll_frame(cx).map_ok(clean),
            Kind::Untold(_) => Poll::Ready(None),
        };
        if let (Some(exchange), Poll::Ready(Some(frame))) = (&mut this.exchange, &polled) {
            exchange.note(frame);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_none(),
            Kind::Relay(relay) => relay.is_end_stream(),
            Kind::Untold(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Relay(relay) => relay.size_hint(),
            Kind::Untold(length) => SizeHint::with_exact(*length),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let complete = matches!(self.kind, Kind::Untold(_)) || http_body::Body::is_end_stream(self);
        if let Some(exchange) = &mut self.exchange {
            exchange.complete |= complete;
        }
    }
}

/// Takes the body from an answer of our own to `HEAD`, and leaves its length (RFC 9110 §9.3.2): HTTP/2 would send both.
pub fn silence(response: &mut Response<Body>) {
    if let Kind::Own(bytes) = &mut response.body_mut().kind
        && let Some(bytes) = bytes.take()
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
}

/// Lets a 304 tell the length of what has not changed (RFC 9110 §8.6). hyper writes a length in HTTP/1 only for a body
/// that has it, and asks for nothing of that where the status permits none.
pub fn keep_length(response: &mut Response<Body>) {
    if response.status() == StatusCode::NOT_MODIFIED
        && let Some(length) = response.headers().get(header::CONTENT_LENGTH)
        && let Some(length) = length.to_str().ok().and_then(|length| length.parse().ok())
    {
        response.body_mut().kind = Kind::Untold(length);
    }
}

/// Takes from trailers what is taken from heads.
fn clean(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        hop::strip_trailers(trailers, account_fields::is_account_field);
    }
    frame
}

/// Tells whether a connection of this version ends by a field, rather than by a frame.
pub const fn closes_by_field(version: Version) -> bool {
    matches!(version, Version::HTTP_10 | Version::HTTP_11)
}

/// Tells whether only its end will tell how long a body is.
pub fn has_unknown_length(body: &RequestBody) -> bool {
    !http_body::Body::is_end_stream(body) && http_body::Body::size_hint(body).exact().is_none()
}
