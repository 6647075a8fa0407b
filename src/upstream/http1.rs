//! HTTP/1.1 on a connection to an upstream: writes one request at a time, and reads its answer.
//!
//! Nothing is read ahead and nothing is handed from task to task: the exchange polls the connection, and each poll
//! writes what is left of the request and reads what the exchange asks for.

mod answer_body;
mod answer_head;
mod error;
mod interim;
mod lines;
mod sending;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, response};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::task::unconstrained;

use self::answer_body::AnswerBody;
use self::answer_head::{AnswerHeads, Head};
pub(crate) use self::error::Http1Error;
pub(crate) use self::interim::{Interim, OnInterim};
use self::sending::Sending;
use super::io::UpstreamIo;
use super::request_body::RequestBody;

/// The bytes of the first read, and of reads while little arrives.
const SHORT_READ: usize = 8 << 10;
/// The most bytes that one read takes.
const LONG_READ: usize = 128 << 10;
/// The first byte that a TLS server answers to a request in clear text (RFC 8446 §5.1); no HTTP answer begins with it.
const TLS_ALERT: u8 = 0x15;

/// A connection that carries HTTP/1.1.
#[derive(Debug)]
pub(super) struct Http1 {
    io: UpstreamIo,
    sending: Sending,
    /// What has arrived and is not yet read.
    arrived: BytesMut,
    /// The bytes of the next read.
    read_size: usize,
    /// The most bytes that one read takes. Bytes that the client does not take should not be read.
    read_limit: usize,
    heads: AnswerHeads,
    body: AnswerBody,
    /// Whether a byte of the answer has arrived.
    has_begun: bool,
    /// Whether the request is a `HEAD`, whose answer has no body.
    is_head: bool,
    /// Whether the upstream keeps the connection open after the answer.
    is_kept: bool,
}

impl Http1 {
    /// Starts HTTP/1.1 on a connection.
    pub(super) fn new(io: UpstreamIo) -> Self {
        Self {
            io,
            sending: Sending::default(),
            arrived: BytesMut::new(),
            read_size: SHORT_READ,
            read_limit: usize::MAX,
            heads: AnswerHeads::default(),
            body: AnswerBody::Ended,
            has_begun: false,
            is_head: false,
            is_kept: true,
        }
    }

    /// Sets the most bytes that one read takes from now on.
    pub(super) fn set_read_limit(&mut self, bytes: usize) {
        self.read_limit = bytes.max(1);
    }

    /// Tells whether a connection without an exchange is still open, and nothing has arrived unasked.
    pub(super) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        // Outside tokio's task budget: without one, a closed connection would look open.
        let read = pin!(unconstrained(poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut byte))));
        self.arrived.is_empty() && read.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Starts to send a request, whose body it takes, with fields behind its own. The connection is open and without an
    /// exchange.
    pub(super) fn begin(&mut self, request: &mut Request<RequestBody>, added: &[(HeaderName, HeaderValue)]) {
        self.is_head = *request.method() == Method::HEAD;
        self.has_begun = false;
        self.heads = AnswerHeads::default();
        self.sending.begin(request, added);
    }

    /// Sends the request, and reads the head of its answer. Interim answers go to `on_interim`.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        on_interim: OnInterim<'_>,
    ) -> Poll<Result<Response<()>, Http1Error>> {
        self.poll_send(cx)?;
        loop {
            match self.heads.parse(&mut self.arrived)? {
                Some(Head::Final(head)) => return Poll::Ready(Ok(head)),
                Some(Head::Interim(interim)) => {
                    if let Some(on_interim) = on_interim {
                        on_interim(interim);
                    }
                }
                None => ready!(self.poll_read(cx))?,
            }
        }
    }

    /// Prepares to read the body that follows the head of an answer.
    ///
    /// # Errors
    /// When the head does not say where the body ends. [`normalize_answer`](crate::message::framing::normalize_answer)
    /// has seen it.
    pub(super) fn begin_body(&mut self, head: &response::Parts) -> Result<(), Http1Error> {
        self.body = AnswerBody::of(head, self.is_head)?;
        self.is_kept = answer_head::keeps_connection(head);
        Ok(())
    }

    /// Sends what is left of the request, and reads the next frame of the answer's body.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        self.poll_send(cx)?;
        while !self.body.has_ended() {
            if let Some(frame) = self.body.decode(&mut self.arrived)? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if !self.body.has_ended()
                && let Err(error) = ready!(self.poll_read(cx))
            {
                self.body.end(error)?;
            }
        }
        Poll::Ready(None)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Http1Error> {
        match self.sending.poll(cx, &mut self.io) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// Reads once. The end of the stream is an error.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        let most = self.read_size.min(self.read_limit);
        self.arrived.reserve(most);
        let before = self.arrived.len();
        let mut room = (&mut self.arrived).limit(most);
        let read = ready!(pin!(self.io.read_buf(&mut room)).poll(cx)).map_err(Http1Error::Io)?;
        if read == 0 {
            return Poll::Ready(Err(Http1Error::Incomplete));
        }
        if !self.has_begun && self.arrived.get(before) == Some(&TLS_ALERT) {
            return Poll::Ready(Err(Http1Error::Invalid(
                "it speaks TLS and not plain HTTP: should `url` begin with https://?",
            )));
        }
        self.has_begun = true;
        self.read_size = match read {
            _ if read >= self.read_size => (2 * self.read_size).min(LONG_READ),
            _ if read < self.read_size / 4 => (self.read_size / 2).max(SHORT_READ),
            _ => self.read_size,
        };
        Poll::Ready(Ok(()))
    }

    /// Tells whether a byte of the answer has arrived.
    pub(super) const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Tells whether the whole body of the answer has been read.
    pub(super) const fn has_whole_body(&self) -> bool {
        self.body.has_ended()
    }

    /// Returns what is known about the length of the body that is left.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// Tells whether both directions of the last exchange have ended, so that the next one may begin.
    pub(super) fn is_free(&mut self) -> bool {
        let is_sent = self.sending.poll(&mut Context::from_waker(Waker::noop()), &mut self.io);
        self.is_kept && matches!(is_sent, Poll::Ready(Ok(()))) && self.body.has_ended() && self.arrived.is_empty()
    }

    /// Frees the memory that an idle connection needs no more.
    pub(super) fn rest(&mut self) {
        (self.arrived, self.read_size) = (BytesMut::new(), SHORT_READ);
    }

    /// Takes the byte stream out of HTTP, with the bytes that followed the last head.
    pub(super) fn into_parts(self) -> (UpstreamIo, Bytes) {
        (self.io, self.arrived.freeze())
    }
}

#[cfg(test)]
mod tests;
