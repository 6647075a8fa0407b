//! The deadlines of a connection after its handshake: for a head, for an idle connection, for a client that takes no byte.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::filtered_io::FilteredIo;
use super::frame_filter::FrameFilter;
use super::head_filter::HeadFilter;
use super::registry::ConnectionHandle;
use super::stream_executor::StreamExecutor;
use super::{GRACE, MAX_SHUTDOWN};
use crate::budget::Ledger;
use crate::config::ServerTimeouts;
use crate::exchange::{AbortReason, Activity};
use crate::lazy_timer::LazyTimer;

/// Drives a connection, and ends it at its deadlines.
pub(super) struct DeadlineDriver {
    activity: Rc<Activity>,
    ledger: Arc<Ledger>,
    pub(super) timeouts: ServerTimeouts,
    handle: ConnectionHandle,
    timer: LazyTimer,
    /// Since when the worker closes.
    closing_since: Option<Instant>,
    /// Since when the connection shuts down gracefully.
    shutdown_since: Option<Instant>,
}

impl DeadlineDriver {
    /// Begins with a connection whose handshake is done.
    pub(super) fn new(
        activity: Rc<Activity>,
        ledger: Arc<Ledger>,
        timeouts: ServerTimeouts,
        handle: ConnectionHandle,
    ) -> Self {
        handle.open(&activity, &ledger);
        Self {
            activity,
            ledger,
            timeouts,
            handle,
            timer: LazyTimer::default(),
            closing_since: None,
            shutdown_since: None,
        }
    }

    /// Ends the deadlines. The worker knows of the connection until the handle is dropped.
    pub(super) fn into_handle(self) -> ConnectionHandle {
        self.handle
    }

    /// Polls a connection until it ends, or passes a deadline.
    pub(super) async fn drive<C: GracefulShutdown>(&mut self, mut connection: Pin<&mut C>) -> ConnectionEnd {
        poll_fn(|cx| {
            if self.closing_since.is_none() && self.handle.is_closing(cx) {
                self.closing_since = Some(Instant::now());
                self.activity.finish();
                if C::NAMES_LAST_REQUEST {
                    self.shut_down(connection.as_mut());
                }
            }
            if self.handle.is_overtime() && self.activity.has_exchange_beside_tunnels() {
                self.activity.abort(AbortReason::Drain);
                return Poll::Ready(ConnectionEnd::Overtime);
            }
            if self.ledger.is_shed() {
                return Poll::Ready(ConnectionEnd::Forced);
            }
            if self.shutdown_since.is_none() && self.activity.is_ending() {
                self.shut_down(connection.as_mut());
            }
            loop {
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection broke");
                    }
                    return Poll::Ready(ConnectionEnd::Closed);
                }
                if self.activity.is_corked() {
                    cx.waker().wake_by_ref();
                }
                if C::CAN_REST && self.activity.begin_rest() {
                    return Poll::Ready(ConnectionEnd::Rest);
                }
                match self.poll_overdue(cx) {
                    Poll::Pending => return Poll::Pending,
                    // No exchange is in flight: the connection ends with GOAWAY or close_notify.
                    Poll::Ready(Overdue::Idle) => self.shut_down(connection.as_mut()),
                    // A head that has begun is answered, with 408.
                    Poll::Ready(Overdue::Head) if self.activity.expire_head() => {}
                    Poll::Ready(Overdue::Head) => return Poll::Ready(ConnectionEnd::Forced),
                    Poll::Ready(Overdue::Stalled) => {
                        self.activity.abort(AbortReason::WriteStall);
                        return Poll::Ready(ConnectionEnd::Forced);
                    }
                }
            }
        })
        .await
    }

    fn shut_down<C: GracefulShutdown>(&mut self, connection: Pin<&mut C>) {
        self.shutdown_since = Some(Instant::now());
        connection.shut_down();
    }

    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<Overdue> {
        let Some((due, overdue)) = self.next_deadline() else { return Poll::Pending };
        self.timer.poll(cx, due).map(|()| overdue)
    }

    /// Returns the next deadline, and what is overdue when it passes.
    fn next_deadline(&self) -> Option<(Instant, Overdue)> {
        let blocked = self.activity.write_blocked_since();
        let stalled = blocked.map(|since| (since + self.timeouts.write_stall, Overdue::Stalled));
        let idle = self.activity.idle_since().map(|since| self.deadline_without_exchange(since));
        match (stalled, idle) {
            (Some(stalled), Some(idle)) => Some(if stalled.0 <= idle.0 { stalled } else { idle }),
            (one, other) => one.or(other),
        }
    }

    /// Returns the deadline of a connection that has had no exchange in flight `since`.
    fn deadline_without_exchange(&self, since: Instant) -> (Instant, Overdue) {
        match (self.shutdown_since, self.closing_since, self.activity.head_since()) {
            (Some(shutdown), _, _) => (since.max(shutdown) + MAX_SHUTDOWN, Overdue::Stalled),
            // The next request is answered, and its answer says that it is the last. A fresh connection may send none.
            (None, Some(closing), head) if head.is_none() || self.activity.exchanges_begun() == 0 => {
                (since.max(closing) + GRACE, Overdue::Idle)
            }
            (None, _, Some(head)) => (head + self.timeouts.header, Overdue::Head),
            (None, _, None) => (since + self.timeouts.idle, Overdue::Idle),
        }
    }
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// One of its sides closed it.
    Closed,
    /// It passed a deadline, or held much and moved little while `buffer_budget` was short.
    Forced,
    /// Only tunnels may go on, and it has another exchange. It may be polled on once that has ended.
    Overtime,
    /// It has not ended: it is idle, and every byte of its answers is out.
    Rest,
}

/// What is overdue when a deadline passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    /// The next request, on an idle connection.
    Idle,
    /// The rest of a head.
    Head,
    /// Bytes that the client should take, or the end of a graceful shutdown.
    Stalled,
}

/// A connection that can end when its exchanges have.
pub(super) trait GracefulShutdown: Future<Output = hyper::Result<()>> {
    /// Whether the client learns which of its requests are answered. In HTTP/1 it does not, so an idle connection is closed
    /// only when a request is not likely to be under way.
    const NAMES_LAST_REQUEST: bool;
    /// Whether it holds buffers that an idle connection has no use for.
    const CAN_REST: bool;

    fn shut_down(self: Pin<&mut Self>);
}

impl<S, B> GracefulShutdown for http1::Connection<TokioIo<FilteredIo<HeadFilter>>, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const NAMES_LAST_REQUEST: bool = false;
    const CAN_REST: bool = true;

    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, B> GracefulShutdown for http2::Connection<TokioIo<FilteredIo<FrameFilter>>, S, StreamExecutor>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Future: 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    StreamExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    const NAMES_LAST_REQUEST: bool = true;
    const CAN_REST: bool = false;

    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
