//! The head of a message rewritten for the next hop: towards the upstream, and back towards the client.

use std::rc::Rc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, request, response};
use hyper::body::Body as _;

use crate::auth::Chain;
use crate::exchange::{Body, ClientConnection, Exchange, Tunnel, TunnelGuard};
use crate::message::account_fields;
use crate::message::fields;
use crate::message::forwarded;
use crate::message::hop::{self, Hop, Protocol};
use crate::message::websocket::{WEBSOCKET, WebSocketKey};
use crate::model::field::is_like;
use crate::proxy::context::RequestContext;
use crate::proxy::error::Error;
use crate::proxy::login::redirect::AccountHints;
use crate::upstream::{self, RequestBody, Upgraded};

/// The error of a `Connection` field that names a field which callgate itself sets or removes.
const PROTECTED: &str = "a Connection field names a protected field";

/// The kind of answer that a client expects.
pub(super) enum Expected {
    /// An answer.
    Answer,
    /// That its connection becomes a WebSocket.
    Upgrade,
    /// That its stream becomes a WebSocket. The upstream is asked to upgrade, with a key of ours.
    Connect(WebSocketKey),
}

/// Fields that are written behind those of the client. A list is enough: nothing looks one up.
pub(super) type AddedFields = Vec<(HeaderName, HeaderValue)>;

/// Returns the fields that tell an upstream who the client is. `host` is the authority that was asked for.
pub(super) fn added_fields(context: &RequestContext, host: &HeaderValue) -> AddedFields {
    forwarded::fields(&context.origin, host, context.id.header_value()).into()
}

/// Removes, in every spelling, the fields that only a believed proxy may send. Returns the fields that such a proxy sent,
/// to be inserted again.
pub(super) fn keep_apart(
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

/// Tells whether a request may turn out to have no body: in HTTP/2 the end of the stream may follow the head. A client that
/// waits for 100 (Continue) sends nothing before, so it is not waited for.
pub(super) fn may_be_empty(request: &Request<RequestBody>) -> bool {
    let waits = *request.method() == Method::CONNECT || request.headers().contains_key(header::EXPECT);
    !waits && has_unknown_length(request.body())
}

/// Tells whether the length of a body is unknown until its end.
fn has_unknown_length(body: &RequestBody) -> bool {
    !body.is_end_stream() && body.size_hint().exact().is_none()
}

/// Rewrites the fields of a request for the next hop. Returns the kind of answer that the client expects, and the fields that
/// follow the client's.
pub(super) fn prepare(
    head: &mut request::Parts,
    body: &RequestBody,
    context: &RequestContext,
) -> Result<(Expected, AddedFields), Error> {
    let fields = &mut head.headers;
    let may_change = head.method == Method::GET && head.version == Version::HTTP_11 && body.is_end_stream();
    let protocol = if may_change { Protocol::MayChange } else { Protocol::Stays };
    // hyper answers 100 itself once the body is polled, which is when the upstream's connection stands.
    let is_ours = hop::expects_continue(fields);
    let Hop { websocket } =
        hop::strip(fields, protocol, |name| (is_ours && *name == header::EXPECT) || forwarded::is_identity(name))
            .map_err(|_| Error::Malformed(PROTECTED))?;
    let added = added_fields(context, &context.authority.raw);
    if let Some(trace) = &context.trace {
        trace.assert(fields);
    }
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
    Ok((expected, added))
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
pub(super) fn receive(head: &mut response::Parts) -> Result<AccountHints, upstream::Error> {
    let hints = AccountHints::read(&head.headers);
    hop::strip(&mut head.headers, Protocol::Stays, account_fields::is_account_field)
        .map_err(|_| upstream::Error::BadResponse(PROTECTED))?;
    Ok(hints)
}

/// Passes on the upstream's 101. The connection, or the HTTP/2 stream, becomes a tunnel once that answer is written.
pub(super) fn switch(
    head: Response<()>,
    upgraded: Upgraded,
    expected: &Expected,
    guard: TunnelGuard,
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
        Expected::Connect(key) if key.is_answered(&head.headers) => {
            head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            head.headers.remove(header::CONNECTION);
            head.headers.remove(header::UPGRADE);
            head.status = StatusCode::OK;
        }
        Expected::Connect(_) => {
            return Err(upstream::Error::BadResponse("its Sec-WebSocket-Accept does not fit the key").into());
        }
    }
    let tunnel = Tunnel { upgraded, exchange: exchange.split(head.status), guard };
    connection.side_channel.tunnel.replace(Some(tunnel));
    Ok(Response::from_parts(head, Body::own("")))
}
