//! Passes requests on to an upstream, and the answers back. Neither is changed beyond what RFC 9110 asks of a proxy.

mod owners;
pub(super) mod route;
mod shield;

use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, request, response};
use hyper::body::Body as _;

use self::shield::Stranger;
use super::browser::trigger::{self, Trigger};
use super::context::RequestContext;
use super::error::Error;
use super::gate::Gate;
use super::hosts::{self, Hosts};
use super::login::redirect::{AccountHints, RedirectContext};
use super::shared::{self, SharedState};
use crate::auth::Chain;
use crate::config::{ShieldConfig, UpstreamConfig};
use crate::exchange::{Body, ClientConnection, Exchange, Tunnel};
use crate::freeze::{FreezeGuard, Owners};
use crate::limit::LimitSource;
use crate::limit::client_key;
use crate::message::account_fields;
use crate::message::cookies;
use crate::message::fields;
use crate::message::forwarded;
use crate::message::hop::{self, Hop, Protocol};
use crate::message::target::Authority;
use crate::message::websocket::{WEBSOCKET, WebSocketKey};
use crate::model::field::is_like;
use crate::model::path;
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::Tally;
use crate::pbx::IssuedSessions;
use crate::upstream::{self, Connector, RequestBody, Requester, Upgraded, Upstream, UpstreamResponse};

const PROTECTED: &str = "a Connection field names a protected field";

/// The two upstreams, and the routes to them.
pub(super) struct Forward {
    hosts: Rc<Hosts>,
    app: Option<Rc<Upstream>>,
    pbx: Option<Rc<Upstream>>,
    /// The sessions that went out, by which the owner of a request to the PBX is found.
    issued: Arc<IssuedSessions>,
}

/// A request on its way to an upstream.
struct Outbound<'f> {
    upstream: &'f Rc<Upstream>,
    request: Request<RequestBody>,
    expected: Expected,
    /// The accounts that a tunnel would be for.
    owners: Owners,
    redirect: Option<Box<RedirectContext>>,
}

/// What a client expects.
enum Expected {
    /// An answer.
    Answer,
    /// That its connection becomes a WebSocket.
    Upgrade,
    /// That its stream becomes a WebSocket. The upstream is asked to upgrade, with a key of ours.
    Connect(WebSocketKey),
}

/// The answer of an upstream, and what a redirect of the app needs to be given a session.
pub(super) type Forwarded = (Response<Body>, Option<Box<RedirectContext>>);

impl Forward {
    /// Connects a configuration's upstreams. Those that are configured as `before` keep their idle connections.
    pub(super) fn new(hosts: &Rc<Hosts>, shared: &SharedState, before: Option<&Self>, tally: &Tally) -> Self {
        let config = &*hosts.config;
        let idle = config.server.timeouts.body_idle;
        let new = |connector: &Option<Connector>, upstream: Option<&UpstreamConfig>, side| {
            Some(Upstream::new(connector.clone()?, upstream?.timeouts, idle, side, tally))
        };
        let kept = |of| before.filter(|before| shared::is_same(&before.hosts.config, config, of));
        let (app_config, pbx_config) = (hosts::app_upstream(config), hosts::pbx_upstream(config));
        let app = match kept(hosts::app_upstream) {
            Some(before) => before.app.clone(),
            None => new(&shared.connectors.app, app_config, UpstreamName::App),
        };
        let pbx = match kept(hosts::pbx_upstream) {
            Some(before) => before.pbx.clone(),
            None => new(&shared.connectors.pbx, pbx_config, UpstreamName::Pbx),
        };
        Self { hosts: Rc::clone(hosts), app, pbx, issued: Arc::clone(&shared.pbx.issued) }
    }

    /// Returns the upstream of the app.
    pub(super) const fn app(&self) -> Option<&Rc<Upstream>> {
        self.app.as_ref()
    }

    /// Returns the upstream of the PBX.
    pub(super) const fn pbx(&self) -> Option<&Rc<Upstream>> {
        self.pbx.as_ref()
    }

