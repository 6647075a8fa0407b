//! `/auth/callgate/ticket`: the two-host hand-over. A ticket leads a browser from the host where its caller was proven to
//! the PBX's host, where the session is opened. Only the browser that began the hand-over can use it.
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
use super::accepted::AcceptedLogin;
use super::form::Fields;
use super::order;
use super::session::{PbxLogin, PbxLogins};
use crate::exchange::Body;
use crate::model::digest::sha256;
use crate::model::grant::REDIRECT;
use crate::model::path::{PBX_PATH, TICKET_PATH};
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

/// Begins a hand-over to the PBX's host for a login. `headers`: of the browser's request; a page may be of another site.
///
/// # Errors
/// When the ticket cannot be kept, or no audit line can be written.
pub(super) async fn begin(
    login: PbxLogin<'_>,
    accepted: AcceptedLogin,
    host: &str,
    headers: &HeaderMap,
    attempt: &Attempt<'_>,
) -> Result<Onward, Error> {
    let (gate, context) = (login.gate, attempt.context);
    let at = context.authority.with_host(&context.authority.host);
    let browser = (!gate.is_key(&accepted.caller.method)).then(|| Browser::of(headers));
    let (step, again) = match &browser {
        None => (HandOverStep::Sent, String::new()),
        Some(browser) => {
            let page = if accepted.caller.method == REDIRECT { "/" } else { PBX_PATH };
            let again = format!("{at}{page}");
            (HandOverStep::Begun { browser: browser.digest(), at }, again)
        }
    };
    let payload = TicketPayload { login: accepted, host: host.to_owned(), step, again };
    let address = issue(login, &payload, &context.authority.with_host(host)).await?;
    gate.audit_ticket(attempt, &payload.login.facts()).await?;
    let same_site = if is_of_another_site(headers) { "None" } else { "Lax" };
    Ok(Onward { address, cookie: browser.map(|browser| browser.cookie(same_site)) })
}

async fn issue(login: PbxLogin<'_>, payload: &TicketPayload, authority: &str) -> Result<String, Error> {
    let ticket = login.sessions.tickets().issue(&payload.text(), &payload.again).await.map_err(Error::NotStored)?;
    Ok(format!("https://{authority}{TICKET_PATH}?t={}", ticket.expose()))
}

/// Redeems a ticket: on the host it is for, once, for a window of its own. The last ticket of a hand-over opens the session.
///
/// # Errors
/// When the ticket is unknown, used, expired or another browser's, its account is frozen, or there is no session.
pub(in crate::proxy) async fn answer(
    logins: PbxLogins<'_>,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let (gate, tickets) = (logins.gate, &logins.state.tickets);
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
    let attempt = gate.admit_credential(LoginRequest::of(request), sha256(ticket.as_bytes()), context).await?;
    let value = tickets.redeem(&ticket).await.map_err(Error::NotStored)?;
    attempt.check_failures(&gate.state.limits).await?;
    let payload = value.and_then(|value| TicketPayload::read(&value, &gate.config().rules));
    let payload = payload.filter(|payload| payload.host == context.authority.host);
    let Some((login, payload)) = payload.and_then(|payload| Some((login_of(logins, &payload)?, payload))) else {
        return Err(refuse_unknown(logins, &ticket, &attempt).await);
    };
    payload.login.refuse_frozen(login, &attempt)?;
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
            gate.audit_refusal(&attempt, &payload.login.facts(), "another browser began this login");
            return Err(offer_login(Error::StaleTicket, &payload.again));
        }
    }
    let landed = payload.login.land(login, &attempt, gate.reader(None, request.headers())).await;
    landed.map_err(|error| if error.status().0.is_server_error() { offer_login(error, &payload.again) } else { error })
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

/// Finds the node that opens the session of a ticket. A reload may have removed it, or given its host to another one: a session
/// never goes there.
fn login_of<'p>(logins: PbxLogins<'p>, payload: &TicketPayload) -> Option<PbxLogin<'p>> {
    let (nodes, host) = (&logins.gate.config().pbx, &payload.host);
    let login = match &payload.login.node {
        Some(name) => logins.at(nodes.named(name)?)?,
        None => logins.all().next().filter(|_| !nodes.are_several())?,
    };
    let opens_here = matches!(payload.step, HandOverStep::Sent | HandOverStep::Known { .. });
    (!opens_here || order::is_at(login, host)).then_some(login)
}

/// Refuses a ticket that leads nowhere. One that was issued here is no guess: it was used, or is too old.
async fn refuse_unknown(logins: PbxLogins<'_>, ticket: &str, attempt: &Attempt<'_>) -> Error {
    let gate = logins.gate;
    let again = logins.state.tickets.vouched(ticket);
    if again.is_none()
        && let Err(limited) = attempt.count_guess(&gate.state.limits).await
    {
        return limited.into();
    }
    gate.audit_refusal(attempt, &Facts::default(), "the ticket is unknown, used or expired");
    offer_login(Error::StaleTicket, &again.unwrap_or_default())
}

/// Lets the page of an error offer the login again, at the address that a ticket of ours names.
fn offer_login(error: Error, again: &str) -> Error {
    if again.is_empty() { error } else { Error::LoginAgain(Box::new(error), format!("https://{again}")) }
}

/// Tells whether a page of another site asks, which only `SameSite=None` lets keep a cookie.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) && headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}
