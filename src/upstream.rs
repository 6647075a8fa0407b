//! Floor 3: every byte that goes to an upstream passes here.
//!
//! An [`Upstream`] belongs to one worker thread. It opens connections, keeps idle ones, and lends each to one exchange
//! at a time. The task of the exchange polls the connection's future itself, so no data moves from task to task.

mod bound_connections;
mod choice;
mod conn;
mod connector;
mod endpoint;
mod error;
mod fetch;
mod health;
mod http1;
mod idle;
mod io;
mod lookup;
mod outbound;
mod passthrough_target;
mod permits;
mod request_body;
mod response_body;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use self::bound_connections::BoundConnections;
use self::bound_connections::{Binding, Lease};
use self::choice::{EndpointChoice, EndpointIndex, ExchangeCounts};
use self::conn::{AttemptError, Conn, ResponseDeadlines};
pub(crate) use self::connector::{Connector, EndpointProbe, EndpointReport};
pub(crate) use self::error::{ConnectError, Error};
pub(crate) use self::fetch::{FetchError, Fetcher, fetch_plain, send_once};
pub(crate) use self::http1::{Interim, OnInterim};
use self::idle::IdleConns;
pub(crate) use self::lookup::start as start_lookups;
pub(crate) use self::passthrough_target::PassthroughTarget;
pub(crate) use self::permits::Requester;
pub(crate) use self::request_body::{Meter, RequestBody};
pub(crate) use self::response_body::{BodyError, ResponseBody};
pub(crate) use self::tunnel::{TunnelBytes, TunnelTimeouts, Upgraded, copy_bidirectional, set_tcp_keepalive};
use crate::budget::Ledger;
use crate::config::UpstreamTimeouts;
use crate::message::authentication;
use crate::message::framing;
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::{ConnectResult, ConnectionUse, Tally, UpstreamFault};

/// One upstream as one worker sees it: its endpoints, its deadlines and its idle connections.
#[derive(Debug)]
pub(crate) struct Upstream {
    connector: Connector,
    deadlines: ResponseDeadlines,
    keep_alive: Duration,
    name: UpstreamName,
    tally: Tally,
    /// The idle connections to each endpoint.
    idle: Box<[IdleConns]>,
    /// The connections that are each bound to a connection of a client.
    bound: RefCell<Vec<Weak<Binding>>>,
    retired: Cell<bool>,
    /// Attempts to connect to endpoints that are passed over.
    trials: RefCell<JoinSet<()>>,
}

/// The reason given when connections close before anything was written.
const CLOSED_AT_ONCE: &str = "the connection closed at once";

/// The part of an exchange in credentials that prove a connection instead of a request (NTLM, Negotiate).
struct ConnectionAuth {
    /// The request carries such credentials.
    is_shown: bool,
    /// The right to the upstream connection that is bound to the client's.
    lease: Option<Lease>,
}

impl ConnectionAuth {
    fn of(request: &Request<RequestBody>) -> Self {
        Self { is_shown: authentication::proves_connection(request.headers()), lease: None }
    }
}

/// What a request is sent over.
enum Carrier {
    /// A connection that is open already.
    Open(Box<Conn>),
    /// A new connection, to the chosen endpoint if that can be reached.
    New(EndpointChoice),
}

/// For whom a request is sent. The default is callgate itself.
#[derive(Default)]
pub(crate) struct SendContext<'c> {
    /// Whose share of the connections is used.
    pub requester: Requester,
    /// Counts the bytes of the answer that wait for the client.
    pub ledger: Option<Arc<Ledger>>,
    /// Receives interim answers as they arrive.
    pub on_interim: OnInterim<'c>,
    /// The connections that are bound to the client's. Without them no connection can be bound to it.
    pub bound: Option<&'c BoundConnections>,
    /// Receives the time at which the request was sent that is answered.
    pub sent: Option<&'c Cell<Option<Instant>>>,
    /// Fields that are written behind those of the request. They do not frame its body.
    pub added: &'c [(HeaderName, HeaderValue)],
}