    /// Closes the upstream connections that no request will be sent over, once a `successor` is in its place.
    pub(super) fn retire(&self, successor: &Self) {
        let is_kept = |upstream: &&Rc<Upstream>| successor.upstreams().any(|kept| Rc::ptr_eq(kept, upstream));
        for upstream in self.upstreams().filter(|upstream| !is_kept(upstream)) {
            upstream.retire();
        }
    }

    /// Closes upstream connections that have been idle for too long.
    pub(super) fn sweep(&self) {
        for upstream in self.upstreams() {
            upstream.sweep();
        }
    }

    fn upstreams(&self) -> impl Iterator<Item = &Rc<Upstream>> {
        self.app.iter().chain(&self.pbx)
    }

    /// Finds the upstream of a request by its host and the canonical copy of its path.
    fn route(&self, authority: &Authority, path: &str) -> Result<(UpstreamName, &Rc<Upstream>), Error> {
        let to = self.hosts.route(&authority.host, path).ok_or(Error::Misdirected)?;
        let upstream = match to {
            UpstreamName::App => &self.app,
            UpstreamName::Pbx => &self.pbx,
        };
        upstream.as_ref().map(|upstream| (to, upstream)).ok_or(Error::Misdirected)
    }

    /// Passes a request on, and the answer back. `gives_sessions`: a redirect to the landing page may be given one.
    ///
    /// # Errors
    /// When the request is refused, or the upstream gives no answer.
    pub(super) async fn pass(
        &self,
        gate: &Gate,
        request: &mut Request<RequestBody>,
        connection: &ClientConnection,
        context: &RequestContext,
        exchange: &mut Exchange,
        gives_sessions: bool,
    ) -> Result<Forwarded, Error> {
        // HTTP/1.0 has no interim answers (RFC 9110 §15.2), and hyper writes none in HTTP/2.
        let hears = request.version() == Version::HTTP_11;
        if let Some(shield) = shield::of_stranger(&self.hosts.config, context) {
            Box::pin(self.check_stranger(shield, gate, request, context, exchange)).await?;
        }
        if request.version() == Version::HTTP_2 && may_be_empty(request) {
            Box::pin(request.body_mut().begin()).await;
        }
        let Outbound { upstream, request, expected, owners, redirect } =
            self.outbound(gate, request, context, exchange, gives_sessions)?;
        let relay = |interim| connection.side_channel.interims.put(interim);
        // The connection of a proxy carries many clients, which must not share an upstream connection.
        let bound = Rc::ptr_eq(&context.origin, &connection.origin).then_some(&connection.bound);
        let client = upstream::SendContext {
            requester: Requester::client(connection.ledger.client_at(client_key(context.client())), &connection.ledger),
            ledger: Some(Arc::clone(&connection.ledger)),
            on_interim: if hears { Some(&relay) } else { None },
            bound,
        };
        let response = match upstream.send_for(client, request).await? {
            UpstreamResponse::Final(response) => response,
            UpstreamResponse::Upgraded(head, upgraded) => {
                let guard = FreezeGuard::new(Arc::clone(&gate.state.freezes), owners);
                return Ok((switch(head, upgraded, &expected, guard, connection, exchange)?, None));
            }
        };
        if matches!(expected, Expected::Connect(_)) && response.status().is_success() {
            // To the client that would mean that its stream is a WebSocket now (RFC 9113 §8.5).
            return Err(upstream::Error::BadResponse("it answered 2xx to a request for a WebSocket").into());
        }
        let (mut head, relay) = response.into_parts();
        let hints = receive(&mut head)?;
        let response = Response::from_parts(head, Body::relay(relay));
        Ok((response, redirect.map(|redirect| redirect.with(hints))))
    }

    /// Refuses a stranger's request to the PBX that the shield does not let through.
    async fn check_stranger(
        &self,
        shield: &ShieldConfig,
        gate: &Gate,
        request: &mut Request<RequestBody>,
        context: &RequestContext,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        let canonical = path::canonical(request.uri().path());
        let (to, _) = self.route(&context.authority, &canonical)?;
        if to == UpstreamName::App {
            return Ok(());
        }
        exchange.set_upstream(to);
        let stranger = Stranger { shield, gate, issued: &self.issued, context };
        let opens_sessions = stranger.check_head(request, &canonical)?;
        drop(canonical);
        if opens_sessions { stranger.check_login(request, exchange).await } else { Ok(()) }
    }

