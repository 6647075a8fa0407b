//! The handshake of a page's WebSocket that callgate opens at the PBX itself. The PBX gets its own session and its own host;
//! of the page's request it gets only what makes the WebSocket, and of its answer so does the page.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri, request};
use tokio::time::timeout;

use super::next_hop::{Expected, added_fields, prepare, switch};
use super::requester;
use crate::exchange::{Body, ClientConnection, Exchange, TunnelGuard};
use crate::message::fields;
use crate::message::target::Authority;
use crate::message::websocket::{self, WebSocketKey};
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::ExchangeRoute;
use crate::pbx;
use crate::proxy::context::RequestContext;
use crate::proxy::error::Error;
use crate::upstream::{self, RequestBody, SendContext, Upstream, UpstreamResponse};

/// The value of `Allow`. `CONNECT` is no method of the resource: over HTTP/2 it stands for the same `GET` (RFC 8441 §5).
const METHODS: &str = "GET";
/// The fields of the page's request that the PBX gets.
static ASKED: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::USER_AGENT,
];
/// The fields of the PBX's answer that the page gets.
static ANSWERED: [HeaderName; 5] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// A page's handshake, on its way to the PBX.
pub(in crate::proxy) struct Handshake {
    head: request::Parts,
    payload: RequestBody,
    expected: Expected,
    /// The page's own key, over HTTP/1.1.
    key: Option<WebSocketKey>,
}

/// The place where the WebSocket is opened, and what it is opened with.
pub(in crate::proxy) struct SocketTarget<'t> {
    pub(in crate::proxy) upstream: &'t Rc<Upstream>,
    /// The longest time until the PBX has agreed.
    pub(in crate::proxy) deadline: Duration,
    /// The PBX's host.
    pub(in crate::proxy) authority: Authority,
    pub(in crate::proxy) uri: Uri,
    /// The PBX's session.
    pub(in crate::proxy) cookie: HeaderValue,
    /// Ends the tunnel, and the session with it.
    pub(in crate::proxy) guard: TunnelGuard,
}

impl Handshake {
    /// Reads a handshake: an upgrade over HTTP/1.1 (RFC 6455 §4.2.1), or a stream over HTTP/2 (RFC 8441 §4).
    ///
    /// # Errors
    /// When the request is no handshake, or for another version of the protocol.
    pub(in crate::proxy) fn read(
        asked: &request::Parts,
        payload: RequestBody,
        context: &RequestContext,
    ) -> Result<Self, Error> {
        if !matches!(asked.method, Method::GET | Method::HEAD | Method::CONNECT) {
            return Err(Error::MethodNotAllowed(METHODS));
        }
        let mut head = part_for_pbx(asked);
        let (expected, _) = prepare(&mut head, &payload, context)?;
        let key = match expected {
            Expected::Answer => return Err(Error::UpgradeRequired(asked.version)),
            Expected::Upgrade => {
                let key = WebSocketKey::of(&head.headers);
                Some(key.ok_or(Error::Malformed("Sec-WebSocket-Key is not 16 bytes in base64"))?)
            }
            Expected::Connect(_) => None,
        };
        if !websocket::is_known_version(&head.headers) {
            return Err(Error::UpgradeRequired(asked.version));
        }
        Ok(Self { head, payload, expected, key })
    }

    /// Opens the WebSocket at the PBX, and joins the page's end with it once the answer is out.
    ///
    /// # Errors
    /// When the PBX does not open it.
    pub(in crate::proxy) async fn open(
        self,
        target: SocketTarget<'_>,
        connection: &ClientConnection,
        context: &RequestContext,
        exchange: &mut Exchange,
    ) -> Result<Response<Body>, Error> {
        let Self { mut head, payload, expected, key } = self;
        let SocketTarget { upstream, deadline, authority, uri, cookie, guard } = target;
        let origin = HeaderValue::try_from(authority.origin()).map_err(|_| Error::Misdirected)?;
        let added = added_fields(context, &authority.raw);
        for (name, value) in [(header::HOST, authority.raw), (header::ORIGIN, origin), (header::COOKIE, cookie)] {
            head.headers.insert(name, value);
        }
        exchange.set_upstream(UpstreamName::Pbx);
        exchange.set_route(ExchangeRoute::Socket);
        exchange.set_caller(&context.caller);
        let request = upstream::request(head.method, uri, head.headers, payload);
        let sent = Cell::default();
        let client = SendContext {
            requester: requester(connection, context),
            ledger: Some(Arc::clone(&connection.ledger)),
            sent: Some(&sent),
            added: &added,
            ..SendContext::default()
        };
        let answer = timeout(deadline, upstream.send_for(client, request)).await;
        exchange.set_sent_upstream(sent.get());
        let (answer, upgraded) = match answer.map_err(|_| Error::Pbx(pbx::Error::Timeout))?? {
            UpstreamResponse::Upgraded(answer, upgraded) => (answer, upgraded),
            UpstreamResponse::Final(answer) => {
                tracing::warn!(id = %context.id, status = answer.status().as_u16(), "the PBX refused a WebSocket");
                return Err(upstream::Error::BadResponse("it refused the WebSocket").into());
            }
        };
        if key.is_some_and(|key| !key.is_answered(answer.headers())) {
            return Err(upstream::Error::BadResponse("its Sec-WebSocket-Accept does not fit the key").into());
        }
        switch(part_for_page(answer), upgraded, &expected, guard, connection, exchange)
    }
}

/// Copies the part of a request that the PBX gets.
fn part_for_pbx(asked: &request::Parts) -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = asked.method.clone();
    head.version = asked.version;
    for name in &ASKED {
        for line in asked.headers.get_all(name) {
            head.headers.append(name, line.clone());
        }
    }
    head
}

/// Removes what the page does not get: any other field could tell it the session.
fn part_for_page(mut answer: Response<()>) -> Response<()> {
    fields::remove(answer.headers_mut(), |name| !ANSWERED.contains(name));
    answer
}
