//! Floor 6: the path of a request.
//!
//! [`Proxy::handle`] is the story: who is asking, for what, and one of four ways to answer.

mod answer;
mod browser;
mod error;
mod explain;
mod form;
mod forward;
mod frozen;
mod gate;
mod login;
mod shared;

use std::cell::Cell;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;

use self::answer::audience::Audience;
use self::answer::response;
use self::error::Error;
pub use self::explain::{Question, Story, Unanswerable};
use self::forward::route::Routes;
use self::gate::attempt::Attempt;
pub use self::shared::Shared;
use self::shared::{app_upstream, is_same, pbx_upstream};
use crate::auth::{self, Chain};
use crate::config::{self, Config};
use crate::exchange::{self, Body, Exchange, FarEnd, Peer};
use crate::message::forwarded_chain::{Contradiction, ForwardedChain};
use crate::message::guard::Violation;
use crate::message::hop;
use crate::message::http2;
use crate::message::target::{self, Authority};
use crate::message::websocket;
use crate::model::grant;
use crate::model::path::{self, CONFIRM_PATH, PathClass, Reserved};
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::{Route, Tally};
use crate::observe::{Logs, RequestId};
use crate::pbx::Pbx;
use crate::upstream::{Connector, RequestBody, Upstream};

/// The methods that a request may have, as the refusal of any other names them.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// One worker's proxy: the configuration as its upstreams, its rules and its ways to ask.
pub struct Proxy {
    config: Arc<Config>,
    shared: Arc<Shared>,
    logs: Rc<Logs>,
    tally: Tally,
    routes: Routes,
    app: Option<Rc<Upstream>>,
    pbx: Option<Rc<Upstream>>,
    sessions: Option<Pbx>,
    chain: Chain,
}

/// Who is asking, and under which name.
struct Caller {
    origin: Rc<ForwardedChain>,
    end: Rc<FarEnd>,
    authority: Authority,
    id: RequestId,
    /// What limits know of it, where it is a try at a login.
    attempt: Cell<Option<Attempt>>,
}

impl Proxy {
    /// Builds one worker's proxy. Upstreams that are configured as in the one `before` keep their idle connections.
    ///
    /// # Errors
    /// When the path that the app is asked at is none.
    pub fn new(
        config: Arc<Config>,
        shared: Arc<Shared>,
        logs: Logs,
        before: Option<&Self>,
        tally: Tally,
    ) -> Result<Self, http::uri::InvalidUri> {
        let idle = config.server.timeouts.body_idle;
        let upstream = |connector: &Option<Connector>, upstream: Option<&config::UpstreamConfig>, side| {
            Some(Upstream::new(connector.clone()?, upstream?.timeouts, idle, side, &tally))
        };
        let (app_config, pbx_config) = (app_upstream(&config), pbx_upstream(&config));
        let kept = |of| before.filter(|before| is_same(&before.config, &config, of));
        let app = match kept(app_upstream) {
            Some(before) => before.app.clone(),
            None => upstream(&shared.app, app_config, UpstreamName::App),
        };
        let pbx = match kept(pbx_upstream) {
            Some(before) => before.pbx.clone(),
            None => upstream(&shared.pbx, pbx_config, UpstreamName::Pbx),
        };
        let sessions = config.pbx.as_ref().zip(pbx.as_ref()).and_then(|(settings, upstream)| {
            let (admin, breaker) = (settings.admin.as_ref()?, Arc::clone(&shared.breaker));
            Some(Pbx::new(Rc::clone(upstream), settings, admin, breaker, tally.clone()))
        });
        let chain = chain(&config, &shared, app.as_ref(), &tally)?;
        let routes = Routes::new(app_config, pbx_config);
        let logs = Rc::new(logs.of_worker());
        Ok(Self { config, shared, logs, tally, routes, app, pbx, sessions, chain })
    }

    /// Closes the upstream connections that no request will be sent over, now that another proxy is in its place.
    pub fn retire(&self, successor: &Self) {
        let kept = |upstream: &&Rc<Upstream>| {
            [&successor.app, &successor.pbx].into_iter().flatten().any(|kept| Rc::ptr_eq(kept, upstream))
        };
        for upstream in self.app.iter().chain(&self.pbx).filter(|upstream| !kept(upstream)) {
            upstream.retire();
        }
    }

