//! `/auth/callgate/ticket`: the two-host hand-over. A ticket leads a browser from the host where its caller was proven to
//! the PBX's host. Only the browser that began the hand-over can use it.
//!
//! The two hosts may be two sites, which share no cookie. So the browser goes to and fro once: the ticket leads it to the
//! PBX's host, which gives it a cookie and sends it back; the first host knows it by a cookie of the beginning, and sends
//! it there again with a ticket for that cookie. No page can put its visitor into another's session: it cannot set
//! `__Host-` cookies, and no ticket works without them.

mod browser;
mod payload;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use self::browser::Browser;
use self::payload::{HandOverStep, TicketPayload};
use super::form::Fields;
use super::session::{self, MintedSession, PbxLogin};
use crate::exchange::Body;
use crate::model::digest::sha256;
use crate::model::freeze_target::FreezeTarget;
use crate::model::path::TICKET_PATH;
use crate::proxy::answer::response;
use crate::proxy::browser::fetch_metadata;
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::gate::attempt::Attempt;
use crate::proxy::gate::audit::Facts;
use crate::upstream::RequestBody;

/// The next address of a browser, and the cookie by which it will be recognized there.
pub(super) struct Onward {
    pub(super) address: String,
    pub(super) cookie: Option<HeaderValue>,
}

impl Onward {
    /// Puts the cookie into an answer.
    pub(super) fn set_cookie(cookie: Option<HeaderValue>, response: &mut Response<Body>) {
        if let Some(cookie) = cookie {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }

    /// Sends the browser there.
    pub(super) fn redirect(self, status: StatusCode) -> Response<Body> {
        let mut response = response::redirect(status, &self.address);
        Self::set_cookie(self.cookie, &mut response);
        response
    }
}

/// Begins a hand-over to the PBX's host. `headers`: of the browser's request; a page may be of another site.
///
/// # Errors
/// When the ticket cannot be kept.
pub(super) async fn begin(
    login: PbxLogin<'_>,
    minted: &MintedSession,
    headers: &HeaderMap,
    context: &RequestContext,
) -> Result<Onward, Error> {
    let host = minted.host()?.to_owned();
    let there = context.authority.with_host(&host);
    let browser = (!minted.is_by_key).then(|| Browser::of(headers));
    let step = browser.as_ref().map_or(HandOverStep::Sent, |browser| HandOverStep::Begun {
        browser: browser.digest(),
        at: context.authority.with_host(&context.authority.host),
    });
    let (token, language) = (minted.id.clone(), minted.language.clone());
    let payload = TicketPayload { token, language, host, step, owner: FreezeTarget::of(&minted.role) };
    let same_site = if is_of_another_site(headers) { "None" } else { "Lax" };
    Ok(Onward {
        address: issue(login, &payload, &there).await?,
        cookie: browser.map(|browser| browser.cookie(same_site)),
    })
}

async fn issue(login: PbxLogin<'_>, payload: &TicketPayload, authority: &str) -> Result<String, Error> {
    let ticket = login.sessions.tickets().issue(&payload.text()).await.map_err(Error::NotStored)?;
    Ok(format!("https://{authority}{TICKET_PATH}?t={}", ticket.expose()))
}

/// Redeems a ticket: on the host it is for, once, for a window of its own.
///
/// # Errors
/// When the ticket is unknown, used, expired or another browser's, or its account is frozen.
pub(in crate::proxy) async fn answer(
    login: PbxLogin<'_>,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let (gate, tickets) = (login.gate, login.sessions.tickets());
    if fetch_metadata::is_prefetch(request.method(), request.headers()) {
        return Err(Error::Prefetch);
    }
    if request.method() != Method::GET {
        return Err(Error::MethodNotAllowed("GET, HEAD"));
    }
    if !fetch_metadata::is_top_level(request.headers()) {
        return Err(Error::CrossSite);
    }
    let mut fields = Fields::of_form(request.uri().query().unwrap_or_default().as_bytes())?;
    let ticket = fields.take("t").ok_or(Error::Malformed("the parameter t is missing"))?;
    let attempt = gate.admit_credential(LoginRequest::of(request), sha256(ticket.as_bytes()), context)?;
    let payload = tickets.redeem(&ticket).await.map_err(Error::NotStored)?;
    attempt.check_failures(&gate.state.limits)?;
    let payload = payload.as_ref().and_then(TicketPayload::read);
    let Some(payload) = payload.filter(|payload| payload.host == context.authority.host) else {
        return Err(refuse_unknown(login, &ticket, &attempt));
    };
    if gate.state.freezes.covers(&payload.owner) {
        return Err(Error::Forbidden);
    }
    let browser = Browser::of(request.headers());
    match &payload.step {
        HandOverStep::Sent => {}
        HandOverStep::Known { there } if *there == browser.digest() => {}
        HandOverStep::Begun { .. } => return send_back(login, payload, &browser, context).await,
        HandOverStep::Back { browser: known, .. } if *known == browser.digest() => {
            return send_again(login, payload).await;
        }
        HandOverStep::Known { .. } | HandOverStep::Back { .. } => {
            // This is no guess: the address may have been sent to a person as a trap.
            gate.audit_refusal(&attempt, &Facts::default(), "another browser began this login");
            return Err(Error::Forbidden);
        }
    }
    session::land(login, &payload.token, payload.language.as_ref(), &payload.owner, context).await
}

/// Gives the browser a cookie of the PBX's host, and sends it back to where it began.
async fn send_back(
    login: PbxLogin<'_>,
    payload: TicketPayload,
    here: &Browser,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let HandOverStep::Begun { browser, at } = payload.step else { return Err(Error::Forbidden) };
    let to = context.authority.with_host(&context.authority.host);
    let step = HandOverStep::Back { browser, there: here.digest(), to };
    let payload = TicketPayload { host: without_port(&at).to_owned(), step, ..payload };
    let address = issue(login, &payload, &at).await?;
    Ok(Onward { address, cookie: Some(here.cookie("Lax")) }.redirect(StatusCode::SEE_OTHER))
}

/// Sends the browser that began to the PBX's host once more, where its cookie is.
async fn send_again(login: PbxLogin<'_>, payload: TicketPayload) -> Result<Response<Body>, Error> {
    let HandOverStep::Back { there, to, .. } = payload.step else { return Err(Error::Forbidden) };
    let step = HandOverStep::Known { there };
    let payload = TicketPayload { host: without_port(&to).to_owned(), step, ..payload };
    let address = issue(login, &payload, &to).await?;
    Ok(Onward { address, cookie: None }.redirect(StatusCode::SEE_OTHER))
}

fn without_port(authority: &str) -> &str {
    let host = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    host.map_or(authority, |(host, _)| host)
}

/// Refuses a ticket that leads nowhere. One that was issued here is no guess: it was used, or is too old.
fn refuse_unknown(login: PbxLogin<'_>, ticket: &str, attempt: &Attempt<'_>) -> Error {
    if !login.sessions.tickets().has_issued(ticket)
        && let Err(limited) = attempt.count_guess(&login.gate.state.limits)
    {
        return limited.into();
    }
    login.gate.audit_refusal(attempt, &Facts::default(), "the ticket is unknown, used or expired");
    Error::Forbidden
}

/// Tells whether a page of another site asks, which only `SameSite=None` lets keep a cookie.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) && headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}
