//! One connection to an upstream, lent to one exchange at a time.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::Error;
use super::choice::{EndpointIndex, ExchangeCounts, UnderWay};
use super::head_scanner::ResponseHeadScanner;
use super::interim::OnInterim;
use super::io::UpstreamIo;
use super::request_body::{Phase, Progress, RequestBody};
use super::task_waker::TaskWaker;
use super::tunnel::Upgraded;
use crate::budget::Ledger;
use crate::lazy_timer::LazyTimer;

/// The most bytes of an answer's head, and the most that are buffered of its body.
const MAX_BUFFER: usize = 128 << 10;
/// A connection of this age serves no further exchange, so that the name of the upstream is looked up again.
const MAX_AGE: Duration = Duration::from_secs(300);

/// How long an exchange waits for the upstream.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResponseDeadlines {
    /// For the head of the answer, once the request is sent.
    pub(super) first_byte: Duration,
    /// For the next bytes of a body, either way.
    pub(super) body_idle: Duration,
}

/// A connection, in the two halves that hyper makes of it. The exchange that uses it polls it.
pub(super) struct Conn {
    sender: SendRequest<RequestBody>,
    connection: http1::Connection<TokioIo<UpstreamIo>, RequestBody>,
    pub(super) timer: LazyTimer,
    pub(super) task_waker: TaskWaker,
    /// The connection's future has completed and must not be polled again.
    has_ended: bool,
    scanner: Rc<ResponseHeadScanner>,
    /// The most bytes that one read returns.
    read_limit: Rc<Cell<usize>>,
    /// The connection serves no further exchange.
    is_retired: bool,
    /// What the exchange that it serves now counts as.
    counts: ExchangeCounts,
    opened: Instant,
    /// When the last request was sent.
    sent: Instant,
    /// When the last exchange ended.
    idle_since: Instant,
    pub(super) endpoint: EndpointIndex,
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

/// Why a request had no answer, and whether it may be sent again.
pub(super) enum AttemptError {
    /// Nothing of it was written.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke before the first byte of an answer.
    Lost(hyper::Error),
    /// The same while callgate waited for more of the client's body. The upstream closed during a slow upload; this
    /// does not count against its health.
    HungUp(hyper::Error),
    /// It may not be sent again.
    Failed(Error),
}

impl Conn {
    /// Starts HTTP/1.1 on a connection. It is boxed, since it moves many times in its life.
    pub(super) async fn new(
        io: UpstreamIo,
        endpoint: EndpointIndex,
        counts: ExchangeCounts,
    ) -> hyper::Result<Box<Self>> {
        let (scanner, read_limit) = (io.scanner(), io.read_limit());
        let (sender, connection) = http1::Builder::new().max_buf_size(MAX_BUFFER).handshake(TokioIo::new(io)).await?;
        let now = Instant::now();
        Ok(Box::new(Self {
            sender,
            connection,
            timer: LazyTimer::default(),
            task_waker: TaskWaker::new(),
            has_ended: false,
            scanner,
            read_limit,
            is_retired: false,
            counts,
            opened: now,
            sent: now,
            idle_since: now,
            endpoint,
        }))
    }

    /// Sends a request and waits for the head of its answer. Interim answers are passed on before.
    pub(super) async fn send(
        mut self: Box<Self>,
        request: Request<RequestBody>,
        deadlines: ResponseDeadlines,
        on_interim: OnInterim<'_>,
    ) -> Result<(Response<Incoming>, Box<Self>), AttemptError> {
        let progress = request.body().progress();
        self.scanner.begin(on_interim.is_some());
        let sent = Instant::now();
        self.sent = sent;
        let answer = {
            let Self { sender, connection, task_waker, timer, has_ended, scanner, .. } = &mut *self;
            let mut answer = pin!(sender.try_send_request(request));
            poll_fn(|cx| {
                // The connection first: it writes the request, and reads the answer into the channel that `answer`
                // empties. Only the connection fills that channel, so `answer` needs no waker of its own.
                if !*has_ended {
                    *has_ended = connection.poll_without_shutdown(&mut task_waker.context(cx)).is_ready();
                }
                let polled = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                // If hyper could not parse it, what looked like an interim answer is not one.
                if !matches!(&polled, Poll::Ready(Err(error)) if error.error().is_parse()) {
                    scanner.interims().notify(on_interim);
                }
                if let Poll::Ready(answer) = polled {
                    return Poll::Ready(Ok(answer));
                }
                let (due, late) = due(sent, progress.as_deref(), deadlines);
                timer.poll(cx, due).map(|()| Err(late))
            })
            .await
        };
        match answer {
            Ok(Ok(response)) => Ok((response, self)),
            Ok(Err(mut error)) => Err(match error.take_message() {
                Some(request) => AttemptError::Unsent(Box::new(request)),
                None => self.failure(error.into_error(), progress.as_deref()),
            }),
            Err(late) => Err(AttemptError::Failed(late)),
        }
    }

    /// Returns when the last request was sent.
    pub(super) const fn sent_at(&self) -> Instant {
        self.sent
    }