    /// Closes upstream connections that have been idle for too long.
    pub fn sweep(&self) {
        for upstream in self.app.iter().chain(&self.pbx) {
            upstream.sweep();
        }
    }

    /// Answers a request. There always is an answer.
    pub async fn handle(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let origin = self.origin(request.headers(), &peer.origin);
        let client = origin.as_ref().map_or(peer.origin.client, |origin| origin.client);
        let mut exchange = Exchange::begin(&request, client, peer, &self.logs);
        let audience = Audience::of(request.headers(), exchange.id);
        let by_field = exchange::closes_by_field(request.version());
        let has_body = !hyper::body::Body::is_end_stream(request.body());
        let is_head = *request.method() == Method::HEAD;
        let version = request.version();
        let is_connect = *request.method() == Method::CONNECT;
        let mut request = request.map(|body| RequestBody::of(body, version, &peer.ledger));
        let mut response = match self.serve(&mut request, origin, peer, &mut exchange).await {
            Ok(response) => response,
            Err(error) => {
                let error = error.or_violation(peer.refused.get());
                let mut response = self.explain(&error, &audience, &mut exchange);
                // A body that nobody reads would be taken for the next request, and behind a malformed one, or one for a
                // tunnel, anything may come: such a connection ends with the answer.
                if by_field && (has_body || is_connect || error.is_malformed()) {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        };
        if is_head {
            exchange::silence(&mut response);
        }
        exchange.end_with(response)
    }

    /// Finds out who a request is from. Only believed peers are listened to.
    fn origin(&self, headers: &HeaderMap, peer: &Rc<ForwardedChain>) -> Result<Rc<ForwardedChain>, Contradiction> {
        let (client, server) = (peer.client, &self.config.server);
        if !server.believes(client) {
            return Ok(Rc::clone(peer));
        }
        ForwardedChain::from_headers(client, headers, |hop| server.believes(hop)).map(Rc::new)
    }

    /// Answers what is no request.
    pub fn refuse(&self, request: &Request<Incoming>, refusal: Violation, peer: &Peer) -> Response<Body> {
        let mut exchange = Exchange::begin(request, peer.origin.client, peer, &self.logs);
        let audience = Audience::of(request.headers(), exchange.id);
        let mut response = self.explain(&Error::Violation(refusal), &audience, &mut exchange);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        exchange.end_with(response)
    }

    /// Finds out who is asking and for what, and answers that. The request is lent until it is known who takes it: each
    /// `async fn` that is given one moves it twice.
    async fn serve(
        &self,
        request: &mut Request<RequestBody>,
        origin: Result<Rc<ForwardedChain>, Contradiction>,
        peer: &Peer,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Error> {
        if request.version() == Version::HTTP_2 {
            http2::normalize(request).map_err(Error::Violation)?;
        }
        let origin = origin.map_err(|_| Error::Malformed("Forwarded and X-Forwarded-For name different clients"))?;
        let authority =
            target::authority_over_tls(request.version(), request.uri(), request.headers(), peer.name.as_deref())
                .map_err(|_| Error::Malformed("the request names no host, or more than one"))?;
        exchange.is_for(&authority.host);
        if !peer.policy.covers(&authority.host) {
            return Err(Error::Misdirected);
        }
        if let Some(answer) = answer_method(request)? {
            return Ok(answer);
        }
        let caller = Caller { origin, end: Rc::clone(&peer.end), authority, id: exchange.id, attempt: Cell::default() };
        // Logins are boxed: they are rare, and passing on should not carry their state around.
        let mut response = match path::classify(request.uri().path()) {
            PathClass::Disguised => return Err(Error::Malformed("the path is not written as it should be")),
            PathClass::Reserved(reserved) => {
                exchange.is_answered_by(match reserved {
                    Reserved::Ott => Route::Ott,
                    Reserved::Pbx => Route::Login,
                    Reserved::Callgate => Route::Callgate,
                });
                Box::pin(self.answer_login(reserved, mem::take(request), &caller)).await?
            }
            PathClass::Open => return self.forward(request, peer, caller, exchange).await,
        };
        response::set_request_id(&mut response, exchange.id);
        Ok(response)
    }

    /// Answers at one of the places that are ours.
    async fn answer_login(
        &self,
        reserved: Reserved,
        request: Request<RequestBody>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        match reserved {
            Reserved::Ott => self.answer_ott(request, caller).await,
            Reserved::Pbx => self.answer_pbx(request, caller).await,
            Reserved::Callgate if request.uri().path() == CONFIRM_PATH => self.answer_confirm(request, caller).await,
            Reserved::Callgate => self.answer_callgate(&request, caller).await,
        }
    }

    /// Turns a failure into an answer, and tells the operator what the client is not told.
    fn explain(&self, error: &Error, audience: &Audience, exchange: &mut Exchange) -> Response<Body> {
        let (status, code) = error.status();
        exchange.because(code);
        match error.cause() {
            Some(cause) if status.is_server_error() => tracing::warn!(id = %exchange.id, error = cause, "{error}"),
            _ => tracing::debug!(id = %exchange.id, code, "{error}"),
        }
        let mut response = answer::render(error, audience);
        response::set_request_id(&mut response, exchange.id);
        response
    }

    /// Finds the upstream of a request by its host and the canonical copy of its path.
    fn route(&self, authority: &Authority, path: &str) -> Result<(UpstreamName, &Rc<Upstream>), Error> {
        let to = self.routes.find(&authority.host, path).ok_or(Error::Misdirected)?;
        let upstream = match to {
            UpstreamName::App => &self.app,
            UpstreamName::Pbx => &self.pbx,
        };
        upstream.as_ref().map(|upstream| (to, upstream)).ok_or(Error::Misdirected)
    }
}

/// Refuses the methods that no route may have, and answers `OPTIONS` for the server as a whole (RFC 9110 §9.3.7) and
/// where it may go no further.
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

/// Builds the auth methods from their settings.
fn chain(
    config: &Config,
    shared: &Shared,
    app: Option<&Rc<Upstream>>,
    tally: &Tally,
) -> Result<Chain, http::uri::InvalidUri> {
    let mut chain = Vec::new();
    for method in &config.methods {
        let name = method.name.clone();
        let kind = match (&method.kind, app) {
            (config::MethodKind::App(whoami), Some(app)) => {
                auth::Kind::App(auth::App::new(name, whoami.clone(), Rc::clone(app))?)
            }
            // The configuration has no such method without an app to ask.
            (config::MethodKind::App(_), None) => continue,
            (config::MethodKind::Header(settings), _) => auth::Kind::Header(auth::Header::new(name, settings.clone())),
            (config::MethodKind::Mtls(settings), _) => auth::Kind::Mtls(auth::Mtls::new(name, settings.clone())),
            (config::MethodKind::Key(key), _) => auth::Kind::Key(Rc::new(auth::Key::new(name, key.clone()))),
            (config::MethodKind::Link(links), _) => {
                auth::Kind::Link(auth::Link::new(name, links.clone(), Arc::clone(&shared.store)))
            }
            (config::MethodKind::Jwt(jwt), _) => match shared.keys(jwt) {
                Some(keys) => auth::Kind::Jwt(auth::Jwt::new(name, jwt.clone(), keys)),
                // Whatever the configuration names is shared.
                None => continue,
            },
            (config::MethodKind::Oidc(settings), _) => {
                let Some((provider, key)) = shared.providers.get(&name) else { continue };
                let (provider, key) = (Arc::clone(provider), Arc::clone(key));
                let claims = grant::claims_used(&config.rules, &name);
                auth::Kind::Oidc(Rc::new(auth::Oidc::new(name, settings.clone(), provider, key, claims)))
            }
        };
        chain.push(auth::Method::new(kind, method.ignore_cookies));
    }
    Ok(Chain::new(chain, &config.server.strip_fields, tally.clone()))
}
