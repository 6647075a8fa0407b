//! One connection to an upstream, lent to one exchange at a time.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
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
use super::connector::EndpointIndex;
use super::head_scanner::ResponseHeadScanner;
use super::interim::OnInterim;
use super::io::UpstreamIo;
use super::permits::CountGuard;
use super::request_body::{Phase, Progress, RequestBody};
use super::task_waker::TaskWaker;
use super::tunnel::Upgraded;
use crate::budget::Ledger;
use crate::lazy_timer::LazyTimer;

/// The most bytes of an answer's head, and of what is buffered of its body.
const MAX_BUFFER: usize = 128 << 10;
/// How old a connection becomes before it serves nobody new: then the name is looked up again.
const MAX_AGE: Duration = Duration::from_secs(300);

/// How long an exchange may wait for the other side.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResponseDeadlines {
    pub(super) first_byte: Duration,
    pub(super) body_idle: Duration,
}

/// A connection with the two halves that hyper makes of it. Whoever holds it polls it.
pub(super) struct Conn {
    sender: SendRequest<RequestBody>,
    connection: http1::Connection<TokioIo<UpstreamIo>, RequestBody>,
    pub(super) timer: LazyTimer,
    pub(super) bell: TaskWaker,
    /// The connection's future has completed and must not be polled again.
    ended: bool,
    ear: Rc<ResponseHeadScanner>,
    /// How much may be read at once.
    most: Rc<Cell<usize>>,
    /// The connection serves no second exchange.
    last: bool,
    /// Whom it serves now.
    tenancy: Option<CountGuard>,
    born: Instant,
    rested: Instant,
    /// Where it leads to.
    pub(super) at: EndpointIndex,
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// Why a request had no answer, as far as it matters for sending it again.
pub(super) enum SendError {
    /// Nothing of it was written.
    Unsent(Box<Request<RequestBody>>),
    /// The connection broke before the first byte of an answer.
    Lost(hyper::Error),
    /// The same, while the client's body was waited for: whoever hangs up on a client that dawdles is well.
    HungUp(hyper::Error),
    /// It may not be sent again.
    Failed(Error),
}

impl Conn {
    /// Speaks HTTP over a connection. A link is boxed: it is moved many times in its life.
    pub(super) async fn new(wire: UpstreamIo, at: EndpointIndex, tenancy: CountGuard) -> hyper::Result<Box<Self>> {
        let (ear, most) = (wire.ear(), wire.most());
        let (sender, connection) = http1::Builder::new().max_buf_size(MAX_BUFFER).handshake(TokioIo::new(wire)).await?;
        Ok(Box::new(Self {
            sender,
            connection,
            timer: LazyTimer::default(),
            bell: TaskWaker::new(),
            ended: false,
            ear,
            most,
            last: false,
            tenancy: Some(tenancy),
            born: Instant::now(),
            rested: Instant::now(),
            at,
        }))
    }

