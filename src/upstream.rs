//! Floor 3: every byte that goes to an upstream goes through here.
//!
//! One [`Upstream`] belongs to one worker thread. It keeps idle connections, opens new ones, and lends each to one
//! exchange at a time: the connection's own future is polled inside the exchange's task, so nothing is handed between tasks.

mod bound_connections;
mod conn;
mod connector;
mod endpoint;
mod fetch;
mod head_scanner;
mod health;
mod interim;
mod io;
mod lookup;
mod permits;
mod request_body;
mod response_body;
mod task_waker;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::bound_connections::BoundConnections;
use self::bound_connections::{Binding, Lease};
use self::conn::{Conn, ResponseDeadlines, SendError};
use self::connector::EndpointIndex;
pub use self::connector::{ConnectError, Connector, EndpointProbe};
pub use self::fetch::{FetchError, Fetcher, send_once};
pub use self::interim::{Interim, OnInterim};
pub use self::permits::Requester;
pub use self::request_body::{Meter, RequestBody};
pub use self::response_body::{BodyError, ResponseBody};
pub use self::tunnel::{TunnelBytes, TunnelTimeouts, Upgraded, copy_bidirectional, set_tcp_keepalive};
use crate::budget::Ledger;
use crate::config::UpstreamTimeouts;
use crate::message::authentication;
use crate::message::framing::{self, Unclear};
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::{ConnectResult, ConnectionUse, Tally, UpstreamFault};

/// Starts a thread that looks up names, so that a system that gives no more of them later still finds upstreams.
///
/// # Errors
/// When it cannot be started.
pub fn start_lookups() -> std::io::Result<()> {
    lookup::start()
}

/// How many idle connections one worker keeps to one upstream.
const MAX_IDLE: usize = 1024;

/// One upstream as one worker sees it: where it is, how long it may take, and its idle connections.
#[derive(Debug)]
pub struct Upstream {
    connector: Connector,
    first_byte: Duration,
    body_idle: Duration,
    keep_alive: Duration,
    side: UpstreamName,
    tally: Tally,
    /// Those used last are at the end and go out first, so that the others grow old and are closed.
    #[expect(clippy::vec_box, reason = "a link is large, and moved from here to an exchange and back many times")]
    idle: RefCell<Vec<Box<Conn>>>,
    /// How many they are, as all workers see it.
    resting: Arc<AtomicUsize>,
    /// The connections that are bound to one of a client.
    bound: RefCell<Vec<Weak<Binding>>>,
    retired: Cell<bool>,
    /// Places that are tried again just now.
    trials: RefCell<JoinSet<()>>,
}

