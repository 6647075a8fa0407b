//! `[pbx] socket`: a page opens the PBX's WebSocket at callgate, with a session that no browser ever sees.
//!
//! WebSockets know no CORS: any page may open one anywhere, and the browser adds its cookies. So `Origin` is checked before
//! anything is counted or asked. The rest is a login as at `/auth/pbx`.

use std::rc::Rc;
use std::sync::Arc;

use http::header;
use http::{Request, Response, Uri, request};

use super::order::{self, Delivery, SessionOrder};
use super::selectors::Selectors;
use super::session::{PbxLogin, PbxLogins};
use crate::config::PerNode;
use crate::exchange::{Body, ClientConnection, Exchange, TunnelGuard};
use crate::freeze::{FreezeGuard, Owners};
use crate::model::account::Role;
use crate::model::login::LoginKind;
use crate::proxy::browser::cors::Initiator;
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::forward::handshake::{Handshake, SocketTarget};
use crate::proxy::gate::attempt::Attempt;
use crate::proxy::gate::effects::Effects;
use crate::proxy::gate::{Gate, ask_of};
use crate::tls::current::PolicyGuard;
use crate::upstream::{RequestBody, Upstream};

/// The path of the PBX's WebSocket, and the beginning of its query.
const WEBSOCKET: &str = "/websocket?";
/// The reason of a refusal: two nodes have two paths.
const OTHER_PATH: &str = "the [[pbx]] of the account has another `socket`, or none";

/// Opens the PBX's WebSocket for a page or a program.
pub(in crate::proxy) async fn answer(
    logins: PbxLogins<'_>,
    upstreams: &PerNode<Rc<Upstream>>,
    request: Request<RequestBody>,
    connection: &ClientConnection,
    context: &RequestContext,
    exchange: &mut Exchange,
) -> Result<Response<Body>, Error> {
    let gate = logins.gate;
    let path = request.uri().path().to_owned();
    let has_socket = |login: PbxLogin<'_>| login.settings.socket.as_deref() == Some(&*path);
    let here = gate.hosts.pbx_at(&context.authority.host).filter(|_| gate.config().pbx.are_several());
    if !logins.all().any(|login| has_socket(login) && here.is_none_or(|here| here == login.node)) {
        return Err(Error::NotFound);
    }
    let (head, payload) = request.into_parts();
    let handshake = Handshake::read(&head, payload, context)?;
    let (order, attempt) = decide(logins, &head, context).await?;
    let login = order.login;
    if !has_socket(login) {
        return Err(order::refuse(&order, OTHER_PATH, Error::Forbidden, &attempt));
    }
    let authority = context.authority.at_host(order.host()?).map_err(|_| Error::Misdirected)?;
    let accepted = order::accept(order, &attempt).await?;
    let held = accepted.hold(login, &authority.raw, &attempt).await?;
    let role = accepted.grant.role();
    let owners = Owners { known: vec![role.clone()], named: Vec::new() };
    let target = SocketTarget {
        upstream: &upstreams[login.node],
        deadline: login.settings.timeout,
        uri: address(role).ok_or(Error::Misdirected)?,
        authority,
        cookie: held.cookie()?,
        guard: TunnelGuard {
            freeze: FreezeGuard::new(Arc::clone(&gate.state.freezes), owners),
            policy: PolicyGuard::new(&gate.tls, &connection.tls.policy, &context.authority.host),
            sessions: Vec::new(),
            unissued: Vec::new(),
            held: Some(held),
        },
    };
    handshake.open(target, connection, context, exchange).await
}

/// Decides what the caller is granted. Credentials in the address are not looked at: a script opens a WebSocket, and no
/// person confirms a link there.
async fn decide<'a>(
    logins: PbxLogins<'a>,
    head: &request::Parts,
    context: &'a RequestContext,
) -> Result<(SessionOrder<'a>, Attempt<'a>), Error> {
    let gate = logins.gate;
    let request = LoginRequest { query: None, ..LoginRequest::of_head(head) };
    let initiator = initiator(gate, request, context)?;
    let attempt = gate.admit(LoginKind::Pbx, request, context, Effects::Live).await?;
    let selectors = Selectors::of_query(head.uri.query())?;
    let verdict = gate.ask(request, &attempt).await?;
    let proof = gate.prove(verdict, &initiator, &attempt).await?;
    let order = order::decide(logins, proof, &selectors, Delivery::Socket, &attempt).await;
    let order = order.map_err(Error::without_links)?;
    Ok((order, attempt))
}

/// Finds the page that opens the WebSocket. Browsers name it in `Origin` (RFC 6455 §4.1); only a program leaves that out.
///
/// # Errors
/// When it is a page of another origin, or no page is named for a credential that browsers send by themselves.
fn initiator(gate: &Gate, request: LoginRequest<'_>, context: &RequestContext) -> Result<Initiator, Error> {
    let headers = request.headers;
    let initiator = gate.hosts.initiator(headers, &context.authority, gate.hosts.origins(LoginKind::Pbx));
    if initiator == Initiator::Foreign {
        return Err(Error::CrossSite);
    }
    if headers.contains_key(header::ORIGIN) {
        return Ok(initiator);
    }
    let shows_any = !gate.chain.shown(&ask_of(LoginKind::Pbx, request, context)).is_empty();
    if shows_any && !gate.chain.shows_deliberate_field(headers) {
        return Err(Error::CrossSite);
    }
    // A cookie beside such a field does not prove the caller either.
    Ok(Initiator::Foreign)
}

/// Writes the address of the PBX's WebSocket. That of an administrator names no user.
fn address(role: &Role) -> Option<Uri> {
    let mut query = form_urlencoded::Serializer::for_suffix(WEBSOCKET.to_owned(), WEBSOCKET.len());
    query.append_pair("domain", role.domain().as_str());
    if let Role::User(account) = role {
        query.append_pair("user", account.user());
    }
    query.finish().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::account::Account;

    #[test]
    fn the_address_has_no_second_reading() {
        for (user, expected) in
            [("40", "/websocket?domain=acme.test&user=40"), ("+1*_.-x", "/websocket?domain=acme.test&user=%2B1*_.-x")]
        {
            let role = Role::User(Account::new(user, "acme.test".parse().unwrap()).unwrap());
            assert_eq!(address(&role).unwrap(), expected);
        }
    }
}
