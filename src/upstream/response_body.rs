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

/// Polls the connection for the body's next frame, and returns the connection to its upstream when both sides have ended.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    link: Option<Box<Conn>>,
    home: Rc<Upstream>,
    /// Where the connection belongs instead, if it is bound to a client's.
    lease: Option<Lease>,
    /// Since when the upstream has been silent, once somebody has waited for it.
    since: Option<Instant>,
}

/// The body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream broke off.
    #[error("the upstream broke off the body")]
    Broken(#[source] hyper::Error),
    /// The upstream said nothing for too long.
    #[error("the upstream paused the body too long")]
    Stalled,
}

impl ResponseBody {
    pub(super) fn new(incoming: Incoming, link: Box<Conn>, home: Rc<Upstream>, lease: Option<Lease>) -> Self {
        let mut relay = Self { incoming, link: Some(link), home, lease, since: None };
        if relay.incoming.is_end_stream() {
            relay.settle();
        }
        relay
    }

    /// Lets at most so many bytes be read at once from now on.
    pub fn read_at_most(&self, bytes: usize) {
        if let Some(link) = &self.link {
            link.read_at_most(bytes);
        }
    }

    /// Takes what the connection has already read. Only polling the connection fills it, so it needs no waker.
    fn take(&mut self) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let incoming = Pin::new(&mut self.incoming);
        let take = || incoming.poll_frame(&mut Context::from_waker(Waker::noop()));
        match &self.link {
            // Taking makes room, which rings; but whoever takes nothing polls the connection next.
            Some(link) => link.bell.muffled(take),
            None => take(),
        }
    }

    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let ready @ Poll::Ready(_) = self.take() {
            return ready;
        }
        if let Some(link) = &mut self.link {
            link.poll(cx);
        }
        self.take()
    }

    /// Gives the connection back when it is free for another exchange; closes it otherwise.
    fn settle(&mut self) {
        let lease = self.lease.take();
        if let Some(mut link) = self.link.take()
            && link.is_free()
        {
            match lease {
                Some(lease) => self.home.give_back(link, lease),
                None => self.home.checkin(link),
            }
        }
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let due = *self.since.get_or_insert_with(Instant::now) + self.home.body_idle;
        match &mut self.link {
            // With its connection gone and nothing read, no more can come: hyper has dropped its end.
            None => Poll::Ready(Some(Err(BodyError::Stalled))),
            Some(link) if link.has_ended() => Poll::Ready(Some(Err(BodyError::Stalled))),
            Some(link) => link.timer.poll(cx, due).map(|()| Some(Err(BodyError::Stalled))),
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
                this.since = None;
                if this.incoming.is_end_stream() {
                    this.settle();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.settle();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                (this.link, this.lease) = (None, None);
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