/// The answer of an upstream.
#[derive(Debug)]
pub(crate) enum UpstreamResponse {
    /// A final response (RFC 9110 §15) whose body is still to come.
    Final(Response<ResponseBody>),
    /// The upstream agreed to leave HTTP: the head of its 101, and the connection.
    Upgraded(Response<()>, Upgraded),
}

impl UpstreamResponse {
    /// Returns the status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Final(response) => response.status(),
            Self::Upgraded(head, _) => head.status(),
        }
    }
}

impl Upstream {
    /// Makes an upstream without any connection yet. `body_idle` is the longest pause within a body, either way.
    #[must_use]
    pub(crate) fn new(
        connector: Connector,
        timeouts: UpstreamTimeouts,
        body_idle: Duration,
        name: UpstreamName,
        tally: &Tally,
    ) -> Rc<Self> {
        let idle = (0..connector.count()).map(|_| IdleConns::new(connector.permits().idle_count())).collect();
        Rc::new(Self {
            connector,
            deadlines: ResponseDeadlines { first_byte: timeouts.first_byte, body_idle },
            keep_alive: timeouts.keep_alive,
            name,
            tally: tally.clone(),
            idle,
            bound: RefCell::default(),
            retired: Cell::default(),
            trials: RefCell::default(),
        })
    }

