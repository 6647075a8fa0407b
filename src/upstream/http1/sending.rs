//! Writes a request: its head from the fields, its body frame by frame as the upstream takes it (RFC 9112 §2, §7).

use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::Request;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::error::Http1Error;
use crate::budget::CountedBytes;
use crate::upstream::io::UpstreamIo;
use crate::upstream::request_body::RequestBody;

/// A frame of at most this many bytes is copied behind its framing, so that one write takes both.
const SMALL: usize = 4 << 10;
/// The most bytes of the buffer that an idle connection keeps.
const KEPT: usize = 4 << 10;
const CRLF: &[u8] = b"\r\n";

/// A request on its way out.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// The head, then the framing of the body and its small frames.
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// The frame that follows them, and the framing that follows the frame.
    frame: Option<CountedBytes>,
    after_frame: &'static [u8],
    body: RequestBody,
    framing: Framing,
    /// The `Trailer` fields, which name the trailers that may follow.
    declared: Vec<HeaderValue>,
    /// Bytes were written since the last flush.
    is_dirty: bool,
}

/// How the end of a request's body is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Framing {
    /// Everything is staged, or there is no body.
    #[default]
    Ended,
    /// So many bytes are left.
    Length(u64),
    Chunked,
}

impl Sending {
    /// Stages the head of a request with fields behind its own, and takes its body.
    pub(super) fn begin(&mut self, request: &mut Request<RequestBody>, added: &[(HeaderName, HeaderValue)]) {
        let (bytes, headers) = (&mut self.bytes, request.headers());
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        // A path that is left out is "/" (RFC 9112 §3.2.1).
        let path = if target.starts_with('?') { " /" } else { " " };
        for part in [request.method().as_str(), path, target, " HTTP/1.1\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        let mut length = None;
        for (name, value) in headers {
            match *name {
                // `frame` alone writes it, so that no body is framed twice.
                header::TRANSFER_ENCODING => continue,
                header::CONTENT_LENGTH => length = Some(value),
                _ => {}
            }
            write_field(bytes, name, value);
        }
        for (name, value) in added {
            write_field(bytes, name, value);
        }
        self.framing = frame(length, request.body(), bytes);
        bytes.extend_from_slice(CRLF);
        if self.framing == Framing::Chunked {
            self.declared.extend(headers.get_all(header::TRAILER).iter().cloned());
        }
        self.body = mem::take(request.body_mut());
        if self.framing == Framing::Length(0) {
            (self.framing, self.body) = (Framing::Ended, RequestBody::Empty);
        }
    }

    /// Tells whether everything is written.
    pub(super) fn has_ended(&self) -> bool {
        self.framing == Framing::Ended && self.is_written() && !self.is_dirty
    }

    /// Writes as much as the upstream takes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, io: &mut UpstreamIo) -> Poll<Result<(), Http1Error>> {
        while !self.has_ended() {
            // Until the body makes it wait, or there is enough to write: some frames, such as an empty one, stage nothing.
            while self.has_room()
                && let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx)
            {
                self.stage(frame.transpose().map_err(|_| Http1Error::Client)?)?;
            }
            if !self.is_written() {
                ready!(self.poll_write(cx, io)).map_err(Http1Error::Io)?;
            } else if self.is_dirty {
                ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(Http1Error::Io)?;
                self.is_dirty = false;
            } else {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_written(&self) -> bool {
        self.bytes.is_empty() && self.frame.is_none()
    }

    /// Tells whether the next frame of the body can be staged.
    fn has_room(&self) -> bool {
        self.framing != Framing::Ended && self.frame.is_none() && self.bytes.len() <= SMALL
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut UpstreamIo) -> Poll<io::Result<()>> {
        let waiting = &self.bytes[self.written..];
        let frame = self.frame.as_ref().map_or(&[][..], Buf::chunk);
        let io = Pin::new(io);
        let mut written = ready!(match (waiting, frame) {
            (waiting, []) => io.poll_write(cx, waiting),
            ([], frame) => io.poll_write(cx, frame),
            (waiting, frame) => io.poll_write_vectored(cx, &[IoSlice::new(waiting), IoSlice::new(frame)]),
        })?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.is_dirty = true;
        self.written += written.min(waiting.len());
        written -= written.min(waiting.len());
        if self.written == self.bytes.len() {
            (self.written, self.bytes) = (0, emptied(mem::take(&mut self.bytes)));
        }
        if let Some(frame) = &mut self.frame {
            frame.advance(written);
            if !frame.has_remaining() {
                self.frame = None;
                self.bytes.extend_from_slice(mem::take(&mut self.after_frame));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Stages the next frame of the body, or its end.
    fn stage(&mut self, frame: Option<Frame<CountedBytes>>) -> Result<(), Http1Error> {
        let data = match frame.map(Frame::into_data) {
            None => return self.end(None),
            Some(Err(frame)) => return self.end(frame.into_trailers().ok().as_ref()),
            Some(Ok(data)) => data,
        };
        let length = data.remaining();
        match self.framing {
            Framing::Length(left) => {
                let left = left.checked_sub(length as u64).ok_or(Http1Error::Client)?;
                self.framing = Framing::Length(left);
                self.put(data, b"");
                if left == 0 { self.end(None) } else { Ok(()) }
            }
            // An empty chunk would be the last one.
            Framing::Chunked if length > 0 => {
                self.bytes.extend_from_slice(format!("{length:x}\r\n").as_bytes());
                self.put(data, CRLF);
                if self.body.is_end_stream() { self.end(None) } else { Ok(()) }
            }
            Framing::Chunked | Framing::Ended => Ok(()),
        }
    }

    /// Stages bytes of the body, and the framing behind them.
    fn put(&mut self, mut data: CountedBytes, after: &'static [u8]) {
        if data.remaining() > SMALL {
            (self.frame, self.after_frame) = (Some(data), after);
            return;
        }
        while data.has_remaining() {
            let part = data.chunk().len();
            self.bytes.extend_from_slice(data.chunk());
            data.advance(part);
        }
        self.bytes.extend_from_slice(after);
    }

    /// Stages the end of the body. What the client still sends is not taken.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Http1Error> {
        let declared = mem::take(&mut self.declared);
        match mem::take(&mut self.framing) {
            Framing::Length(1..) => return Err(Http1Error::Client),
            Framing::Length(0) | Framing::Ended => {}
            Framing::Chunked if self.frame.is_some() => self.after_frame = b"\r\n0\r\n\r\n",
            Framing::Chunked => {
                self.bytes.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| is_declared(name, &declared)) {
                    write_field(&mut self.bytes, name, value);
                }
                self.bytes.extend_from_slice(CRLF);
            }
        }
        self.body = RequestBody::Empty;
        Ok(())
    }
}

/// Tells whether a `Trailer` field names this trailer (RFC 9110 §6.6.2).
fn is_declared(name: &HeaderName, declared: &[HeaderValue]) -> bool {
    let tokens = declared.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.map(<[u8]>::trim_ascii).any(|token| token.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

/// Empties a buffer, and returns it to be used again unless it is large.
fn emptied(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.shrink_to(KEPT);
    buffer
}

/// Returns how the end of a body is told, and writes the field that says so unless that was the `length`.
fn frame(length: Option<&HeaderValue>, body: &RequestBody, bytes: &mut Vec<u8>) -> Framing {
    if let Some(length) = length {
        // The guard lets digits pass only. A length that no body can have is one that this body does not have.
        return Framing::Length(length.to_str().ok().and_then(|length| length.parse().ok()).unwrap_or(u64::MAX));
    }
    if body.is_end_stream() {
        return Framing::Ended;
    }
    if let Some(length) = body.size_hint().exact() {
        write_field(bytes, &header::CONTENT_LENGTH, &HeaderValue::from(length));
        return Framing::Length(length);
    }
    write_field(bytes, &header::TRANSFER_ENCODING, &HeaderValue::from_static("chunked"));
    Framing::Chunked
}

fn write_field(to: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), CRLF] {
        to.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Stages a body of callgate's own in chunks, and returns the frame and what is written before and after it.
    #[track_caller]
    fn check(body: &'static [u8], before: &str, frame: usize, after: &str) {
        let mut sending = Sending { framing: Framing::Chunked, ..Sending::default() };
        sending.body = RequestBody::Empty;
        sending.stage(Some(Frame::data(Bytes::from_static(body).into()))).unwrap();
        let staged = sending.frame.as_ref().map_or(0, Buf::remaining);
        let written = (String::from_utf8(sending.bytes).unwrap(), staged, sending.after_frame);
        assert_eq!(written, (before.to_owned(), frame, after.as_bytes()));
        assert_eq!(sending.framing, Framing::Ended);
    }

    /// Without a body, no trailers can follow, and those of the next request on the connection are its own.
    #[test]
    fn what_a_request_declares_ends_with_it() {
        let mut sending = Sending::default();
        let request = Request::post("/").header("content-length", "0").header("trailer", "x-secret");
        sending.begin(&mut request.body(RequestBody::Full(None)).unwrap(), &[]);
        assert!(sending.declared.is_empty());
        assert_eq!(sending.framing, Framing::Ended);
    }

    #[test]
    fn a_chunk_has_its_size_before_it_and_the_last_one_follows_it() {
        static LARGE: [u8; 1 << 20] = [b'a'; 1 << 20];
        check(b"hello", "5\r\nhello\r\n0\r\n\r\n", 0, "");
        check(&LARGE, "100000\r\n", LARGE.len(), "\r\n0\r\n\r\n");
    }
}
