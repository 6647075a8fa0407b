//! The body of an upstream's answer, on its way to the client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Upstream;
use super::bound_connections::Lease;
use super::conn::Conn;

/// Polls the connection for the next frame of the body, and gives the connection back to its upstream when both
/// directions have ended.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    incoming: Incoming,
    conn: Option<Box<Conn>>,
    upstream: Rc<Upstream>,
    /// The right to the connection, if it is bound to a client's.
    lease: Option<Lease>,
    /// When the exchange began to wait for the next frame.
    waiting_since: Option<Instant>,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The upstream broke off.
    #[error("the upstream broke off the body")]
    Broken(#[source] hyper::Error),
    /// The upstream sent nothing for too long.
    #[error("the upstream paused the body too long")]
    Stalled,
}

impl ResponseBody {
    pub(super) fn new(incoming: Incoming, conn: Box<Conn>, upstream: Rc<Upstream>, lease: Option<Lease>) -> Self {
        let mut body = Self { incoming, conn: Some(conn), upstream, lease, waiting_since: None };
        if body.incoming.is_end_stream() {
            body.release();
        }
        body
    }

    /// Sets the most bytes that one read of the connection returns from now on.
    pub(crate) fn set_read_limit(&self, bytes: usize) {
        if let Some(conn) = &self.conn {
            conn.set_read_limit(bytes);
        }
    }

    /// Takes a frame that the connection has already read. Only polling the connection brings more, so no waker is
    /// needed.
    fn take(&mut self) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let incoming = Pin::new(&mut self.incoming);
        let take = || incoming.poll_frame(&mut Context::from_waker(Waker::noop()));
        match &self.conn {
            // Taking a frame makes room, which would wake the task. If there is no frame, the connection is polled next
            // anyway.
            Some(conn) => conn.task_waker.muted(take),
            None => take(),
        }
    }

    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let ready @ Poll::Ready(_) = self.take() {
            return ready;
        }
        if let Some(conn) = &mut self.conn {
            conn.poll(cx);
        }
        self.take()
    }

    /// Gives the connection back if it is free for another exchange, and closes it otherwise.
    fn release(&mut self) {
        let lease = self.lease.take();
        if let Some(mut conn) = self.conn.take()
            && conn.is_free()
        {
            match lease {
                Some(lease) => self.upstream.checkin_bound(conn, lease),
                None => self.upstream.checkin(conn),
            }
        }
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let due = *self.waiting_since.get_or_insert_with(Instant::now) + self.upstream.deadlines.body_idle;
        match &mut self.conn {
            // The connection is gone and nothing is read, so no more can arrive: hyper has dropped its end.
            None => Poll::Ready(Some(Err(BodyError::Stalled))),
            Some(conn) if conn.has_ended() => Poll::Ready(Some(Err(BodyError::Stalled))),
            Some(conn) => conn.timer.poll(cx, due).map(|()| Some(Err(BodyError::Stalled))),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.poll_next(cx) {
            Poll::Pending => this.poll_stall(cx),
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting_since = None;
                if this.incoming.is_end_stream() {
                    this.release();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.release();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                (this.conn, this.lease) = (None, None);
                Poll::Ready(Some(Err(BodyError::Broken(error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
