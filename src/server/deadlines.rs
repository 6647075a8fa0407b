//! A connection's deadlines, from its handshake to its end: for a head, for a rest, for a client that takes nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::guarded::Guarded;
use super::paced_body::Streams;
use super::registry::Guest;
use super::screened::Screened;
use super::{FAREWELL, GRACE};
use crate::budget::Ledger;
use crate::config::ServerTimeouts;
use crate::exchange::{AbortReason, Activity};
use crate::lazy_timer::LazyTimer;

/// Keeps a connection to its deadlines.
pub(super) struct Watch {
    activity: Rc<Activity>,
    ledger: Arc<Ledger>,
    pub(super) timeouts: ServerTimeouts,
    guest: Guest,
    timer: LazyTimer,
    /// Since when the connection shall end.
    ending: Option<Instant>,
    /// When the connection was told to end.
    told: Option<Instant>,
}

impl Watch {
    /// Begins with a connection whose handshake is done.
    pub(super) fn new(activity: Rc<Activity>, ledger: Arc<Ledger>, timeouts: ServerTimeouts, guest: Guest) -> Self {
        guest.sit(&activity, &ledger);
        Self { activity, ledger, timeouts, guest, timer: LazyTimer::default(), ending: None, told: None }
    }

    /// Polls a connection until it ends, or is late.
    pub(super) async fn drive<C: Closing>(&mut self, mut connection: Pin<&mut C>) -> Ended {
        poll_fn(|cx| {
            if self.ending.is_none() && self.guest.shall_end(cx) {
                self.ending = Some(Instant::now());
                self.activity.finish();
                if C::TELLS {
                    self.tell(connection.as_mut());
                }
            }
            if self.ledger.is_shed() {
                return Poll::Ready(Ended::Late);
            }
            if self.told.is_none() && self.activity.is_evicted() {
                self.tell(connection.as_mut());
            }
            loop {
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection broke");
                    }
                    return Poll::Ready(Ended::Itself);
                }
                match self.poll_late(cx) {
                    Poll::Pending => return Poll::Pending,
                    // Nothing was under way: it may say goodbye.
                    Poll::Ready(Late::Idle) => self.tell(connection.as_mut()),
                    // Who has begun is answered, by the guard.
                    Poll::Ready(Late::Head) if self.activity.expire_head() => {}
                    Poll::Ready(Late::Head) => return Poll::Ready(Ended::Late),
                    Poll::Ready(Late::Stuck) => {
                        self.activity.abort(AbortReason::WriteStall);
                        return Poll::Ready(Ended::Late);
                    }
                }
            }
        })
        .await
    }

    fn tell<C: Closing>(&mut self, connection: Pin<&mut C>) {
        self.told = Some(Instant::now());
        connection.close();
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        let Some((due, late)) = self.due() else { return Poll::Pending };
        self.timer.poll(cx, due).map(|()| late)
    }

    /// When the connection is late, and for what.
    fn due(&self) -> Option<(Instant, Late)> {
        let stalled = self.activity.write_blocked_since().map(|since| (since + self.timeouts.write_stall, Late::Stuck));
        let waiting = self.activity.idle_since().map(|since| self.due_at_rest(since));
        match (stalled, waiting) {
            (Some(stalled), Some(waiting)) => Some(if stalled.0 <= waiting.0 { stalled } else { waiting }),
            (one, other) => one.or(other),
        }
    }

    /// When a connection is late that has no exchange in flight.
    fn due_at_rest(&self, since: Instant) -> (Instant, Late) {
        match (self.told, self.ending, self.activity.head_since()) {
            (Some(told), _, _) => (told + FAREWELL, Late::Stuck),
            // The next request is answered, and told to be the last one. That of a fresh connection may not come.
            (None, Some(ending), head) if head.is_none() || self.activity.exchanges_begun() == 0 => {
                (since.max(ending) + GRACE, Late::Idle)
            }
            (None, _, Some(head)) => (head + self.timeouts.header, Late::Head),
            (None, _, None) => (since + self.timeouts.idle, Late::Idle),
        }
    }
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// One of its sides closed it.
    Itself,
    /// It was late, or held much and moved little while memory was short.
    Late,
}

/// How a connection is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    /// It has rested for too long.
    Idle,
    /// The head of a request does not come.
    Head,
    /// It does not go on where it should.
    Stuck,
}

/// A connection that can be asked to end when its exchanges have.
pub(super) trait Closing: Future<Output = hyper::Result<()>> {
    /// Whether a client that is told to end learns which of its requests were heard. In HTTP/1 it does not, so a
    /// connection that rests may be closed only when no request is likely to be under way.
    const TELLS: bool;

    fn close(self: Pin<&mut Self>);
}

impl<S, B> Closing for http1::Connection<TokioIo<Guarded>, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const TELLS: bool = false;

    fn close(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, B> Closing for http2::Connection<TokioIo<Screened>, S, Streams>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Future: 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Streams: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    const TELLS: bool = true;

    fn close(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
