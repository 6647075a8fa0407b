//! Everything that is not ours: passed on to an upstream, and its answer back, both as they are.

pub(super) mod route;
mod shield;

use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, request, response};
use hyper::body::Body as _;

use super::browser::trigger::{self, Trigger};
use super::error::Error;
use super::login::redirect::{Kept, Named};
use super::{Caller, Proxy};
use crate::exchange::{self, Body, Exchange, Peer, Tunnel};
use crate::freeze::{Leash, Owners};
use crate::limit::Source;
use crate::limit::client_key;
use crate::message::account_fields;
use crate::message::cookies;
use crate::message::fields;
use crate::message::forwarded;
use crate::message::hop::{self, Hop, Protocol};
use crate::message::websocket::{WEBSOCKET, WebSocketKey};
use crate::model::field::is_like;
use crate::model::path;
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::Route;
use crate::upstream::{self, RequestBody, Requester, Upgraded, Upstream, UpstreamResponse};

const CLOSE: HeaderValue = HeaderValue::from_static("close");
const PROTECTED: &str = "a Connection field names a protected field";

/// A request on its way to an upstream.
struct Outbound<'p> {
    upstream: &'p Rc<Upstream>,
    request: Request<RequestBody>,
    asked: Asked,
    /// Whom a tunnel would be for.
    owners: Owners,
    /// What injection needs of it.
    kept: Option<Box<Kept>>,
}

/// What a client asks for.
enum Asked {
    /// An answer.
    Answer,
    /// That its connection becomes a WebSocket.
    Upgrade,
    /// That its stream becomes a WebSocket. The upstream is asked to upgrade, with a key of ours.
    Connect(WebSocketKey),
}

impl Proxy {
    /// Passes a request on, and the answer back. A redirect to the landing page is given its session on the way.
    pub(super) async fn forward(
        &self,
        request: &mut Request<RequestBody>,
        peer: &Peer,
        caller: Caller,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Error> {
        let by_field = exchange::closes_by_field(request.version());
        // HTTP/1.0 has none (RFC 9110 §15.2), and hyper writes none in HTTP/2.
        let hears = request.version() == Version::HTTP_11;
        if let Some(shield) = self.shield(&caller) {
            Box::pin(self.judge_stranger(shield, request, &caller, exchange)).await?;
        }
        if request.version() == Version::HTTP_2 && may_be_empty(request) {
            Box::pin(request.body_mut().begin()).await;
        }
        let Outbound { upstream, request, asked, owners, kept } = self.outbound(request, &caller, exchange)?;
        let relay = |interim| peer.interims.put(interim);
        // Behind a proxy the connection is many clients'.
        let bound = Rc::ptr_eq(&caller.origin, &peer.origin).then_some(&peer.bound);
        let client = upstream::SendContext {
            requester: Requester::client(peer.ledger.client_at(client_key(caller.origin.client)), &peer.ledger),
            ledger: Some(Arc::clone(&peer.ledger)),
            on_interim: if hears { Some(&relay) } else { None },
            bound,
        };
        let response = match upstream.send_for(client, request).await? {
            UpstreamResponse::Final(response) => response,
            UpstreamResponse::Upgraded(head, upgraded) => {
                return switch(head, upgraded, &asked, self.leash(owners), peer, exchange);
            }
        };
        if matches!(asked, Asked::Connect(_)) && response.status().is_success() {
            // To the client that would mean that its stream is a WebSocket now (RFC 9113 §8.5).
            return Err(upstream::Error::Nonsense("it answered as if nobody had asked for a WebSocket").into());
        }
        let (mut head, relay) = response.into_parts();
        let named = receive(&mut head)?;
        if by_field && exchange.is_receiving() {
            // An answer before the body's end may be the reason why the rest of it never comes.
            head.headers.insert(header::CONNECTION, CLOSE);
        }
        let mut response = Response::from_parts(head, Body::relay(relay));
        if by_field {
            exchange::keep_length(&mut response);
        }
        if let Some(kept) = kept
            && Box::pin(self.inject(*kept, &named, &mut response, &caller)).await?
        {
            exchange.is_answered_by(Route::Injected);
        }
        Ok(response)
    }

    /// Decides where a request goes, and makes it the next hop's. Nothing is waited for.
    fn outbound(
        &self,
        request: &mut Request<RequestBody>,
        caller: &Caller,
        exchange: &mut Exchange,
    ) -> Result<Outbound<'_>, Error> {
        let canonical = path::canonical(request.uri().path());
        let (to, upstream) = self.route(&caller.authority, &canonical)?;
        exchange.goes_to(to);
        if to == UpstreamName::Pbx {
            self.admit_password_login(request.method(), &canonical, request.headers(), caller)?;
            self.refuse_frozen(request.headers(), request.uri(), &caller.authority.host)?;
        }
        drop(canonical);
        let (mut head, mut payload) = mem::take(request).into_parts();
        let kept = match to {
            UpstreamName::App => self.keep(&head.method, head.uri.path(), &head.headers).map(Box::new),
            UpstreamName::Pbx => None,
        };
        let vouched = self.keep_apart(&mut head.headers, &mut payload, caller)?;
        if self.keeps_cookies() {
            cookies::cut(&mut head.headers);
        }
        let may_switch =
            to == UpstreamName::Pbx && (head.method == Method::CONNECT || head.headers.contains_key(header::UPGRADE));
        let owners = match may_switch {
            true => self.owners(&head.headers, &head.uri, &caller.authority.host),
            false => Owners::default(),
        };
        let asked = prepare(&mut head, &payload, caller)?;
        for (name, value) in vouched {
            head.headers.insert(name, value);
        }
        exchange.receives(payload.meter());
        let target = head.uri.path_and_query().cloned().map_or_else(Default::default, http::Uri::from);
        let request = upstream::request(head.method, target, head.headers, payload);
        Ok(Outbound { upstream, request, asked, owners, kept })
    }

