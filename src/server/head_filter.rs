//! The filter of HTTP/1: hyper is given heads that [`Guard`] has checked, whole and with one reading, and nothing else.
//!
//! A violation is answered like any request, in its turn: in its place hyper reads a head that no client can send, and the
//! service that is called with it finds the violation in [`SideChannel::violation`](crate::exchange::SideChannel::violation).

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::client_io::TrackedIo;
use super::filtered_io::{FilteredIo, HeldBytes, ReadFilter};
use crate::exchange::ClientConnection;
use crate::message::guard::{Guard, Violation};
use crate::upstream;

/// The head that hyper reads in the place of a violation: the guard lets `*` pass only with `OPTIONS`.
const STAND_IN: &[u8] = b"- * HTTP/1.1\r\n\r\n";
/// How often a client that has ended its side, and waits for its answer, is checked to exist.
const PEER_CHECK: Duration = Duration::from_secs(1);
/// How long the rest of the client's bytes is read, so that it comes to read the answer.
const LINGER: Duration = Duration::from_secs(2);

/// Checks the heads and the body framing of a client.
#[derive(Debug)]
pub(super) struct HeadFilter {
    guard: Guard,
    held: HeldBytes,
    state: ReadState,
    /// When to check again whether a client that has ended its side exists.
    peer_check: Option<Pin<Box<Sleep>>>,
    connection: Rc<ClientConnection>,
}

/// The state of reading: what happens to the next bytes of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadState {
    /// The guard checks them.
    Checked,
    /// They violate a rule; hyper has yet to read the bytes before, and then the stand-in.
    Violating(Violation),
    /// They are not read: hyper knows of a violation.
    Refused,
    /// Some passed unchecked, behind a request for another protocol that may be a tunnel.
    Unchecked,
}

impl FilteredIo<HeadFilter> {
    /// Filters a connection over HTTP/1.
    pub(super) fn http1(io: TrackedIo, connection: Rc<ClientConnection>) -> Self {
        let held = HeldBytes::new(Arc::clone(&connection.ledger));
        let (guard, state) = (Guard::default(), ReadState::Checked);
        Self { io, filter: HeadFilter { guard, held, state, peer_check: None, connection } }
    }

    /// Returns whether hyper is between two requests, so that another one may go on in its place. `unparsed` are the bytes that
    /// hyper has read: line ends before the next request mean nothing (RFC 9112 §2.2).
    pub(super) fn is_between_requests(&self, unparsed: &[u8]) -> bool {
        let HeadFilter { guard, held, state, peer_check, .. } = &self.filter;
        let is_void = |bytes: &[u8]| bytes.iter().all(|byte| b"\r\n".contains(byte));
        *state == ReadState::Checked
            && peer_check.is_none()
            && !guard.is_in_body()
            && self.filter.is_answered()
            && is_void(&held.bytes)
            && is_void(unparsed)
    }

    /// Ends HTTP. Returns the connection, and the bytes of the client behind the last request; `unparsed` are those that
    /// hyper has read.
    pub(super) fn into_parts(self, unparsed: Bytes) -> (TrackedIo, Bytes) {
        let held = self.filter.held.bytes;
        let early = if held.is_empty() { unparsed } else { [&unparsed[..], &held].concat().into() };
        (self.io, early)
    }

    /// Reads on for a while when the client was answered before the end of its request: closing at once would reset the
    /// connection, and the reset takes the answer from a client that has yet to read it (RFC 9112 §9.6). `unparsed` are the
    /// bytes that hyper has read.
    pub(super) async fn linger(self, unparsed: &[u8]) {
        if self.filter.has_read_all() && unparsed.is_empty() {
            return;
        }
        let mut stream = self.io.into_stream();
        let mut rest = vec![0; 16 << 10];
        // The bytes are not bounded, but the time is.
        let read = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
        drop(timeout(LINGER, read).await);
    }
}

impl HeadFilter {
    /// Returns whether every byte of the client belongs to a request that ended.
    fn has_read_all(&self) -> bool {
        let is_refused = matches!(self.state, ReadState::Violating(_) | ReadState::Refused);
        !is_refused && !self.guard.is_in_body() && self.held.bytes.is_empty()
    }

    /// Reads from the client. The end of its side is hidden from hyper while it waits for an answer, which it may do
    /// (RFC 9112 §9.6): hyper would take it for gone.
    fn poll_client(&mut self, io: &mut TrackedIo, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.peer_check.is_none() {
            ready!(Pin::new(&mut *io).poll_read(cx, buf))?;
        }
        let has_ended = buf.filled().len() == before;
        if has_ended && self.waits_for_answer() { self.poll_gone(io, cx) } else { Poll::Ready(Ok(())) }
    }

    /// Returns whether a request that has come whole has no answer yet. Bytes behind it that are no request change nothing:
    /// some clients send one line end too many.
    fn waits_for_answer(&self) -> bool {
        !self.is_answered() && !self.guard.is_in_body()
    }

