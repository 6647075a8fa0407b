//! One connection to an upstream, lent to one exchange at a time.

use std::future::poll_fn;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::choice::{EndpointIndex, ExchangeCounts, UnderWay};
use super::http1::{Http1, Http1Error};
use super::io::UpstreamIo;
use super::request_body::{Phase, Progress, RequestBody};
use super::tunnel::Upgraded;
use super::{Error, SendContext};
use crate::budget::Ledger;
use crate::lazy_timer::LazyTimer;

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

/// A connection. The exchange that uses it polls it.
#[derive(Debug)]
pub(super) struct Conn {
    http: Http1,
    pub(super) timer: LazyTimer,
    /// The connection serves no further exchange.
    is_retired: bool,
    /// What the exchange that it serves now counts as.
    counts: ExchangeCounts,
    /// The upload of that exchange.
    upload: Option<Rc<Progress>>,
    opened: Instant,
    /// When the last request was sent.
    sent: Instant,
    /// When the last exchange ended.
    idle_since: Instant,
    pub(super) endpoint: EndpointIndex,
}

/// Why a request had no answer, and whether it may be sent again.
pub(super) enum AttemptError {
    /// Nothing of it was written, and its body was not taken.
    Unsent,
    /// The connection broke before the first byte of an answer.
    Lost(Http1Error),
    /// The same while callgate waited for more of the client's body. The upstream closed during a slow upload; this
    /// does not count against its health.
    HungUp(Http1Error),
    /// It may not be sent again.
    Failed(Error),
}

impl Conn {
    /// Starts HTTP/1.1 on a connection. It is boxed, since it moves many times in its life.
    pub(super) fn new(io: UpstreamIo, endpoint: EndpointIndex, counts: ExchangeCounts) -> Box<Self> {
        let now = Instant::now();
        Box::new(Self {
            http: Http1::new(io),
            timer: LazyTimer::default(),
            is_retired: false,
            counts,
            upload: None,
            opened: now,
            sent: now,
            idle_since: now,
            endpoint,
        })
    }

    /// Sends a request and waits for the head of its answer. Interim answers are passed on before. The body of the
    /// request is taken, its head is left.
    pub(super) async fn send(
        mut self: Box<Self>,
        request: &mut Request<RequestBody>,
        deadlines: ResponseDeadlines,
        context: &SendContext<'_>,
    ) -> Result<(Response<()>, Box<Self>), AttemptError> {
        if !self.http.is_open() {
            return Err(AttemptError::Unsent);
        }
        self.upload = request.body().progress();
        self.http.begin(request, context.added);
        let sent = Instant::now();
        self.sent = sent;
        let answer = {
            let Self { http, timer, upload, .. } = &mut *self;
            poll_fn(|cx| {
                if let Poll::Ready(answer) = http.poll_head(cx, context.on_interim) {
                    return Poll::Ready(Ok(answer));
                }
                let (due, late) = due(sent, upload.as_deref(), deadlines);
                timer.poll(cx, due).map(|()| Err(late))
            })
            .await
        };
        match answer {
            Ok(Ok(head)) => Ok((head, self)),
            Ok(Err(error)) => Err(self.failure(error)),
            Err(late) => Err(AttemptError::Failed(late)),
        }
    }

    /// Prepares to read the body that follows a head.
    ///
    /// # Errors
    /// When the head does not say where the body ends.
    pub(super) fn begin_body(&mut self, head: &response::Parts) -> Result<(), Http1Error> {
        self.http.begin_body(head)
    }

    /// Sends what is left of a request, and reads the next frame of the body.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        self.http.poll_body(cx)
    }

    /// Returns when the upload last moved, if there is one.
    pub(super) fn upload_moved(&self) -> Option<Instant> {
        self.upload.as_ref().map(|upload| upload.since.get())
    }

    /// Tells whether the whole body of the answer has been read.
    pub(super) const fn has_whole_body(&self) -> bool {
        self.http.has_whole_body()
    }

    /// Returns what is known about the length of the body that is left.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.http.size_hint()
    }

    /// Returns when the last request was sent.
    pub(super) const fn sent_at(&self) -> Instant {
        self.sent
    }

    /// Sets the most bytes that one read returns from now on.
    pub(super) fn set_read_limit(&mut self, bytes: usize) {
        self.http.set_read_limit(bytes);
    }

    /// Tells whether both directions of the last exchange have ended, so that a new one may begin.
    pub(super) fn is_free(&mut self) -> bool {
        !self.is_retired && self.http.is_free()
    }

    /// Makes the current exchange the last one of the connection.
    pub(super) const fn retire(&mut self) {
        self.is_retired = true;
    }

    /// Tells whether an idle connection is still open and has received nothing unasked.
    pub(super) fn is_alive(&mut self) -> bool {
        self.http.is_open()
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
        self.upload = None;
        self.idle_since = Instant::now();
        self.http.rest();
    }

    /// Tells whether the connection has been idle or open for too long.
    pub(super) fn is_stale(&self, now: Instant, keep_alive: Duration) -> bool {
        now.duration_since(self.idle_since) >= keep_alive || now.duration_since(self.opened) >= MAX_AGE
    }

    fn failure(&self, error: Http1Error) -> AttemptError {
        if matches!(error, Http1Error::Client) {
            return AttemptError::Failed(Error::ClientGone);
        }
        // An upstream that has begun to answer has acted on the request.
        if self.http.has_begun() {
            return AttemptError::Failed(Error::Broken(error));
        }
        match self.upload.as_ref().map(|upload| upload.phase.get()) {
            Some(Phase::Reading) => AttemptError::HungUp(error),
            Some(Phase::Writing | Phase::Done | Phase::Failed) | None => AttemptError::Lost(error),
        }
    }

    /// Takes the byte stream out of HTTP, with the bytes that followed the upstream's 101.
    pub(super) fn into_upgraded(self, ledger: Option<Arc<Ledger>>) -> Upgraded {
        let (io, early) = self.http.into_parts();
        Upgraded { io, early, ledger, counts: self.counts }
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
        let mut conn = Conn::new(io, EndpointIndex::default(), counts);
        let (now, keep_alive) = (Instant::now(), Duration::from_secs(4));
        (conn.opened, conn.idle_since) = (now, now);
        assert!(!conn.is_stale(now, keep_alive) && conn.is_stale(now + keep_alive, keep_alive));
        // However often it is used.
        conn.idle_since = now + MAX_AGE;
        assert!(conn.is_stale(now + MAX_AGE, keep_alive));
        assert!(!conn.is_stale(now + MAX_AGE - Duration::from_secs(1), keep_alive));
    }
}