    /// Takes out, in every spelling, what only a believed proxy may say of its caller; and returns what such a one said,
    /// to be put in again.
    fn keep_apart(
        &self,
        headers: &mut HeaderMap,
        payload: &mut RequestBody,
        caller: &Caller,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let apart = self.chain.apart();
        if apart.is_empty() {
            return Ok(Vec::new());
        }
        let is_apart = |name: &HeaderName| apart.iter().any(|apart| is_like(apart.as_str(), name.as_str()));
        if hop::names_any(headers, is_apart) {
            return Err(Error::Malformed(PROTECTED));
        }
        let vouched = self.chain.vouched(headers, caller.end.address);
        fields::remove(headers, is_apart);
        payload.keep_apart(Rc::clone(apart));
        Ok(vouched)
    }

    /// Counts what could guess a password of the PBX: it sees only our address, so it cannot tell who guesses.
    fn admit_password_login(
        &self,
        method: &Method,
        canonical: &str,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<(), Error> {
        if !path::is_password_login(method.as_str(), canonical) && !headers.contains_key(header::AUTHORIZATION) {
            return Ok(());
        }
        let source = match trigger::at_pbx(method, headers, &caller.authority, &self.config) {
            Trigger::ForeignPage => return Err(Error::CrossSite),
            // Browsers add the credentials that they have kept, whoever sends them here.
            Trigger::Navigation => Source::elsewhere(caller.origin.client),
            Trigger::Own => Source::address(caller.origin.client),
        };
        self.within(self.shared.limits.pbx_logins.admit_source(&source))
    }
}

/// Tells whether only its end will tell that a request has no body: in HTTP/2 that may come behind the head. Who waits to be
/// told to go on says nothing before.
fn may_be_empty(request: &Request<RequestBody>) -> bool {
    let waits = *request.method() == Method::CONNECT || request.headers().contains_key(header::EXPECT);
    !waits && exchange::has_unknown_length(request.body())
}

/// Makes the fields of a request those of the next hop, and tells what it asks for.
fn prepare(head: &mut request::Parts, body: &RequestBody, caller: &Caller) -> Result<Asked, Error> {
    let fields = &mut head.headers;
    let may_change = head.method == Method::GET && head.version == Version::HTTP_11 && body.is_end_stream();
    let protocol = if may_change { Protocol::MayChange } else { Protocol::Stays };
    // hyper says 100 itself, once the body is polled: when the upstream's connection stands.
    let is_ours = hop::expects_continue(fields);
    let Hop { websocket } =
        hop::strip(fields, protocol, |name| (is_ours && *name == header::EXPECT) || forwarded::is_identity(name))
            .map_err(|_| Error::Malformed(PROTECTED))?;
    forwarded::assert(fields, &caller.origin, &caller.authority.raw, caller.id.header_value());
    forwarded::via(fields, head.version);
    if !fields.contains_key(header::HOST) {
        fields.insert(header::HOST, caller.authority.raw.clone());
    }
    if head.method == Method::OPTIONS {
        hop::count_down(fields);
    }
    if head.version == Version::HTTP_2 {
        join_cookies(fields);
    }
    if exchange::has_unknown_length(body) {
        // Without it hyper drops the body of methods that seldom have one.
        fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let asked = match head.method {
        // A CONNECT that comes so far is one for a WebSocket.
        Method::CONNECT => Asked::Connect(WebSocketKey::random()),
        _ if websocket => Asked::Upgrade,
        _ => Asked::Answer,
    };
    if let Asked::Connect(key) = &asked {
        head.method = Method::GET;
        fields.remove(header::CONTENT_LENGTH);
        key.ask(fields);
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(header::UPGRADE, WEBSOCKET);
    }
    Ok(asked)
}

/// Joins the crumbs that HTTP/2 may make of a cookie (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let crumbs: Vec<_> = fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        fields.insert(header::COOKIE, cookie);
    }
}