    /// Polls the connection: sends what is left of a request's body, reads what has arrived.
    pub(super) fn poll(&mut self, cx: &Context<'_>) {
        if !self.has_ended {
            self.has_ended = self.connection.poll_without_shutdown(&mut self.task_waker.context(cx)).is_ready();
        }
    }

    /// Sets the most bytes that one read returns from now on.
    pub(super) fn set_read_limit(&self, bytes: usize) {
        self.read_limit.set(bytes);
    }

    /// Tells whether the connection has ended.
    pub(super) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Tells whether both directions of the last exchange have ended, so that a new one may begin.
    pub(super) fn is_free(&mut self) -> bool {
        if !self.sender.is_ready() {
            self.poll(&Context::from_waker(Waker::noop()));
        }
        !self.is_retired && !self.has_ended && self.sender.is_ready()
    }

    /// Makes the current exchange the last one of the connection.
    pub(super) const fn retire(&mut self) {
        self.is_retired = true;
    }

    /// Tells whether an idle connection is still open and has received nothing unasked.
    pub(super) fn is_alive(&mut self) -> bool {
        self.poll(&Context::from_waker(Waker::noop()));
        !self.has_ended && self.sender.is_ready()
    }

    /// Tells whether a bound connection can serve another exchange of its client.
    pub(super) fn is_reusable(&mut self) -> bool {
        !self.is_retired && self.is_alive()
    }

    /// Returns how long the connection has been idle.
    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        now.duration_since(self.idle_since)
    }

    /// Sets what the exchange that it serves from now on counts as.
    pub(super) fn begin_exchange(&mut self, counts: ExchangeCounts) {
        self.counts = counts;
    }

    /// Returns what its exchange counted as, for the caller to end by dropping it.
    pub(super) fn end_exchange(&mut self) -> ExchangeCounts {
        mem::take(&mut self.counts)
    }

    /// Counts an exchange of a bound connection at the endpoint, or none any more. Its use by its client goes on.
    pub(super) fn set_under_way(&mut self, under_way: Option<UnderWay>) {
        self.counts.under_way = under_way;
    }

    /// Starts the time for which the connection is idle.
    pub(super) fn mark_idle(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Tells whether the connection has been idle or open for too long.
    pub(super) fn is_stale(&self, now: Instant, keep_alive: Duration) -> bool {
        now.duration_since(self.idle_since) >= keep_alive || now.duration_since(self.opened) >= MAX_AGE
    }

    fn failure(&self, error: hyper::Error, progress: Option<&Progress>) -> AttemptError {
        if progress.is_some_and(|progress| progress.phase.get() == Phase::Failed) {
            return AttemptError::Failed(Error::ClientGone);
        }
        // An upstream that has begun to answer has acted on the request.
        if self.scanner.has_begun() {
            return AttemptError::Failed(Error::Broken(error));
        }
        match progress.map(|progress| progress.phase.get()) {
            Some(Phase::Reading) => AttemptError::HungUp(error),
            Some(Phase::Writing | Phase::Done | Phase::Failed) | None => AttemptError::Lost(error),
        }
    }

    /// Takes the byte stream out of HTTP, with the bytes that followed the upstream's 101.
    pub(super) fn into_upgraded(self, ledger: Option<Arc<Ledger>>) -> Upgraded {
        let parts = self.connection.into_parts();
        Upgraded { io: parts.io.into_inner(), early: parts.read_buf, ledger, _counts: self.counts }
    }
}

/// Returns when the wait for an answer ends, and with which error.
fn due(sent: Instant, progress: Option<&Progress>, deadlines: ResponseDeadlines) -> (Instant, Error) {
    let Some(progress) = progress else { return (sent + deadlines.first_byte, Error::Timeout) };
    let since = progress.since.get();
    match progress.phase.get() {
        Phase::Reading => (since + deadlines.body_idle, Error::ClientStalled),
        Phase::Writing => (since + deadlines.body_idle, Error::Timeout),
        Phase::Done | Phase::Failed => (since + deadlines.first_byte, Error::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::super::io::Transport;
    use super::super::permits::{ConnectionPermits, Requester};
    use super::*;
    use crate::model::upstream_name::UpstreamName;

    #[tokio::test]
    async fn a_connection_is_stale_after_its_idle_time_or_its_age() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (permit, usage) =
            ConnectionPermits::new(1, UpstreamName::App).acquire(&Requester::Gate, Instant::now()).await.unwrap();
        let io = UpstreamIo::new(
            Transport::Plain(stream),
            Some(permit),
            crate::descriptors::acquire_for_upstream().unwrap(),
        );
        let counts = ExchangeCounts { _usage: Some(usage), under_way: None };
        let mut conn = Conn::new(io, EndpointIndex::default(), counts).await.unwrap();
        let (now, keep_alive) = (Instant::now(), Duration::from_secs(4));
        (conn.opened, conn.idle_since) = (now, now);
        assert!(!conn.is_stale(now, keep_alive) && conn.is_stale(now + keep_alive, keep_alive));
        // However often it is used.
        conn.idle_since = now + MAX_AGE;
        assert!(conn.is_stale(now + MAX_AGE, keep_alive));
        assert!(!conn.is_stale(now + MAX_AGE - Duration::from_secs(1), keep_alive));
    }
}