    /// Sends a request and waits for the head of its answer. The hearer is told of interim ones before.
    pub(super) async fn send(
        mut self: Box<Self>,
        request: Request<RequestBody>,
        deadlines: ResponseDeadlines,
        hearer: OnInterim<'_>,
    ) -> Result<(Response<Incoming>, Box<Self>), SendError> {
        let progress = request.body().progress();
        self.ear.expect(hearer.is_some());
        let sent = Instant::now();
        let answer = {
            let mut answer = pin!(self.sender.try_send_request(request));
            let (connection, bell, timer, ended) = (&mut self.connection, &self.bell, &mut self.timer, &mut self.ended);
            let interims = self.ear.interims();
            poll_fn(|cx| {
                // The connection first: it writes the request, and reads the answer into the channel that `answer` empties.
                // Nothing else fills that channel, so it needs no waker of its own.
                if !*ended {
                    *ended = connection.poll_without_shutdown(&mut bell.context(cx)).is_ready();
                }
                let polled = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                // What only looks like an interim answer is not one.
                if !matches!(&polled, Poll::Ready(Err(error)) if error.error().is_parse()) {
                    interims.tell(hearer);
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
                Some(request) => SendError::Unsent(Box::new(request)),
                None => self.failure(error.into_error(), progress.as_deref()),
            }),
            Err(late) => Err(SendError::Failed(late)),
        }
    }

    /// Lets the connection work: sends what is left of a body, receives what is there.
    pub(super) fn poll(&mut self, cx: &Context<'_>) {
        if !self.ended {
            self.ended = self.connection.poll_without_shutdown(&mut self.bell.context(cx)).is_ready();
        }
    }

    /// Lets at most so many bytes be read at once from now on.
    pub(super) fn read_at_most(&self, bytes: usize) {
        self.most.set(bytes);
    }

    /// Tells whether the connection is over.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Tells whether both sides of the last exchange have ended, so that a new one may begin.
    pub(super) fn is_free(&mut self) -> bool {
        if !self.sender.is_ready() {
            self.poll(&Context::from_waker(Waker::noop()));
        }
        !self.last && !self.ended && self.sender.is_ready()
    }

    /// Notes that the connection shall not serve another exchange.
    pub(super) const fn retire(&mut self) {
        self.last = true;
    }

    /// Tells whether an idle connection still stands and has said nothing that nobody asked for.
    pub(super) fn is_alive(&mut self) -> bool {
        self.poll(&Context::from_waker(Waker::noop()));
        !self.ended && self.sender.is_ready()
    }

    /// Tells whether a connection that serves one client still serves it.
    pub(super) fn is_at_hand(&mut self) -> bool {
        !self.last && self.is_alive()
    }

    /// Returns how long the connection has rested.
    pub(super) fn rests_for(&self, now: Instant) -> Duration {
        now.duration_since(self.rested)
    }

    /// Begins to serve somebody.
    pub(super) fn serve(&mut self, tenancy: CountGuard) {
        self.tenancy = Some(tenancy);
    }

    /// Ends its service: nobody has it until it is taken again.
    pub(super) const fn leave(&mut self) -> Option<CountGuard> {
        self.tenancy.take()
    }

    pub(super) fn rest(&mut self) {
        self.rested = Instant::now();
    }

    pub(super) fn is_stale(&self, now: Instant, keep_alive: Duration) -> bool {
        now.duration_since(self.rested) >= keep_alive || now.duration_since(self.born) >= MAX_AGE
    }

    fn failure(&self, error: hyper::Error, progress: Option<&Progress>) -> SendError {
        if progress.is_some_and(|progress| progress.phase.get() == Phase::Failed) {
            return SendError::Failed(Error::ClientGone);
        }
        // An upstream that has begun to answer has acted on the request.
        if self.ear.has_heard() {
            return SendError::Failed(Error::Broken(error));
        }
        match progress.map(|progress| progress.phase.get()) {
            Some(Phase::Reading) => SendError::HungUp(error),
            Some(Phase::Writing | Phase::Done | Phase::Failed) | None => SendError::Lost(error),
        }
    }

    /// Takes the bare connection, and what came behind the upstream's 101.
    pub(super) fn into_far(self, ledger: Option<Arc<Ledger>>) -> Upgraded {
        let parts = self.connection.into_parts();
        Upgraded { wire: parts.io.into_inner(), early: parts.read_buf, ledger, _tenancy: self.tenancy }
    }
}

/// When the wait for an answer ends, and what it means then.
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

    #[tokio::test]
    async fn a_connection_grows_old_by_resting_and_by_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (slot, tenancy) = ConnectionPermits::new(1, 0).take(&Requester::Gate, Instant::now()).await.unwrap();
        let wire = UpstreamIo::new(Transport::Plain(stream), slot, crate::descriptors::acquire_for_upstream().unwrap());
        let mut link = Conn::new(wire, EndpointIndex::default(), tenancy).await.unwrap();
        let (now, keep_alive) = (Instant::now(), Duration::from_secs(4));
        (link.born, link.rested) = (now, now);
        assert!(!link.is_stale(now, keep_alive) && link.is_stale(now + keep_alive, keep_alive));
        // However often it is used.
        link.rested = now + MAX_AGE;
        assert!(link.is_stale(now + MAX_AGE, keep_alive));
        assert!(!link.is_stale(now + MAX_AGE - Duration::from_secs(1), keep_alive));
    }
}
