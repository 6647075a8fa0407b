//! Floor 6: the path of a request.
//!
//! [`Proxy::handle`] answers a request: the request is identified (its client, its host), classified by its path, and
//! answered in one of four ways. Some paths are ours: `/auth/ott`, `/auth/pbx`, `/auth/pbx/socket`,
//! `/auth/pbx/logout`, `/auth/callgate/…`, and those that `[pbx]` adds. All others belong to an upstream.
//!
//! * `Gate` holds the checks of every login: limits, auth methods, rules, freezes, the audit log.
//! * `Sessions` opens sessions at the PBX. The logins themselves are free functions over both.
//! * `Forward` passes requests on to the upstreams.

mod answer;
mod browser;
mod context;
mod error;
mod explain;
mod forward;
mod gate;
mod hosts;
mod login;
mod shared;

use std::cell::OnceCell;
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::{LocalBoxFuture, ready};
use http::{Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use tokio::time::Instant;

use self::answer::audience::Audience;
use self::answer::client_module::ClientFile;
use self::answer::reader::Reader;
use self::answer::response;
use self::context::{LoginRequest, RequestContext, RequestFindings};
use self::error::Error;
pub(crate) use self::explain::{Explanation, LoginQuestion, Unanswerable};
use self::forward::Forward;
use self::gate::Gate;
use self::hosts::Hosts;
use self::login::auto::{self, VisitOutcome};
use self::login::session::{PbxLogins, Sessions};
use self::login::{app_logout, backchannel, link, logout, oidc, ott, pbx, redirect, socket, ticket};
use self::shared::PbxState;
pub(crate) use self::shared::SharedState;
use crate::auth::Chain;
use crate::config::{Config, PerNode};
use crate::exchange::{Body, ClientConnection, Exchange};
use crate::message::forwarded_chain::{Contradiction, ForwardedChain};
use crate::message::guard::Violation;
use crate::message::hop;
use crate::message::http2;
use crate::message::target;
use crate::message::websocket;
use crate::model::path::{
    BACKCHANNEL_LOGOUT_PATH, CLIENT_MODULE_PATH, CLIENT_TYPES_PATH, CONFIRM_PATH, PAGE_PATH, PathClass, Reserved,
    TICKET_PATH,
};
use crate::observe::Logs;
use crate::observe::metrics::{ExchangeRoute, Tally};
use crate::observe::trace;
use crate::tls::current::CurrentPolicies;
use crate::tls::server::{HostCoverage, TlsPolicies};
use crate::upstream::RequestBody;

/// The value of `Allow` in the answer to any other method.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// One worker's proxy.
pub(crate) struct Proxy {
    gate: Gate,
    /// `None` where callgate opens no sessions.
    sessions: PerNode<Option<Sessions>>,
    pbx: Arc<PbxState>,
    forward: Forward,
}

impl Proxy {
    /// Builds one worker's proxy. Upstreams that are configured as in the one `before` keep their idle connections.
    ///
    /// # Errors
    /// When the app's `whoami` path is not valid.
    pub(crate) fn new(
        config: Arc<Config>,
        tls: Rc<CurrentPolicies>,
        shared: &SharedState,
        logs: Logs,
        before: Option<&Self>,
        tally: Tally,
    ) -> Result<Self, http::uri::InvalidUri> {
        let hosts = Rc::new(Hosts::new(config));
        let config = &*hosts.config;
        let forward = Forward::new(&hosts, shared, before.map(|before| &before.forward), &tally);
        let pbx = Arc::clone(&shared.pbx);
        let sessions = config.pbx.indexed().map(|(node, settings)| {
            let (upstream, admin) = (&forward.pbx_logins()[node], settings.admin.as_ref()?);
            Some(Sessions::new(upstream, (&config.pbx, node), admin, Arc::clone(&pbx), tally.clone()))
        });
        let sessions = sessions.collect();
        let chain = Chain::build(config, &shared.auth, forward.app(), tally.clone())?;
        let (state, logs) = (Arc::clone(&shared.login), Rc::new(logs.of_worker()));
        let gate = Gate { hosts, tls, state, chain, logs, tally };
        Ok(Self { gate, sessions, pbx, forward })
    }

    /// Closes the upstream connections that no request will be sent over, now that another proxy is in its place.
    pub(crate) fn retire(&self, successor: &Self) {
        self.forward.retire(&successor.forward);
    }

    /// Returns the logs of the worker.
    pub(crate) fn logs(&self) -> Rc<Logs> {
        Rc::clone(&self.gate.logs)
    }

    /// Closes upstream connections that have been idle for too long.
    pub(crate) fn sweep(&self) {
        self.forward.sweep();
    }

    /// Tells which account a caller would get, and why. `tls`: the policies of its handshake.
    ///
    /// # Errors
    /// When no request can be as the question says.
    pub(crate) async fn explain(
        &self,
        question: &LoginQuestion,
        tls: &TlsPolicies,
    ) -> Result<Explanation, Unanswerable> {
        explain::explain(&self.gate, self.pbx_logins(), question, tls).await
    }

    /// Answers a request. There always is an answer.
    pub(crate) async fn handle(&self, request: Request<Incoming>, connection: &ClientConnection) -> Response<Body> {
        let origin = self.gate.identify(request.headers(), &connection.origin);
        let client = origin.as_ref().map_or(connection.origin.client, |origin| origin.client);
        let mut exchange = Exchange::begin(&request, client, connection, &self.gate.logs);
        let audience = Audience::of(LoginRequest::of(&request), exchange.id);
        let version = request.version();
        let mut request = request.map(|body| RequestBody::of(body, version, &connection.ledger));
        let span = exchange.trace().map(|trace| trace.context);
        let response = {
            let answered = pin!(async {
                match self.answer(&mut request, origin, connection, &mut exchange).await {
                    Ok(response) => response,
                    Err(error) => {
                        let error = error.or_violation(connection.side_channel.violation.get());
                        self.answer_error(&error, &audience, &mut exchange)
                    }
                }
            });
            trace::in_span(span, answered).await
        };
        exchange.finish(response)
    }

    /// Answers a request that violates the rules of HTTP messages.
    pub(crate) fn refuse(
        &self,
        request: &Request<Incoming>,
        violation: Violation,
        connection: &ClientConnection,
    ) -> Response<Body> {
        let mut exchange = Exchange::begin(request, connection.origin.client, connection, &self.gate.logs);
        let audience = Audience::of(LoginRequest::of(request), exchange.id);
        let response = self.answer_error(&Error::Violation(violation), &audience, &mut exchange);
        exchange.finish(response)
    }

    /// Identifies and classifies a request, and answers it in one of four ways. The request is borrowed until the way is
    /// known: each `async fn` that takes one by value moves it twice.
    async fn answer(
        &self,
        request: &mut Request<RequestBody>,
        origin: Result<Rc<ForwardedChain>, Contradiction>,
        connection: &ClientConnection,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Error> {
        let context = identify(request, origin, connection, &self.gate, exchange)?;
        if let Some(answer) = answer_method(request)? {
            return Ok(answer);
        }
        let reserved = match self.gate.hosts.classify(&context.authority.host, request.uri().path()) {
            PathClass::Disguised => return Err(Error::Malformed("the path is not written as it should be")),
            PathClass::Reserved(reserved) => reserved,
            PathClass::Open => {
                let answered = self.pass_on(request, connection, &context, exchange).await;
                self.record(&context, exchange);
                return answered;
            }
        };
        exchange.set_route(match reserved {
            Reserved::Ott => ExchangeRoute::Ott,
            Reserved::Pbx | Reserved::PbxLogout => ExchangeRoute::Login,
            Reserved::Socket => ExchangeRoute::Socket,
            Reserved::Callgate => ExchangeRoute::Callgate,
        });
        let answered = self.answer_reserved(reserved, mem::take(request), connection, &context, exchange).await;
        self.record(&context, exchange);
        answered
    }

    /// Records what became known while a request was answered.
    fn record(&self, context: &RequestContext, exchange: &mut Exchange) {
        exchange.set_caller(&context.caller);
        let refusers = context.findings.refusers.get();
        if !refusers.is_empty() {
            exchange.set_refusers(refusers);
            refusers.names().for_each(|limit| self.gate.tally.would_limit(limit));
        }
    }

    /// Answers at one of the paths that are ours. Each answer has a box of its own size, so that passing on does not carry the
    /// state of logins around, and a login not that of the others.
    fn answer_reserved<'a>(
        &'a self,
        reserved: Reserved,
        request: Request<RequestBody>,
        connection: &'a ClientConnection,
        context: &'a RequestContext,
        exchange: &'a mut Exchange,
    ) -> LocalBoxFuture<'a, Result<Response<Body>, Error>> {
        let gate = &self.gate;
        let logins = move || self.pbx_logins().ok_or(Error::NotFound);
        match (reserved, request.uri().path()) {
            (Reserved::Ott, _) => Box::pin(ott::answer(gate, request, context)),
            (Reserved::Pbx, _) => Box::pin(async move { pbx::answer(logins()?, request, context).await }),
            (Reserved::Socket, _) => Box::pin(async move {
                socket::answer(logins()?, self.forward.pbx(), request, connection, context, exchange).await
            }),
            (Reserved::PbxLogout, _) => Box::pin(async move { logout::answer_pbx(logins()?, request, context).await }),
            (Reserved::Callgate, CONFIRM_PATH) => {
                Box::pin(async move { link::answer_button(logins()?, request, context).await })
            }
            (Reserved::Callgate, TICKET_PATH) => {
                Box::pin(async move { ticket::answer(logins()?, &request, context).await })
            }
            (Reserved::Callgate, BACKCHANNEL_LOGOUT_PATH) => {
                Box::pin(backchannel::answer(gate, self.pbx_logins(), request, context))
            }
            (Reserved::Callgate, CLIENT_MODULE_PATH) => Box::pin(ready(ClientFile::Module.answer(request.method()))),
            (Reserved::Callgate, CLIENT_TYPES_PATH) => Box::pin(ready(ClientFile::Types.answer(request.method()))),
            (Reserved::Callgate, PAGE_PATH) => {
                Box::pin(async move { auto::answer(logins()?, &request, context).await })
            }
            (Reserved::Callgate, _) => {
                Box::pin(async move { oidc::answer(gate, self.pbx_logins(), &request, context).await })
            }
        }
    }

    /// Passes a request on, and the answer back. A redirect to the PBX's landing page is given its session on the way.
    async fn pass_on(
        &self,
        request: &mut Request<RequestBody>,
        connection: &ClientConnection,
        context: &RequestContext,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Error> {
        let logins = self.pbx_logins();
        let mut cookie = None;
        if let Some(logins) = logins
            && let Some(visit) = auto::visit(logins, request, context)
        {
            match Box::pin(auto::receive(logins, visit, request.headers(), context)).await? {
                VisitOutcome::Answered(response) => return Ok(*response),
                VisitOutcome::PassedOn(with) => cookie = with,
            }
        }
        let passed = self.forward.pass(&self.gate, request, connection, context, exchange, logins.is_some()).await?;
        let (mut response, redirect) = passed;
        if let (Some(logins), Some(redirect)) = (logins, redirect) {
            // What follows may ask the PBX.
            exchange.note_upstream_duration(Instant::now());
            // A logout comes before the login that the same answer may bring.
            app_logout::end_sessions(logins, &redirect, context);
            if Box::pin(redirect::give_session(logins, &redirect, &mut response, context)).await? {
                exchange.set_route(ExchangeRoute::Injected);
            }
        }
        if let Some(cookie) = cookie {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        exchange.set_relayed();
        Ok(response)
    }

    /// Returns the parts that logins to the PBX need, if callgate opens sessions at a node.
    fn pbx_logins(&self) -> Option<PbxLogins<'_>> {
        let opens_any = self.sessions.iter().any(Option::is_some);
        opens_any.then_some(PbxLogins { gate: &self.gate, state: &self.pbx, nodes: &self.sessions })
    }

    /// Turns an error into an answer, counts it, and tells the operator what the client is not told.
    fn answer_error(&self, error: &Error, audience: &Audience, exchange: &mut Exchange) -> Response<Body> {
        let (status, code) = error.status();
        exchange.fail(code, error.is_malformed());
        if let Some(limited) = error.limited() {
            self.gate.tally.limited(limited.name);
        }
        match error.cause() {
            Some(cause) if status.is_server_error() => tracing::warn!(id = %exchange.id, error = cause, "{error}"),
            _ => tracing::debug!(id = %exchange.id, code, "{error}"),
        }
        let reader = Reader::new(&self.gate.config().pages, audience.language, self.gate.has_providers());
        answer::render(error, audience, reader)
    }
}

/// Finds where a request comes from and for which host it is.
///
/// # Errors
/// When it names two clients or no single host, its host is not covered by the handshake of the connection, or connections
/// for its host are passed on before TLS.
fn identify(
    request: &mut Request<RequestBody>,
    origin: Result<Rc<ForwardedChain>, Contradiction>,
    connection: &ClientConnection,
    gate: &Gate,
    exchange: &mut Exchange,
) -> Result<RequestContext, Error> {
    if request.version() == Version::HTTP_2 {
        http2::normalize(request).map_err(Error::Violation)?;
    }
    let origin = origin.map_err(|_| Error::Malformed("Forwarded and X-Forwarded-For name different clients"))?;
    let authority = target::authority_over_tls(
        request.version(),
        request.uri(),
        request.headers(),
        connection.tls.server_name.as_deref(),
    )
    .map_err(|_| Error::Malformed("the request names no host, or more than one"))?;
    exchange.set_host(&authority.host);
    match gate.tls.coverage(&connection.tls.policy, &authority.host) {
        HostCoverage::Covered if gate.hosts.are_passed_on(&authority.host) => {
            let named = connection.tls.server_name.as_deref();
            if named.is_some_and(|named| named.eq_ignore_ascii_case(&authority.host)) {
                // It was made before a reload: a new one for this name is passed on. A browser would ask again over it.
                connection.activity.retire();
            }
            return Err(Error::Misdirected);
        }
        HostCoverage::Covered => {}
        HostCoverage::Foreign => return Err(Error::Misdirected),
        HostCoverage::Outdated => {
            // Otherwise a browser would ask again over the same connection.
            connection.activity.retire();
            return Err(Error::CertificatePolicyChanged);
        }
    }
    let end = Rc::clone(&connection.tls.peer);
    Ok(RequestContext {
        origin,
        end,
        authority,
        id: exchange.id,
        trace: exchange.trace(),
        caller: OnceCell::new(),
        findings: RequestFindings::default(),
    })
}

/// Refuses the methods that no route accepts. Answers `OPTIONS` that is for the server as a whole (RFC 9110 §9.3.7), or that
/// may go no further (`Max-Forwards: 0`).
fn answer_method(request: &Request<RequestBody>) -> Result<Option<Response<Body>>, Error> {
    let (method, uri) = (request.method(), request.uri());
    if let Some(protocol) = request.extensions().get::<Protocol>() {
        // A CONNECT that names a protocol is for the host itself, not for one behind it (RFC 8441 §4).
        return if websocket::is_named(protocol) { Ok(None) } else { Err(Error::UnsupportedProtocol) };
    }
    match *method {
        // An upstream may read method names without regard to case.
        _ if ["CONNECT", "TRACE"].iter().any(|name| method.as_str().eq_ignore_ascii_case(name)) => {
            Err(Error::MethodNotAllowed(METHODS))
        }
        Method::OPTIONS if uri.path() == "*" || hop::hops_left(request.headers()) == Some(0) => {
            Ok(Some(response::empty(StatusCode::NO_CONTENT)))
        }
        _ if uri.path().starts_with('/') => Ok(None),
        _ => Err(Error::Malformed("the request target is not a path")),
    }
}
