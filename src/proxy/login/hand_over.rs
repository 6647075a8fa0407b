//! How a session reaches the browser: in a link to the landing page, or by a ticket for the PBX's host.

use http::header::HeaderMap;
use http::{Response, StatusCode};
use serde_json::json;

use super::session::{self, MintedSession, PbxLogin};
use super::ticket::{self, Onward};
use crate::config::Handoff;
use crate::exchange::Body;
use crate::model::freeze_target::FreezeTarget;
use crate::model::landing;
use crate::proxy::answer::response;
use crate::proxy::context::RequestContext;
use crate::proxy::error::Error;

/// How long the PBX's temporary token is good, in seconds (dialects B and C).
const TOKEN_LIFE: u64 = 10;
/// How long a session in a link is said to be good: the PBX's default web session time-out, in seconds (dialect A).
const SESSION_LIFE: u64 = 3600;

/// Sends a browser to its session.
pub(super) async fn send_browser(
    login: PbxLogin<'_>,
    minted: MintedSession,
    headers: &HeaderMap,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let is_here = minted.host.as_ref() == Some(&context.authority.host);
    if login.settings.handoff == Handoff::Cookie && is_here {
        let owner = FreezeTarget::of(&minted.role);
        return session::land(login, &minted.id, minted.language.as_ref(), &owner, context).await;
    }
    Ok(address(login, &minted, headers, context).await?.redirect(StatusCode::SEE_OTHER))
}

/// Describes a session to a program that will send a browser to it.
pub(super) async fn describe(
    login: PbxLogin<'_>,
    minted: MintedSession,
    headers: &HeaderMap,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let Onward { address: url, cookie } = address(login, &minted, headers, context).await?;
    let life = match login.settings.handoff {
        Handoff::Link => SESSION_LIFE,
        Handoff::Cookie => TOKEN_LIFE,
    };
    let mut response = response::json(&json!({ "url": url, "session": minted.id.expose(), "expires_in": life }));
    Onward::set_cookie(cookie, &mut response);
    Ok(response)
}

/// Writes the address at which a browser that is elsewhere finds its session.
async fn address(
    login: PbxLogin<'_>,
    minted: &MintedSession,
    headers: &HeaderMap,
    context: &RequestContext,
) -> Result<Onward, Error> {
    match login.settings.handoff {
        Handoff::Link => {
            let authority = context.authority.with_host(minted.host()?);
            let landing = &login.settings.landing;
            let address = landing::link(&authority, landing, &minted.id, minted.language.as_ref());
            Ok(Onward { address, cookie: None })
        }
        Handoff::Cookie => ticket::begin(login, minted, headers, context).await,
    }
}
