//! A client's connection in HTTP/1, read through the guard: hyper is given whole, clear heads and nothing else.
//!
//! What is refused is answered like any request, in its turn: in its place hyper reads a head that no client can send,
//! and the service that is called with that finds the refusal in [`crate::exchange::SideChannel::violation`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::client_io::Watched;
use crate::exchange::ClientConnection;
use crate::message::guard::{Guard, Violation};
use crate::upstream;

/// What hyper reads in the place of a request that is refused: the guard takes `*` with no method but `OPTIONS`.
const REFUSED: &[u8] = b"- * HTTP/1.1\r\n\r\n";
/// How often it is looked whether a client still exists that says nothing more and waits for its answer.
const LOOK: Duration = Duration::from_secs(1);
/// How long the rest of what a client says is taken, so that it comes to read the answer.
const LINGER: Duration = Duration::from_secs(2);

/// A connection behind the guard.
#[derive(Debug)]
pub(super) struct Guarded {
    io: Watched,
    guard: Guard,
    /// What came and has not gone on.
    held: Vec<u8>,
    /// As how many bytes that is counted.
    counted: usize,
    /// How much of that may go on.
    ready: usize,
    refusal: Option<Violation>,
    /// When to look after a client that has ended its side.
    look: Option<Pin<Box<Sleep>>>,
    peer: Rc<ClientConnection>,
}

impl Guarded {
    pub(super) fn new(io: Watched, peer: Rc<ClientConnection>) -> Self {
        Self { io, guard: Guard::default(), held: Vec::new(), counted: 0, ready: 0, refusal: None, look: None, peer }
    }

    /// Leaves HTTP, with what the client said behind what hyper has read.
    pub(super) fn into_parts(self, read: Bytes) -> (Watched, Bytes) {
        let early = if self.held.is_empty() { read } else { [&read[..], &self.held].concat().into() };
        (self.io, early)
    }

    /// Takes what the client goes on to say when it was answered before its end: closing at once would reset the
    /// connection, and take the answer from a client that has yet to read it (RFC 9112 §9.6). `unread` is what hyper has
    /// left of it.
    pub(super) async fn linger(self, unread: &[u8]) {
        if self.refusal.is_none() && !self.guard.is_in_body() && self.held.is_empty() && unread.is_empty() {
            return;
        }
        let mut stream = self.io.into_stream();
        let mut rest = vec![0; 16 << 10];
        let taken = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
        // However much it is: time bounds it.
        drop(timeout(LINGER, taken).await);
    }

    /// Hands on what may go on.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let here = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..here]);
        self.held.drain(..here);
        self.ready -= here;
        if self.held.is_empty() {
            // A connection at rest keeps no memory for this.
            self.held = Vec::new();
        }
        self.count();
    }

    fn count(&mut self) {
        self.counted = self.peer.ledger.replace(self.counted, self.held.capacity());
    }

    /// Reads from the client. The end of what it says is not told while it waits for an answer: to hyper that would mean
    /// that it has left (RFC 9112 §9.6 lets it end its side).
    fn poll_io(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.look.is_none() {
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        }
        let has_ended = buf.filled().len() == before;
        if has_ended && self.waits_for_answer() { self.poll_gone(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Tells whether a request that has come whole is under way, or about to be. What is behind it and no request takes
    /// nothing from it: some clients send a line end too many.
    fn waits_for_answer(&self) -> bool {
        !self.is_answered() && !self.guard.is_in_body()
    }

    /// Waits until a client that has ended its side is known to be gone: its system refuses what it is sent, or the
    /// kernel's question whether it still exists.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.look.is_none()
            && let Some(stream) = self.io.tcp()
        {
            upstream::set_tcp_keepalive(stream);
        }
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            ready!(look.as_mut().poll(cx));
            self.look = Some(Box::pin(sleep(LOOK)));
            if !self.waits_for_answer() {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = self.io.tcp().and_then(|stream| stream.take_error().ok()?) {
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Looks at what has just been read into `buf`, behind what was there `before`, and leaves there what goes on.
    fn look(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let fresh = &mut buf.filled_mut()[before..];
        if !self.held.is_empty() {
            self.held.extend_from_slice(fresh);
            self.count();
            buf.set_filled(before);
            return self.look_at_held();
        }
        let (gone, looked) = self.guard.look(fresh);
        self.held.extend_from_slice(&fresh[gone..]);
        self.count();
        buf.set_filled(before + gone);
        self.refusal = looked.err();
    }

    fn look_at_held(&mut self) {
        let (ready, looked) = self.guard.look(&mut self.held);
        self.ready = ready;
        self.refusal = looked.err();
    }

    /// Writes the interim answers that are here, before anything else. Each was put here while all was out that hyper had
    /// written, so what it writes now is of the answer behind.
    fn poll_interims(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.peer.side_channel.interims.set_busy(true);
        let mut waiting = self.peer.side_channel.interims.waiting().borrow_mut();
        while !waiting.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(waiting.drain(..written)),
            }
            if waiting.is_empty() {
                *waiting = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Lets hyper know of a refusal: in the middle of a body by a failure, else by a request in its turn.
    fn refuse(&mut self, refusal: Violation) -> io::Result<()> {
        self.peer.side_channel.violation.set(Some(refusal));
        if self.guard.is_in_body() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, refusal));
        }
        self.held = REFUSED.to_vec();
        self.ready = REFUSED.len();
        Ok(())
    }

    /// Tells whether a head has begun for whose rest nobody waits any more.
    fn is_late(&self) -> bool {
        let in_head = || !self.guard.is_in_body() && !self.guard.is_open();
        self.peer.activity.is_head_overdue() && in_head() && self.held.iter().any(|byte| !b"\r\n".contains(byte))
    }

    /// Tells whether every request that has gone on is answered; one for another protocol: in this one.
    fn is_answered(&self) -> bool {
        let activity = &self.peer.activity;
        activity.exchanges_begun() == self.guard.heads() && activity.idle_since().is_some()
    }

    /// Reads what nobody can look at before the last request is answered: hyper keeps it for the tunnel. When there is
    /// none after all, the next request is refused, wherever in those bytes it begins.
    fn poll_early(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.held.is_empty() {
            ready!(self.poll_io(cx, buf))?;
        } else {
            self.ready = self.held.len();
            self.hand_on(buf);
        }
        if buf.filled().len() > before {
            self.peer.side_channel.violation.set(Some(Violation::Early));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        loop {
            if this.ready > 0 {
                this.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            match (this.refusal, this.peer.side_channel.violation.get()) {
                // Nothing is read any more.
                (Some(_), Some(_)) => return Poll::Pending,
                (Some(refusal), None) => {
                    this.refuse(refusal)?;
                    continue;
                }
                (None, _) if this.is_late() => {
                    this.refusal = Some(Violation::Late);
                    continue;
                }
                (None, _) if !this.guard.is_open() => {}
                (None, _) if !this.is_answered() => return this.poll_early(cx, buf),
                // Behind what nobody looked at, nothing has one reading.
                (None, Some(_)) => return Poll::Ready(Ok(())),
                (None, None) => {
                    this.guard.stay();
                    this.look_at_held();
                    continue;
                }
            }
            ready!(this.poll_io(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            this.look(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interims(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interims(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interims(cx))?;
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.peer.side_channel.interims.set_busy(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
