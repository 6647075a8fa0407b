//! The body of an upstream's answer, on its way to the client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::Upstream;
use super::bound_connections::Lease;
use super::conn::Conn;
use super::http1::Http1Error;

/// Polls the connection for the next frame of the body, and gives the connection back to its upstream when both
/// directions have ended.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    /// Until the body has ended.
    conn: Option<Box<Conn>>,
    has_failed: bool,
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
    Broken(#[source] Http1Error),
    /// The upstream sent nothing for too long.
    #[error("the upstream paused the body too long")]
    Stalled,
}

impl ResponseBody {
    /// Makes the body that follows a head, which the connection has begun to read.
    pub(super) fn new(conn: Box<Conn>, upstream: Rc<Upstream>, lease: Option<Lease>) -> Self {
        let mut body = Self { conn: Some(conn), has_failed: false, upstream, lease, waiting_since: None };
        body.release_at_end();
        body
    }

    /// Sets the most bytes that one read of the connection returns from now on.
    pub(crate) fn set_read_limit(&mut self, bytes: usize) {
        if let Some(conn) = &mut self.conn {
            conn.set_read_limit(bytes);
        }
    }

    /// After the end of the body, gives the connection back if it is free for another exchange, and closes it otherwise.
    fn release_at_end(&mut self) {
        let Some(mut conn) = self.conn.take_if(|conn| conn.has_whole_body()) else { return };
        let lease = self.lease.take();
        if conn.is_free() {
            match lease {
                Some(lease) => self.upstream.checkin_bound(conn, lease),
                None => self.upstream.checkin(conn),
            }
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        (self.conn, self.lease, self.has_failed) = (None, None, true);
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(conn) = &mut this.conn else { return Poll::Ready(None) };
        match conn.poll_body(cx) {
            Poll::Pending => {
                let waiting_since = *this.waiting_since.get_or_insert_with(Instant::now);
                // An answer may pause for as long as the upload moves that it answers.
                let since = conn.upload_moved().map_or(waiting_since, |moved| moved.max(waiting_since));
                let due = since + this.upstream.deadlines.body_idle;
                match conn.timer.poll(cx, due) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => this.fail(BodyError::Stalled),
                }
            }
            Poll::Ready(Some(Err(error))) => this.fail(BodyError::Broken(error)),
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting_since = None;
                this.release_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.release_at_end();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.conn.is_none() && !self.has_failed
    }

    fn size_hint(&self) -> SizeHint {
        self.conn.as_ref().map_or_else(|| SizeHint::with_exact(0), |conn| conn.size_hint())
    }
}
