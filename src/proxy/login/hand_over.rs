//! How a session reaches the browser: in a link to the landing page, as a cookie where the browser is, or by a ticket for the
//! PBX's host.

use http::header::HeaderMap;
use http::{Response, StatusCode};
use serde_json::json;

use super::accepted::AcceptedLogin;
use super::order::{self, SessionOrder};
use super::session::PbxLogin;
use super::ticket::{self, Onward};
use crate::config::Handoff;
use crate::exchange::Body;
use crate::model::landing;
use crate::model::session::SessionId;
use crate::proxy::answer::response;
use crate::proxy::error::Error;
use crate::proxy::gate::attempt::Attempt;

/// How long the PBX's temporary token is good, in seconds (dialects B and C). The ticket beside it is good for longer.
const TOKEN_LIFE: u64 = 10;
/// How long a session in a link is said to be good: the PBX's default web session time-out, in seconds (dialect A).
const SESSION_LIFE: u64 = 3600;

/// Sends a browser to the session of an order.
pub(super) async fn send_browser(
    order: SessionOrder<'_>,
    headers: &HeaderMap,
    attempt: &Attempt<'_>,
) -> Result<Response<Body>, Error> {
    let (login, host) = (order.login, order.host()?.to_owned());
    let is_here = host == attempt.context.authority.host;
    let handoff = handoff(&order);
    let accepted = order::accept(order, attempt).await?;
    let onward = match handoff {
        Handoff::Cookie if is_here => {
            return accepted.land(login, attempt, login.gate.reader(None, headers)).await;
        }
        Handoff::Cookie => ticket::begin(login, accepted, &host, headers, attempt).await?,
        Handoff::Link => {
            let session = accepted.open(login, attempt).await?;
            Onward { address: link(login, &accepted, &host, &session, attempt), cookie: None }
        }
    };
    Ok(onward.redirect(StatusCode::SEE_OTHER))
}

/// Describes the session of an order to a program that will send a browser to it. With the cookie hand-over, the program gets
/// a session for itself, and a ticket by which the browser gets another.
pub(super) async fn describe(
    order: SessionOrder<'_>,
    headers: &HeaderMap,
    attempt: &Attempt<'_>,
) -> Result<Response<Body>, Error> {
    let (login, host) = (order.login, order.host()?.to_owned());
    let handoff = handoff(&order);
    let accepted = order::accept(order, attempt).await?;
    let session = accepted.open(login, attempt).await?;
    let (onward, life) = match handoff {
        Handoff::Link => {
            let address = link(login, &accepted, &host, &session, attempt);
            (Onward { address, cookie: None }, SESSION_LIFE)
        }
        Handoff::Cookie => (ticket::begin(login, accepted, &host, headers, attempt).await?, TOKEN_LIFE),
    };
    let Onward { address, cookie } = onward;
    let mut response = response::json(&json!({ "url": address, "session": session.expose(), "expires_in": life }));
    Onward::set_cookie(cookie, &mut response);
    Ok(response)
}

/// Returns the way of an order's session to the browser. In the legacy dialect, only the landing page takes a session from its
/// address: for another page callgate itself gives the browser its cookie.
const fn handoff(order: &SessionOrder<'_>) -> Handoff {
    if order.page.is_some() { Handoff::Cookie } else { order.login.settings.handoff }
}

/// Writes the link to the landing page with a session.
fn link(
    login: PbxLogin<'_>,
    accepted: &AcceptedLogin,
    host: &str,
    session: &SessionId,
    attempt: &Attempt<'_>,
) -> String {
    let authority = attempt.context.authority.with_host(host);
    landing::link(&authority, &login.settings.landing, session, accepted.language.as_ref())
}