    /// Finds the upstream of a request and prepares it for that hop, without waiting.
    fn outbound(
        &self,
        gate: &Gate,
        request: &mut Request<RequestBody>,
        context: &RequestContext,
        exchange: &mut Exchange,
        gives_sessions: bool,
    ) -> Result<Outbound<'_>, Error> {
        let canonical = path::canonical(request.uri().path());
        let (to, upstream) = self.route(&context.authority, &canonical)?;
        exchange.set_upstream(to);
        let host = &context.authority.host;
        if to == UpstreamName::Pbx {
            count_password_login(gate, request.method(), &canonical, request.headers(), context)?;
            owners::refuse_frozen(&gate.state.freezes, &self.issued, request, host)?;
        }
        drop(canonical);
        let (mut head, mut payload) = mem::take(request).into_parts();
        let redirect = (gives_sessions && to == UpstreamName::App)
            .then(|| Box::new(RedirectContext::of(&head.method, head.uri.path(), &head.headers)));
        let vouched = keep_apart(&gate.chain, &mut head.headers, &mut payload, context)?;
        if gate.keeps_cookies() {
            cookies::cut(&mut head.headers);
        }
        let may_switch =
            to == UpstreamName::Pbx && (head.method == Method::CONNECT || head.headers.contains_key(header::UPGRADE));
        let owners = match may_switch {
            true => owners::of(&self.issued, &head.headers, &head.uri, host),
            false => Owners::default(),
        };
        let expected = prepare(&mut head, &payload, context)?;
        for (name, value) in vouched {
            head.headers.insert(name, value);
        }
        exchange.set_meter(payload.meter());
        let target = head.uri.path_and_query().cloned().map_or_else(Default::default, http::Uri::from);
        let request = upstream::request(head.method, target, head.headers, payload);
        Ok(Outbound { upstream, request, expected, owners, redirect })
    }
}

/// Removes, in every spelling, the fields that only a believed proxy may send. Returns the fields that such a proxy sent,
/// to be inserted again.
fn keep_apart(
    chain: &Chain,
    headers: &mut HeaderMap,
    payload: &mut RequestBody,
    context: &RequestContext,
) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    let apart = chain.proxy_fields();
    if apart.is_empty() {
        return Ok(Vec::new());
    }
    let is_apart = |name: &HeaderName| apart.iter().any(|apart| is_like(apart.as_str(), name.as_str()));
    if hop::names_any(headers, is_apart) {
        return Err(Error::Malformed(PROTECTED));
    }
    let vouched = chain.vouched_fields(headers, context.end.address);
    fields::remove(headers, is_apart);
    payload.forbid_trailers(Rc::clone(apart));
    Ok(vouched)
}

/// Counts a request that could guess a password of the PBX: the PBX sees only our address, so it cannot tell its clients
/// apart.
fn count_password_login(
    gate: &Gate,
    method: &Method,
    canonical: &str,
    headers: &HeaderMap,
    context: &RequestContext,
) -> Result<(), Error> {
    if !path::is_password_login(method.as_str(), canonical) && !headers.contains_key(header::AUTHORIZATION) {
        return Ok(());
    }
    let source = match trigger::at_pbx(method, headers, &context.authority, gate.config()) {
        Trigger::ForeignPage => return Err(Error::CrossSite),
        // Browsers add the credentials that they have kept, whatever page sends them here.
        Trigger::Navigation => LimitSource::elsewhere(context.client()),
        Trigger::Own => LimitSource::address(context.client()),
    };
    Ok(gate.state.limits.pbx_logins.admit_source(&source)?)
}

/// Tells whether a request may turn out to have no body: in HTTP/2 the end of the stream may follow the head. A client that
/// waits for 100 (Continue) sends nothing before, so it is not waited for.
fn may_be_empty(request: &Request<RequestBody>) -> bool {
    let waits = *request.method() == Method::CONNECT || request.headers().contains_key(header::EXPECT);
    !waits && has_unknown_length(request.body())
}

