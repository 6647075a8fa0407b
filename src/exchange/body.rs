//! The body of an answer, which holds its exchange until the last byte is out.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};

use super::Exchange;
use crate::message::account_fields::is_account_field;
use crate::message::hop;
use crate::upstream::{BodyError, ResponseBody};

/// The body of an answer. When it is dropped, so is its exchange.
#[derive(Debug)]
pub(crate) struct Body {
    content: BodyContent,
    exchange: Option<Exchange>,
}

#[derive(Debug)]
enum BodyContent {
    /// Bytes that callgate made; `None` once they are sent, or without any.
    Own(Option<Bytes>),
    /// The body of an upstream's answer.
    Relayed(ResponseBody),
    /// No bytes, although `Content-Length` gives this length.
    LengthOnly(u64),
}

impl Body {
    /// Makes a body of bytes of callgate's own.
    #[must_use]
    pub(crate) fn own(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { content: BodyContent::Own((!bytes.is_empty()).then_some(bytes)), exchange: None }
    }

    /// Passes the body of an upstream's answer on.
    #[must_use]
    pub(crate) const fn relay(relay: ResponseBody) -> Self {
        Self { content: BodyContent::Relayed(relay), exchange: None }
    }

    /// Returns whether it is the body of an upstream's answer.
    #[must_use]
    pub(crate) const fn is_relayed(&self) -> bool {
        matches!(self.content, BodyContent::Relayed(_))
    }

    /// Bounds each read of an upstream's body from now on, in bytes.
    pub(crate) fn limit_read(&mut self, bytes: usize) {
        if let BodyContent::Relayed(relay) = &mut self.content {
            relay.set_read_limit(bytes);
        }
    }

    /// Holds an exchange until the body is dropped.
    pub(super) fn hold(&mut self, exchange: Exchange) {
        self.exchange = Some(exchange);
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.content {
            BodyContent::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodyContent::Relayed(relay) => Pin::new(relay).poll_frame(cx).map_ok(strip_trailers),
            BodyContent::LengthOnly(_) => Poll::Ready(None),
        };
        if let (Some(exchange), Poll::Ready(Some(frame))) = (&mut this.exchange, &polled) {
            exchange.record_frame(frame);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            BodyContent::Own(bytes) => bytes.is_none(),
            BodyContent::Relayed(relay) => relay.is_end_stream(),
            BodyContent::LengthOnly(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            BodyContent::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            BodyContent::Relayed(relay) => relay.size_hint(),
            BodyContent::LengthOnly(length) => SizeHint::with_exact(*length),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let is_complete = matches!(self.content, BodyContent::LengthOnly(_)) || http_body::Body::is_end_stream(self);
        if let Some(exchange) = &mut self.exchange {
            exchange.answer.is_complete |= is_complete;
        }
    }
}

/// Takes the bytes from an answer of callgate's own to `HEAD`, and leaves their length (RFC 9110 §9.3.2): HTTP/2 would send
/// both.
pub(super) fn remove_own(response: &mut Response<Body>) {
    if let BodyContent::Own(bytes) = &mut response.body_mut().content
        && let Some(bytes) = bytes.take()
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
}

/// Keeps the length that a 304 gives for content that has not changed (RFC 9110 §8.6). In HTTP/1 hyper writes a length only
/// for a body that has it, and reads no byte of the body where the status permits none.
pub(super) fn keep_length(response: &mut Response<Body>) {
    if response.status() == StatusCode::NOT_MODIFIED
        && let Some(length) = response.headers().get(header::CONTENT_LENGTH)
        && let Some(length) = length.to_str().ok().and_then(|length| length.parse().ok())
    {
        response.body_mut().content = BodyContent::LengthOnly(length);
    }
}

/// Takes from trailers the fields that are taken from heads, too.
fn strip_trailers(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        hop::strip_trailers(trailers, is_account_field);
    }
    frame
}