    /// Waits until a client that has ended its side is gone: its system refuses the bytes that it is sent, or the kernel's
    /// keep-alive probe.
    fn poll_gone(&mut self, io: &TrackedIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.peer_check.is_none()
            && let Some(stream) = io.tcp()
        {
            upstream::set_tcp_keepalive(stream);
        }
        loop {
            let check = self.peer_check.get_or_insert_with(|| Box::pin(sleep(PEER_CHECK)));
            ready!(check.as_mut().poll(cx));
            self.peer_check = Some(Box::pin(sleep(PEER_CHECK)));
            if !self.waits_for_answer() {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = io.tcp().and_then(|stream| stream.take_error().ok()?) {
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Checks the bytes that were just read into `buf`, behind the first `before`, and leaves there those that pass.
    fn check(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let fresh = &mut buf.filled_mut()[before..];
        if !self.held.bytes.is_empty() {
            self.held.push(fresh);
            buf.set_filled(before);
            return self.check_held();
        }
        let (passing, checked) = self.guard.scan(fresh);
        self.held.push(&fresh[passing..]);
        buf.set_filled(before + passing);
        self.note(checked);
    }

    fn check_held(&mut self) {
        let (passing, checked) = self.guard.scan(&mut self.held.bytes);
        self.held.passing = passing;
        self.note(checked);
    }

    const fn note(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            self.state = ReadState::Violating(violation);
        }
    }

    /// Tells hyper of a violation: in the middle of a body by an error, else by the stand-in.
    fn refuse(&mut self, violation: Violation) -> io::Result<()> {
        self.state = ReadState::Refused;
        self.connection.side_channel.violation.set(Some(violation));
        if self.guard.is_in_body() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, violation));
        }
        self.held.bytes = STAND_IN.to_vec();
        self.held.passing = STAND_IN.len();
        Ok(())
    }

    /// Returns whether a head has begun to arrive and is not whole. Line ends before it mean nothing (RFC 9112 §2.2).
    fn holds_head(&self) -> bool {
        let begun = self.held.bytes.iter().any(|byte| !b"\r\n".contains(byte));
        begun && !self.guard.is_in_body() && !self.guard.is_open()
    }

    /// Lets the time of a head begin that began to arrive before the last answer was out.
    fn time_head(&self) {
        if self.holds_head() {
            self.connection.activity.on_read();
        }
    }

    /// Returns whether the head that is arriving took too long.
    fn is_overdue(&self) -> bool {
        self.connection.activity.is_head_overdue() && self.holds_head()
    }

    /// Returns whether every request that has passed is answered. The answer to a request for another protocol counts if the
    /// connection stays with HTTP/1.
    fn is_answered(&self) -> bool {
        let activity = &self.connection.activity;
        activity.exchanges_begun() == self.guard.heads() && activity.idle_since().is_some()
    }

    /// Passes bytes on that cannot be checked before the request for another protocol is answered: hyper keeps them for the
    /// tunnel. If no tunnel begins, the next request is refused, wherever in those bytes it begins.
    fn poll_unchecked(
        &mut self,
        io: &mut TrackedIo,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.held.bytes.is_empty() {
            ready!(self.poll_client(io, cx, buf))?;
        } else {
            self.held.passing = self.held.bytes.len();
            self.held.pass(buf);
        }
        if buf.filled().len() > before {
            self.state = ReadState::Unchecked;
            self.connection.side_channel.violation.set(Some(Violation::Early));
        }
        Poll::Ready(Ok(()))
    }
}

impl ReadFilter for HeadFilter {
    fn poll_read(&mut self, io: &mut TrackedIo, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            if self.held.passing > 0 {
                self.held.pass(buf);
                return Poll::Ready(Ok(()));
            }
            match self.state {
                ReadState::Refused => return Poll::Pending,
                ReadState::Violating(violation) => {
                    self.refuse(violation)?;
                    continue;
                }
                ReadState::Checked | ReadState::Unchecked if self.is_overdue() => {
                    self.state = ReadState::Violating(Violation::Late);
                    continue;
                }
                ReadState::Checked | ReadState::Unchecked if !self.guard.is_open() => {}
                ReadState::Checked | ReadState::Unchecked if !self.is_answered() => {
                    return self.poll_unchecked(io, cx, buf);
                }
                // Behind unchecked bytes nothing has one reading.
                ReadState::Unchecked => return Poll::Ready(Ok(())),
                ReadState::Checked => {
                    self.guard.stay();
                    self.check_held();
                    self.time_head();
                    continue;
                }
            }
            ready!(self.poll_client(io, cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            self.check(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Writes the interim answers that wait. Each was added while every byte that hyper had written was out, so hyper's next
    /// bytes belong to the answer behind.
    fn poll_before_write(&mut self, io: &mut TrackedIo, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let interims = &self.connection.side_channel.interims;
        interims.set_busy(true);
        let mut waiting = interims.waiting().borrow_mut();
        while !waiting.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(waiting.drain(..written)),
            }
            if waiting.is_empty() {
                *waiting = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn on_flush(&self, is_busy: bool) {
        self.connection.side_channel.interims.set_busy(is_busy);
        if !is_busy {
            self.time_head();
        }
    }
}