/// What is answered for a connection that ends before anything was written.
const SLAMMED: &str = "the connection closed at once";

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("cannot connect to {to}")]
    Connect {
        /// The place that was tried last.
        to: Arc<str>,
        /// Why not.
        source: ConnectError,
    },
    /// As many connections as there may be, and none became free in time.
    #[error("as many connections as max_connections permits")]
    Full,
    /// The connection that the credentials of the request prove is another exchange's, and did not become free in time.
    #[error("the connection that these credentials prove is busy")]
    Taken,
    /// The connection broke, or what came was not HTTP.
    #[error("no valid answer")]
    Broken(#[source] hyper::Error),
    /// The answer broke a rule that its framing or meaning depends on.
    #[error("the answer is not to be trusted: {0}")]
    Nonsense(&'static str),
    /// The answer can be read in two ways.
    #[error("the answer is not to be trusted")]
    Unclear(#[from] Unclear),
    /// No first byte of the answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The client's body paused for too long.
    #[error("the request body paused too long")]
    ClientStalled,
    /// The client's body broke off or was malformed.
    #[error("the request body broke off")]
    ClientGone,
}

/// What an exchange has to do with credentials that prove a connection.
struct ConnectionAuth {
    /// Its request shows some.
    is_shown: bool,
    /// The right to the connection that is bound to its client's.
    lease: Option<Lease>,
}

impl ConnectionAuth {
    fn of(request: &Request<RequestBody>) -> Self {
        Self { is_shown: authentication::proves_connection(request.headers()), lease: None }
    }
}

/// For whom a request is sent: by default for the gate itself.
#[derive(Default)]
pub struct SendContext<'c> {
    /// Whom the connection serves.
    pub requester: Requester,
    /// Where it is counted what waits of the answer.
    pub ledger: Option<Arc<Ledger>>,
    /// Who is told of interim answers.
    pub on_interim: OnInterim<'c>,
    /// The connections that are bound to the client's; none: nothing can be bound to it.
    pub bound: Option<&'c BoundConnections>,
}

/// The answer of an upstream.
#[derive(Debug)]
pub enum UpstreamResponse {
    /// A response whose body is still to come.
    Final(Response<ResponseBody>),
    /// The upstream agreed to leave HTTP: the head of its 101, and the connection.
    Upgraded(Response<()>, Upgraded),
}

impl Upstream {
    /// Makes an upstream without any connection yet. `body_idle` is the longest pause within a body, either way.
    #[must_use]
    pub fn new(
        connector: Connector,
        timeouts: UpstreamTimeouts,
        body_idle: Duration,
        side: UpstreamName,
        tally: &Tally,
    ) -> Rc<Self> {
        let resting = connector.slots().idle();
        let (first_byte, keep_alive) = (timeouts.first_byte, timeouts.keep_alive);
        Rc::new(Self {
            connector,
            first_byte,
            body_idle,
            keep_alive,
            side,
            tally: tally.clone(),
            idle: RefCell::default(),
            bound: RefCell::default(),
            resting,
            retired: Cell::default(),
            trials: RefCell::default(),
        })
    }

    /// Sends a request, over an idle connection if there is one, and returns the answer as soon as its head is here.
    ///
    /// It is sent a second time, on a new connection, only when nothing of it was written, or when the method is
    /// idempotent, there is no body, the connection was a reused one and no byte of an answer came (RFC 9110 §9.2.2, RFC 9112 §9.3.1).
    ///
    /// # Errors
    /// When there is no connection, no answer in time, or none that is valid HTTP.
    pub fn send(
        self: &Rc<Self>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<UpstreamResponse, Error>> {
        self.send_over(self.checkout(&Requester::Gate), ConnectionAuth::of(&request), request, SendContext::default())
    }

    /// Sends a request of a client as [`Upstream::send`], and tells it of interim answers as they come.
    ///
    /// Where credentials prove a connection and not a request, it goes over the connection that is bound to the client's,
    /// and such a connection serves nobody else: without a client that it could be bound to, it ends.
    ///
    /// # Errors
    /// As [`Upstream::send`].
    pub async fn send_for(
        self: &Rc<Self>,
        client: SendContext<'_>,
        request: Request<RequestBody>,
    ) -> Result<UpstreamResponse, Error> {
        let mut proof = ConnectionAuth::of(&request);
        proof.lease = match client.bound {
            Some(bound) if proof.is_shown => {
                let due = Instant::now() + self.connector.deadline();
                Some(Box::pin(bound.lease(self, due)).await.ok_or(Error::Taken)?)
            }
            Some(bound) if !bound.is_empty() => bound.lease_bound(self),
            Some(_) | None => None,
        };
        let link = proof.lease.as_ref().and_then(Lease::take).or_else(|| self.checkout(&client.requester));
        self.send_over(link, proof, request, client).await
    }

    /// Sends a request over a new connection, once. Without a `Host`, it is for that of the `url`.
    ///
    /// # Errors
    /// As [`Upstream::send`].
    pub fn send_fresh(
        self: &Rc<Self>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<UpstreamResponse, Error>> {
        self.send_over(None, ConnectionAuth::of(&request), request, SendContext::default())
    }

    async fn send_over(
        self: &Rc<Self>,
        mut idle: Option<Box<Conn>>,
        proof: ConnectionAuth,
        mut request: Request<RequestBody>,
        client: SendContext<'_>,
    ) -> Result<UpstreamResponse, Error> {
        let (mut nameless, mut slammed) = (false, false);
        loop {
            let reused = idle.take();
            let is_fresh = reused.is_none();
            let again = (!is_fresh && is_repeatable(&request)).then(|| copy(&request));
            let link = match reused {
                Some(link) => link,
                // Boxed: connecting is rare, and its state is large.
                None => Box::pin(self.connect(&client.requester)).await?,
            };
            let at = link.at;
            link.read_at_most(client.ledger.as_ref().map_or(usize::MAX, |ledger| ledger.read_limit()));
            if is_fresh && (nameless || !request.headers().contains_key(header::HOST)) {
                nameless = true;
                request.headers_mut().insert(header::HOST, self.connector.host(at));
            }
            self.tally.request(self.side, if is_fresh { ConnectionUse::New } else { ConnectionUse::Reused });
            request = match (link.send(request, self.deadlines(), client.on_interim).await, again) {
                (Ok((response, link)), _) => return self.answer(response, link, proof, client),
                (Err(SendError::Unsent(request)), _) if !is_fresh => *request,
                (Err(SendError::Lost(_)), Some(again)) => again,
                (Err(SendError::Unsent(request)), _) if !slammed && self.connector.slammed(at) => {
                    slammed = true;
                    *request
                }
                (Err(SendError::Unsent(_)), _) => return Err(self.count(Error::Nonsense(SLAMMED))),
                (Err(SendError::HungUp(error)), _) => return Err(self.count(Error::Broken(error))),
                (Err(SendError::Lost(error)), None) => return Err(self.blame(at, Error::Broken(error))),
                (Err(SendError::Failed(error)), _) => return Err(self.blame(at, error)),
            };
            self.tally.retry(self.side);
        }
    }

    async fn connect(&self, tenant: &Requester) -> Result<Box<Conn>, Error> {
        let connected = self.connector.connect(tenant).await;
        self.tally.connect(
            self.side,
            match &connected {
                Ok(_) => ConnectResult::Ok,
                Err(Error::Connect { source: ConnectError::Timeout, .. }) => ConnectResult::Timeout,
                Err(Error::Full) => ConnectResult::Full,
                Err(_) => ConnectResult::Failed,
            },
        );
        let (wire, at, tenancy) = connected?;
        Conn::new(wire, at, tenancy).await.map_err(Error::Broken)
    }

    /// Notes whose fault it is that there is no answer.
    fn blame(&self, at: EndpointIndex, error: Error) -> Error {
        match &error {
            Error::Broken(_) | Error::Nonsense(_) | Error::Unclear(_) | Error::Timeout => {
                self.connector.broke(at, &error);
            }
            Error::Connect { .. } | Error::Full | Error::Taken | Error::ClientStalled | Error::ClientGone => {}
        }
        self.count(error)
    }

    /// Counts why there is no answer.
    fn count(&self, error: Error) -> Error {
        let fault = match &error {
            // Counted where it was tried.
            Error::Connect { .. } | Error::Full | Error::Taken => return error,
            Error::Timeout => UpstreamFault::Timeout,
            Error::Broken(_) => UpstreamFault::Broken,
            Error::Nonsense(_) | Error::Unclear(_) => UpstreamFault::Nonsense,
            Error::ClientStalled | Error::ClientGone => UpstreamFault::Client,
        };
        self.tally.fault(self.side, fault);
        error
    }

    /// Closes the connections that have been idle for too long or are in the way, and tries places again that were away.
    pub fn sweep(&self) {
        let now = Instant::now();
        let crowded = self.connector.is_crowded();
        self.change_idle(|idle| idle.retain(|link| !crowded && !link.is_stale(now, self.keep_alive)));
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
        while let Some(at) = self.connector.claim() {
            trials.spawn(self.connector.clone().try_again(at));
        }
    }

    /// Closes the idle connections, and from now on each that an exchange gives back: no other exchange will come.
    pub fn retire(&self) {
        self.retired.set(true);
        self.change_idle(Vec::clear);
        for binding in self.bound.take().iter().filter_map(Weak::upgrade) {
            binding.close();
        }
    }

    fn deadlines(&self) -> ResponseDeadlines {
        ResponseDeadlines { first_byte: self.first_byte, body_idle: self.body_idle }
    }

    fn answer(
        self: &Rc<Self>,
        response: Response<Incoming>,
        mut link: Box<Conn>,
        proof: ConnectionAuth,
        client: SendContext<'_>,
    ) -> Result<UpstreamResponse, Error> {
        let (mut head, body) = response.into_parts();
        let ConnectionAuth { is_shown, mut lease } = proof;
        if lease.is_none() && (is_shown || authentication::asks_connection(&head.headers)) {
            lease = client.bound.and_then(|bound| bound.bind(self));
            if lease.is_none() {
                link.retire();
            }
        }
        framing::normalize_answer(&mut head).map_err(|unclear| self.blame(link.at, unclear.into()))?;
        self.connector.answered(link.at);
        if head.version != Version::HTTP_11 {
            // hyper would speak HTTP/1.0 to it from now on, and to the client.
            link.retire();
            head.version = Version::HTTP_11;
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(UpstreamResponse::Upgraded(Response::from_parts(head, ()), link.into_far(client.ledger)));
        }
        Ok(UpstreamResponse::Final(Response::from_parts(head, ResponseBody::new(body, link, Rc::clone(self), lease))))
    }

    /// Takes an idle connection for a tenant that may have it.
    fn checkout(&self, tenant: &Requester) -> Option<Box<Conn>> {
        if self.idle.borrow().is_empty() {
            return None;
        }
        let tenancy = self.connector.slots().reuse(tenant)?;
        let mut link = self.change_idle(|idle| self.take_alive(idle))?;
        link.serve(tenancy);
        Some(link)
    }

    #[expect(clippy::vec_box, reason = "as the field")]
    fn take_alive(&self, idle: &mut Vec<Box<Conn>>) -> Option<Box<Conn>> {
        let now = Instant::now();
        while let Some(mut link) = idle.pop() {
            if !link.is_stale(now, self.keep_alive) && self.connector.is_best(link.at) && link.is_alive() {
                return Some(link);
            }
        }
        None
    }

    fn give_back(&self, link: Box<Conn>, lease: Lease) {
        if !self.retired.get() {
            lease.give_back(link);
        }
    }

    fn checkin(&self, mut link: Box<Conn>) {
        // Dropped last: who waits for one then sees this one rest.
        let _tenancy = link.leave();
        link.rest();
        let keeps = !self.retired.get() && !self.connector.is_crowded();
        self.change_idle(|idle| {
            if keeps && idle.len() < MAX_IDLE {
                idle.push(link);
            }
        });
    }

    fn change_idle<T>(&self, change: impl FnOnce(&mut Vec<Box<Conn>>) -> T) -> T {
        let mut idle = self.idle.borrow_mut();
        let changed = change(&mut idle);
        self.resting.store(idle.len(), Ordering::Relaxed);
        changed
    }
}

fn is_repeatable(request: &Request<RequestBody>) -> bool {
    let idempotent =
        matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
    idempotent && matches!(request.body(), RequestBody::Empty)
}

fn copy(original: &Request<RequestBody>) -> Request<RequestBody> {
    let (method, uri, headers) = (original.method().clone(), original.uri().clone(), original.headers().clone());
    request(method, uri, headers, RequestBody::Empty)
}

/// Makes a request to an upstream.
#[must_use]
pub fn request(method: Method, uri: Uri, headers: HeaderMap, payload: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(payload);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::runtime::LocalOptions;

    use super::*;
    use crate::budget::{Budget, WorkerBudget};
    use crate::config::{self, HostPort, Trust, UpstreamUrl};

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";

    fn upstream_at(port: u16) -> Rc<Upstream> {
        let timeout = Duration::from_secs(10);
        let config = config::UpstreamConfig {
            urls: vec![UpstreamUrl::Http(HostPort { host: "127.0.0.1".into(), port })],
            hosts: Vec::new(),
            paths: Vec::new(),
            trust: Trust::roots(None),
            timeouts: UpstreamTimeouts { connect: timeout, first_byte: timeout, keep_alive: timeout },
            max_connections: 2,
        };
        Upstream::new(
            Connector::new(&config, UpstreamName::App).unwrap(),
            config.timeouts,
            timeout,
            UpstreamName::App,
            &Tally::default(),
        )
    }

    /// Answers the first request of each connection, and closes it at the second.
    async fn serve(listener: TcpListener) {
        let mut byte = [0; 4096];
        for said in [OK.to_owned(), format!("{HINTS}{OK}")] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut byte).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let _ = stream.read(&mut byte).await.unwrap();
        }
    }

    async fn story() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream_at(listener.local_addr().unwrap().port());
        let server = tokio::spawn(serve(listener));
        let heard = RefCell::new(Vec::new());
        let hear = |interim: Interim| {
            heard.borrow_mut().push((interim.status.as_u16(), interim.fields[header::LINK].clone()));
        };
        for _ in 0..2 {
            let request = request(Method::GET, Uri::from_static("/"), HeaderMap::new(), RequestBody::Empty);
            let ledger = WorkerBudget::new(Budget::new(1 << 20)).open(None);
            let tenant = Requester::client(ledger.client_at([192, 0, 2, 1].into()), &ledger);
            let client = SendContext { requester: tenant, on_interim: Some(&hear), ..SendContext::default() };
            let answer = upstream.send_for(client, request).await.unwrap();
            let UpstreamResponse::Final(response) = answer else { panic!("switched") };
            assert_eq!(response.status(), StatusCode::OK);
        }
        assert_eq!(heard.take(), [(103, "</style.css>".parse().unwrap())]);
        drop(upstream);
        server.await.unwrap();
    }

    /// Answers whatever comes, and counts the connections.
    async fn count(listener: TcpListener, connections: Rc<Cell<usize>>) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.set(connections.get() + 1);
            tokio::task::spawn_local(async move {
                let mut bytes = [0; 4096];
                while matches!(stream.read(&mut bytes).await, Ok(1..)) {
                    stream.write_all(OK.as_bytes()).await.unwrap();
                }
            });
        }
    }

    async fn proofs() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream_at(listener.local_addr().unwrap().port());
        let connections = Rc::default();
        tokio::task::spawn_local(count(listener, Rc::clone(&connections)));
        for (credential, expected) in
            [("Basic a", 1), ("Bearer b", 1), ("NTLM c", 1), ("Basic a", 2), ("x, negotiate", 2), ("-", 3)]
        {
            let fields = [(header::AUTHORIZATION, credential.parse().unwrap())].into_iter().collect();
            let request = request(Method::GET, Uri::from_static("/"), fields, RequestBody::Empty);
            assert!(matches!(upstream.send(request).await, Ok(UpstreamResponse::Final(_))));
            assert_eq!(connections.get(), expected, "{credential}");
        }
    }

    #[test]
    fn without_a_client_a_proven_connection_serves_one_exchange() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build_local(LocalOptions::default()).unwrap().block_on(proofs());
    }

    #[test]
    fn interim_answers_are_told_to_who_waits_for_them_on_a_second_try_as_well() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build_local(LocalOptions::default()).unwrap().block_on(story());
    }
}