    /// Sends a request for callgate itself, over an idle connection if there is one, and returns the answer once its
    /// head has arrived.
    ///
    /// The request is sent a second time, on a new connection, only if nothing of it was written, or if the method is
    /// idempotent, there is no body, the connection was a reused one and no byte of an answer came
    /// (RFC 9110 §9.2.2, RFC 9112 §9.3.1).
    ///
    /// # Errors
    /// When there is no connection, no answer in time, or no valid HTTP.
    pub(crate) fn send(
        self: &Rc<Self>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<UpstreamResponse, Error>> {
        self.send_over(self.checkout(&Requester::Gate), ConnectionAuth::of(&request), request, SendContext::default())
    }

    /// Sends a request as [`Upstream::send`], but for a client.
    ///
    /// A request whose credentials prove a connection goes over the connection that is bound to the client's. No other
    /// client uses that connection. If there is no client to bind it to, it serves this exchange only.
    ///
    /// # Errors
    /// As [`Upstream::send`].
    pub(crate) async fn send_for(
        self: &Rc<Self>,
        context: SendContext<'_>,
        request: Request<RequestBody>,
    ) -> Result<UpstreamResponse, Error> {
        let mut auth = ConnectionAuth::of(&request);
        auth.lease = match context.bound {
            Some(bound) if auth.is_shown => {
                let due = Instant::now() + self.connector.deadline();
                Some(Box::pin(bound.lease(self, due)).await.ok_or(Error::BoundConnectionBusy)?)
            }
            Some(bound) if !bound.is_empty() => bound.lease_existing(self),
            Some(_) | None => None,
        };
        let carrier = match auth.lease.as_ref().and_then(Lease::take) {
            Some(mut conn) => {
                conn.set_under_way(self.connector.begin_exchange(conn.endpoint));
                Carrier::Open(conn)
            }
            None => self.checkout(&context.requester),
        };
        self.send_over(carrier, auth, request, context).await
    }

    /// Sends a request once, over a new connection. If it has no `Host`, it gets that of the endpoint's `url`.
    ///
    /// # Errors
    /// As [`Upstream::send`].
    pub(crate) fn send_fresh(
        self: &Rc<Self>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<UpstreamResponse, Error>> {
        self.send_over(
            Carrier::New(self.connector.choose()),
            ConnectionAuth::of(&request),
            request,
            SendContext::default(),
        )
    }

    async fn send_over(
        self: &Rc<Self>,
        mut carrier: Carrier,
        auth: ConnectionAuth,
        mut request: Request<RequestBody>,
        context: SendContext<'_>,
    ) -> Result<UpstreamResponse, Error> {
        let (mut lacks_host, mut closed_at_once) = (false, false);
        loop {
            let is_fresh = matches!(carrier, Carrier::New(_));
            let may_repeat = !is_fresh && is_repeatable(&request);
            let mut conn = match carrier {
                Carrier::Open(conn) => conn,
                // Boxed: connecting is rare, and its future is large.
                Carrier::New(choice) => Box::pin(self.connect(&context.requester, choice)).await?,
            };
            let endpoint = conn.endpoint;
            conn.set_read_limit(context.ledger.as_ref().map_or(usize::MAX, |ledger| ledger.read_limit()));
            if is_fresh && (lacks_host || !request.headers().contains_key(header::HOST)) {
                lacks_host = true;
                request.headers_mut().insert(header::HOST, self.connector.host(endpoint));
            }
            self.tally.request(self.name, if is_fresh { ConnectionUse::New } else { ConnectionUse::Reused });
            match conn.send(&mut request, self.deadlines, &context).await {
                Ok((head, conn)) => return self.receive(head, conn, auth, context),
                Err(AttemptError::Unsent) if !is_fresh => {}
                Err(AttemptError::Lost(_)) if may_repeat => {}
                Err(AttemptError::Unsent) if !closed_at_once && self.connector.closed_at_once(endpoint) => {
                    closed_at_once = true;
                }
                Err(error) => return Err(self.give_up(endpoint, error)),
            }
            carrier = Carrier::New(self.connector.choose_again(endpoint));
            self.tally.retry(self.name);
        }
    }

    async fn connect(&self, requester: &Requester, choice: EndpointChoice) -> Result<Box<Conn>, Error> {
        let connected = self.connector.connect(requester, choice).await;
        self.tally.connect(self.name, connected.as_ref().map_or_else(Error::connect_result, |_| ConnectResult::Ok));
        let (io, endpoint, counts) = connected?;
        Ok(Conn::new(io, endpoint, counts))
    }

    // === Failures ===

    /// Returns why a request is not sent again.
    fn give_up(&self, endpoint: EndpointIndex, error: AttemptError) -> Error {
        match error {
            AttemptError::Unsent => self.count(Error::BadResponse(CLOSED_AT_ONCE)),
            AttemptError::HungUp(error) => self.count(Error::Broken(error)),
            AttemptError::Lost(error) => self.blame(endpoint, Error::Broken(error)),
            AttemptError::Failed(error) => self.blame(endpoint, error),
        }
    }

    /// Counts an error, and counts it against the health of the endpoint if that caused it.
    fn blame(&self, endpoint: EndpointIndex, error: Error) -> Error {
        match &error {
            Error::Broken(_) | Error::BadResponse(_) | Error::AmbiguousResponse(_) | Error::Timeout => {
                self.connector.broke(endpoint, &error);
            }
            Error::Connect { .. }
            | Error::Full
            | Error::BoundConnectionBusy
            | Error::ClientStalled
            | Error::ClientGone => {}
        }
        self.count(error)
    }

    /// Counts an error, and returns it.
    fn count(&self, error: Error) -> Error {
        let fault = match &error {
            // Counted as attempts to connect, or not at all.
            Error::Connect { .. } | Error::Full | Error::BoundConnectionBusy => return error,
            Error::Timeout => UpstreamFault::Timeout,
            Error::Broken(_) => UpstreamFault::Broken,
            Error::BadResponse(_) | Error::AmbiguousResponse(_) => UpstreamFault::BadResponse,
            Error::ClientStalled | Error::ClientGone => UpstreamFault::Client,
        };
        self.tally.fault(self.name, fault);
        error
    }

    // === Answers ===

    fn receive(
        self: &Rc<Self>,
        response: Response<()>,
        mut conn: Box<Conn>,
        auth: ConnectionAuth,
        context: SendContext<'_>,
    ) -> Result<UpstreamResponse, Error> {
        let (mut head, ()) = response.into_parts();
        if let Some(sent) = context.sent {
            sent.set(Some(conn.sent_at()));
        }
        let ConnectionAuth { is_shown, mut lease } = auth;
        if lease.is_none() && (is_shown || authentication::asks_connection(&head.headers)) {
            lease = context.bound.and_then(|bound| bound.bind(self));
            if lease.is_none() {
                conn.retire();
            }
        }
        framing::normalize_answer(&mut head).map_err(|unclear| self.blame(conn.endpoint, unclear.into()))?;
        self.connector.answered(conn.endpoint);
        conn.begin_body(&head).map_err(|error| self.blame(conn.endpoint, Error::Broken(error)))?;
        // hyper would otherwise speak HTTP/1.0 to the client.
        head.version = Version::HTTP_11;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = conn.into_upgraded(context.ledger);
            return Ok(UpstreamResponse::Upgraded(Response::from_parts(head, ()), upgraded));
        }
        let body = ResponseBody::new(conn, Rc::clone(self), lease);
        Ok(UpstreamResponse::Final(Response::from_parts(head, body)))
    }

    // === Idle connections ===

    /// Chooses the endpoint of an exchange, and takes an idle connection to it, if the requester may have one.
    fn checkout(&self, requester: &Requester) -> Carrier {
        let choice = self.connector.choose();
        let idle = match choice.is_last_resort {
            false => slice::from_ref(&self.idle[choice.index.0]),
            true => &self.idle,
        };
        if idle.iter().all(IdleConns::is_empty) {
            self.make_room();
            return Carrier::New(choice);
        }
        let Some(usage) = self.connector.permits().reuse(requester) else { return Carrier::New(choice) };
        let now = Instant::now();
        let is_usable = |conn: &mut Conn| !conn.is_stale(now, self.keep_alive) && conn.is_alive();
        let Some(mut conn) = idle.iter().find_map(|idle| idle.take(is_usable)) else {
            self.make_room();
            return Carrier::New(choice);
        };
        let under_way = self.connector.settle(choice, conn.endpoint);
        conn.begin_exchange(ExchangeCounts { _usage: Some(usage), under_way });
        Carrier::Open(conn)
    }

    /// Closes an idle connection to another endpoint, if a new one could not be opened beside it.
    fn make_room(&self) {
        if self.idle.len() > 1 && self.connector.permits().are_used_up() {
            self.idle.iter().any(IdleConns::close_oldest);
        }
    }

    /// Takes back a connection from an exchange.
    fn checkin(&self, mut conn: Box<Conn>) {
        // Dropped last: a request that waits for a connection then sees this one among the idle.
        let _counts = conn.end_exchange();
        conn.mark_idle();
        if !self.retired.get() && !self.connector.lacks_idle() {
            self.idle[conn.endpoint.0].put(conn);
        }
    }

    /// Takes back a connection that is bound to one of a client.
    fn checkin_bound(&self, mut conn: Box<Conn>, lease: Lease) {
        conn.set_under_way(None);
        if !self.retired.get() {
            lease.give_back(conn);
        }
    }

    /// Closes the connections that have been idle for too long or whose place is needed, and tries endpoints again that
    /// are passed over.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let keeps = !self.connector.lacks_idle();
        for idle in &self.idle {
            idle.retain(|conn| keeps && !conn.is_stale(now, self.keep_alive));
        }
        let is_full = self.connector.is_full();
        self.bound.borrow_mut().retain(|binding| {
            let binding = binding.upgrade();
            if let Some(binding) = &binding {
                binding.sweep(now, is_full);
            }
            binding.is_some()
        });
        let mut trials = self.trials.borrow_mut();
        while trials.try_join_next().is_some() {}
        while let Some(endpoint) = self.connector.claim() {
            trials.spawn(self.connector.clone().try_again(endpoint));
        }
    }

    /// Closes the idle connections, and from now on each connection that an exchange gives back: this upstream gets no
    /// more exchanges.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.idle.iter().for_each(|idle| idle.retain(|_| false));
        for binding in self.bound.take().iter().filter_map(Weak::upgrade) {
            binding.close();
        }
    }
}

fn is_repeatable(request: &Request<RequestBody>) -> bool {
    let idempotent =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
    idempotent && matches!(request.body(), RequestBody::Empty)
}

/// Makes a request to an upstream.
#[must_use]
pub(crate) fn request(method: Method, uri: Uri, headers: HeaderMap, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

#[cfg(test)]
mod tests;