/// Makes the fields of an answer those of the client's hop, and returns what was meant for us alone.
fn receive(head: &mut response::Parts) -> Result<Named, upstream::Error> {
    let named = Named::read(&head.headers);
    hop::strip(&mut head.headers, Protocol::Stays, account_fields::is_account_field)
        .map_err(|_| upstream::Error::Nonsense(PROTECTED))?;
    Ok(named)
}

/// Passes on the upstream's 101, and leaves it to the connection, or to the stream, to become a tunnel once that is out.
fn switch(
    head: Response<()>,
    upgraded: Upgraded,
    asked: &Asked,
    leash: Leash,
    peer: &Peer,
    exchange: &mut Exchange,
) -> Result<Response<Body>, Error> {
    let (mut head, ()) = head.into_parts();
    let is_out = |name: &HeaderName| *name == header::CONTENT_LENGTH || account_fields::is_account_field(name);
    let Hop { websocket } =
        hop::strip(&mut head.headers, Protocol::MayChange, is_out).map_err(|_| upstream::Error::Nonsense(PROTECTED))?;
    if !websocket {
        return Err(upstream::Error::Nonsense("it switched to another protocol").into());
    }
    match asked {
        Asked::Answer => return Err(upstream::Error::Nonsense("it switched protocols unasked").into()),
        Asked::Upgrade => head.status = StatusCode::SWITCHING_PROTOCOLS,
        Asked::Connect(key) if key.is_answered(&mut head.headers) => {
            head.headers.remove(header::CONNECTION);
            head.headers.remove(header::UPGRADE);
            head.status = StatusCode::OK;
        }
        Asked::Connect(_) => return Err(upstream::Error::Nonsense("it switched for somebody else's key").into()),
    }
    peer.tunnel.replace(Some(Tunnel { upgraded, exchange: exchange.split(head.status), leash }));
    Ok(Response::from_parts(head, Body::own("")))
}