/// Tells whether the length of a body is unknown until its end.
fn has_unknown_length(body: &RequestBody) -> bool {
    !body.is_end_stream() && body.size_hint().exact().is_none()
}

/// Rewrites the fields of a request for the next hop. Returns the kind of answer that the client expects.
fn prepare(head: &mut request::Parts, body: &RequestBody, context: &RequestContext) -> Result<Expected, Error> {
    let fields = &mut head.headers;
    let may_change = head.method == Method::GET && head.version == Version::HTTP_11 && body.is_end_stream();
    let protocol = if may_change { Protocol::MayChange } else { Protocol::Stays };
    // hyper answers 100 itself once the body is polled, which is when the upstream's connection stands.
    let is_ours = hop::expects_continue(fields);
    let Hop { websocket } =
        hop::strip(fields, protocol, |name| (is_ours && *name == header::EXPECT) || forwarded::is_identity(name))
            .map_err(|_| Error::Malformed(PROTECTED))?;
    forwarded::assert(fields, &context.origin, &context.authority.raw, context.id.header_value());
    forwarded::via(fields, head.version);
    if !fields.contains_key(header::HOST) {
        fields.insert(header::HOST, context.authority.raw.clone());
    }
    if head.method == Method::OPTIONS {
        hop::count_down(fields);
    }
    if head.version == Version::HTTP_2 {
        join_cookies(fields);
    }
    if has_unknown_length(body) {
        // Without this field hyper drops the body of methods that seldom have one.
        fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let expected = match head.method {
        // `answer_method` lets no other CONNECT pass.
        Method::CONNECT => Expected::Connect(WebSocketKey::random()),
        _ if websocket => Expected::Upgrade,
        _ => Expected::Answer,
    };
    if let Expected::Connect(key) = &expected {
        head.method = Method::GET;
        fields.remove(header::CONTENT_LENGTH);
        key.ask(fields);
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(header::UPGRADE, WEBSOCKET);
    }
    Ok(expected)
}

/// Joins the `Cookie` fields into which HTTP/2 may split one (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let crumbs: Vec<_> = fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        fields.insert(header::COOKIE, cookie);
    }
}

/// Rewrites the fields of an answer for the client's hop. Returns the fields that were meant for callgate alone.
fn receive(head: &mut response::Parts) -> Result<AccountHints, upstream::Error> {
    let hints = AccountHints::read(&head.headers);
    hop::strip(&mut head.headers, Protocol::Stays, account_fields::is_account_field)
        .map_err(|_| upstream::Error::BadResponse(PROTECTED))?;
    Ok(hints)
}

/// Passes on the upstream's 101. The connection, or the HTTP/2 stream, becomes a tunnel once that answer is written.
fn switch(
    head: Response<()>,
    upgraded: Upgraded,
    expected: &Expected,
    freeze_guard: FreezeGuard,
    connection: &ClientConnection,
    exchange: &mut Exchange,
) -> Result<Response<Body>, Error> {
    let (mut head, ()) = head.into_parts();
    let is_out = |name: &HeaderName| *name == header::CONTENT_LENGTH || account_fields::is_account_field(name);
    let Hop { websocket } = hop::strip(&mut head.headers, Protocol::MayChange, is_out)
        .map_err(|_| upstream::Error::BadResponse(PROTECTED))?;
    if !websocket {
        return Err(upstream::Error::BadResponse("it switched to another protocol").into());
    }
    match expected {
        Expected::Answer => return Err(upstream::Error::BadResponse("it switched protocols unasked").into()),
        Expected::Upgrade => head.status = StatusCode::SWITCHING_PROTOCOLS,
        Expected::Connect(key) if key.is_answered(&mut head.headers) => {
            head.headers.remove(header::CONNECTION);
            head.headers.remove(header::UPGRADE);
            head.status = StatusCode::OK;
        }
        Expected::Connect(_) => {
            return Err(upstream::Error::BadResponse("its Sec-WebSocket-Accept does not fit the key").into());
        }
    }
    let tunnel = Tunnel { upgraded, exchange: exchange.split(head.status), freeze_guard };
    connection.side_channel.tunnel.replace(Some(tunnel));
    Ok(Response::from_parts(head, Body::own("")))
}
