//! Logouts of a person: `/auth/pbx/logout` leaves the PBX, `/auth/callgate/logout` leaves the identity provider as well.
//!
//! Both end, first here and then at the PBX, the sessions that callgate opened for the credential that the request shows, and on a
//! host of the PBX also the session of the browser's cookie, even if callgate did not open it. Only a page of this or a listed origin can ask
//! for it; a `GET` shows a button and ends nothing.

use std::rc::Rc;

use futures_util::future::join_all;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use super::auto;
use super::form::{self, BodyFormat};
use super::session::{PbxLogin, PbxLogins};
use crate::auth::{self, OidcMethod};
use crate::config::HostPattern;
use crate::exchange::Body;
use crate::message::cookies;
use crate::model::credential_mark::CredentialMark;
use crate::model::login::{LoginKind, LogoutKind, LogoutOutcome};
use crate::model::page_text::PageText;
use crate::model::path::{LOGOUT_PATH, PBX_LOGOUT_PATH, PBX_PATH};
use crate::model::session::{EndReason, SESSION};
use crate::pbx::{self, SessionFilter};
use crate::proxy::answer::page::Page;
use crate::proxy::answer::reader::Reader;
use crate::proxy::answer::{audience, response};
use crate::proxy::browser::cors::{self, Initiator};
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::gate::Gate;
use crate::proxy::gate::audit::Facts;
use crate::upstream::RequestBody;

const PBX_METHODS: &str = "GET, HEAD, POST, OPTIONS";
const METHODS: &str = "GET, HEAD, POST";
/// The most session cookies of one request that are read. A browser sends one.
const MAX_COOKIES: usize = 4;
/// The longest session id of a cookie, in bytes.
const MAX_SESSION: usize = 128;

// === /auth/pbx/logout ===

/// Answers `/auth/pbx/logout`.
///
/// # Errors
/// When a page of another origin asks, a limit is used up, or the PBX does not confirm the end of a session.
pub(in crate::proxy) async fn answer_pbx(
    logins: PbxLogins<'_>,
    request: Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let hosts = &logins.gate.hosts;
    let origins = match hosts.pbx_at(&context.authority.host) {
        // callgate knows no session of this node, so it can end none.
        Some(node) if logins.at(node).is_none() => return Err(Error::NotFound),
        Some(node) => hosts.origins_of(node),
        None => hosts.origins(LoginKind::Pbx),
    };
    match *request.method() {
        Method::GET | Method::HEAD => {
            let reader = logins.gate.reader(request.uri().query(), request.headers());
            let page = Page::new(reader, PageText::LogOutOfTelephoneQuestion);
            Ok(page.with_button(PBX_LOGOUT_PATH, PageText::LogOut).respond())
        }
        Method::POST => {
            let initiator = logins.gate.hosts.initiator(request.headers(), &context.authority, origins);
            let answered = leave_pbx(logins, request, &initiator, context).await;
            cors::share(answered, &initiator, &context.authority)
        }
        Method::OPTIONS => cors::preflight(request.headers(), &context.authority, origins, PBX_METHODS),
        _ => Err(Error::MethodNotAllowed(PBX_METHODS)),
    }
}

async fn leave_pbx(
    logins: PbxLogins<'_>,
    request: Request<RequestBody>,
    initiator: &Initiator,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    if *initiator == Initiator::Foreign {
        return Err(Error::CrossSite);
    }
    let (head, body) = request.into_parts();
    let asked = LoginRequest::of_head(&head);
    logins.gate.admit_logout(asked, context).await?;
    let format = form::format(asked.headers, Some(BodyFormat::Untyped))?;
    form::read(body, format, logins.gate.config().server.timeouts.header).await?;
    let ended = end_sessions(logins, asked, context).await;
    audit(logins.gate, &ended, context);
    ended.map_err(Error::LogoutUnconfirmed)?;
    let mut response = if audience::accepts(asked.headers, b"text/html") {
        goodbye(logins, asked.headers, context).respond()
    } else if audience::accepts(asked.headers, b"application/json") {
        response::json(&json!({ "logged_out": true }))
    } else {
        response::empty(StatusCode::NO_CONTENT)
    };
    forget_session(logins, &mut response, context);
    Ok(response)
}

/// Says goodbye, and leads on: to a new login, to the PBX's host, whose cookie this host cannot remove, and out of the provider.
fn goodbye<'l>(logins: PbxLogins<'l>, headers: &HeaderMap, context: &RequestContext) -> Page<'l> {
    let page = Page::new(logins.gate.reader(None, headers), PageText::LoggedOut);
    let mut page = page.with_link(PBX_PATH, PageText::LogInAgain);
    for host in other_hosts(logins, context) {
        let address = format!("https://{}{PBX_LOGOUT_PATH}", context.authority.with_host(host));
        page = page.with_text_of(PageText::PasswordQuestion, host).with_link(&address, PageText::LogOutThere);
    }
    match provider_of(logins.gate, headers, context) {
        Some(_) => page.with_button(LOGOUT_PATH, PageText::LogOutOfLoginService),
        None => page,
    }
}

/// Returns a host of each PBX node, if this is none of theirs.
fn other_hosts<'p>(logins: PbxLogins<'p>, context: &RequestContext) -> Vec<&'p str> {
    match logins.gate.hosts.pbx_at(&context.authority.host) {
        Some(_) => Vec::new(),
        None => {
            logins.all().filter_map(|login| login.settings.upstream.hosts.iter().find_map(HostPattern::exact)).collect()
        }
    }
}

// === /auth/callgate/logout ===

/// Answers `/auth/callgate/logout`: leaves the PBX, callgate and the identity provider.
///
/// # Errors
/// When a page of another origin asks, or a limit is used up.
pub(super) async fn answer(
    gate: &Gate,
    pbx: Option<PbxLogins<'_>>,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let headers = request.headers();
    match *request.method() {
        Method::GET | Method::HEAD => {
            let page = Page::new(gate.reader(request.uri().query(), headers), PageText::LogOutQuestion);
            Ok(page.with_button(LOGOUT_PATH, PageText::LogOut).respond())
        }
        Method::POST if gate.hosts.initiator(headers, &context.authority, &[]) != Initiator::Own => {
            Err(Error::CrossSite)
        }
        Method::POST => {
            let asked = LoginRequest::of(request);
            gate.admit_logout(asked, context).await?;
            let ended = match pbx {
                Some(logins) => end_sessions(logins, asked, context).await,
                None => Ok(()),
            };
            audit(gate, &ended, context);
            let provider = end_login(gate, headers, context).await;
            let mut response = lead_on(gate.reader(None, headers), ended.as_ref().err(), provider.as_deref());
            if let (Some(logins), Ok(())) = (pbx, &ended) {
                forget_session(logins, &mut response, context);
            }
            for cookie in [auth::forget_login()].into_iter().chain(auth::forget_all(headers)) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            Ok(response)
        }
        _ => Err(Error::MethodNotAllowed(METHODS)),
    }
}

/// Leads the person on to the provider, if it has a logout. Where the PBX did not confirm the logout, the person learns it
/// first.
fn lead_on(reader: Reader<'_>, unconfirmed: Option<&pbx::Error>, provider: Option<&str>) -> Response<Body> {
    match (unconfirmed, provider) {
        (None, Some(address)) => response::redirect(StatusCode::SEE_OTHER, address),
        (None, None) => Page::new(reader, PageText::LoggedOut).with_text(PageText::CloseWindow).respond(),
        (Some(_), provider) => {
            let page = Page::new(reader, PageText::LogoutUnconfirmed).with_text(PageText::LogoutUnconfirmedAdvice);
            let page = match provider {
                Some(address) => page.with_link(address, PageText::LogOutOfLoginService),
                None => page,
            };
            page.with_status(StatusCode::BAD_GATEWAY).respond()
        }
    }
}

/// Ends the login of the browser's cookie, so that no copy of it works, and returns where the person also logs out of the
/// provider.
async fn end_login(gate: &Gate, headers: &HeaderMap, context: &RequestContext) -> Option<String> {
    let provider = provider_of(gate, headers, context)?;
    if let Err(error) = provider.end_login(headers, &context.authority.raw).await {
        tracing::warn!(id = %context.id, %error, "the end of a login cannot be stored; only its cookie is removed");
    }
    provider.end_session().await
}

/// Finds the provider where the person of a request is logged in.
fn provider_of<'g>(gate: &'g Gate, headers: &HeaderMap, context: &RequestContext) -> Option<&'g Rc<OidcMethod>> {
    gate.chain.providers().iter().find(|provider| provider.knows(headers, &context.authority.raw))
}

// === Sessions of the PBX ===

/// Ends the sessions of a request. What callgate keeps of them ends at once; then the PBX is waited for.
///
/// # Errors
/// When the PBX does not confirm that all have ended.
async fn end_sessions(
    logins: PbxLogins<'_>,
    request: LoginRequest<'_>,
    context: &RequestContext,
) -> Result<(), pbx::Error> {
    let (issued, logs) = (logins.issued(), &logins.gate.logs);
    let marks = logins.gate.marks_of(request, context);
    let here = logins.at_host(&context.authority.host);
    let shown = shown_sessions(here, request.headers);
    let (known, unknown): (Vec<_>, Vec<_>) = shown.into_iter().partition(|session| issued.find(session).is_some());
    // First those that the PBX is told of from here: an old process does not tell it again.
    for session in known.iter().chain(&unknown) {
        issued.end_everywhere(SessionFilter::id(session), EndReason::Logout.into(), logs);
    }
    issued.log_out(&marks, EndReason::Logout, logs);
    let known: Vec<_> = known.iter().filter_map(|session| issued.find(session)).map(|one| one.number).collect();
    let shows = |mark: &CredentialMark| marks.iter().any(|shown| shown.digest == mark.digest);
    let is_of_request = |one: &pbx::IssuedSession| known.contains(&one.number) || one.login.marks.iter().any(shows);
    let patience = logins.all().map(|login| login.settings.timeout * 2).max().unwrap_or_default();
    let settled = timeout(patience, issued.pending().until_settled(is_of_request));
    let asked = here.into_iter().flat_map(|login| {
        unknown.iter().map(move |session| login.sessions.log_out_at_pbx(session, &context.authority.raw))
    });
    let (settled, answers) = tokio::join!(settled, join_all(asked));
    answers.into_iter().collect::<Result<(), _>>()?;
    if settled.unwrap_or(false) { Ok(()) } else { Err(pbx::Error::NotEnded) }
}

/// Returns the sessions of the browser's cookies, on a host of the PBX. On another host a cookie of that name is the app's.
fn shown_sessions<'h>(here: Option<PbxLogin<'_>>, headers: &'h HeaderMap) -> Vec<&'h str> {
    if here.is_none() {
        return Vec::new();
    }
    let is_id = |id: &&str| {
        let is_visible = |byte: u8| byte.is_ascii_graphic() && !b"\"\\,;".contains(&byte);
        (1..=MAX_SESSION).contains(&id.len()) && id.bytes().all(is_visible)
    };
    cookies::values(headers, SESSION).filter(is_id).take(MAX_COOKIES).collect()
}

/// Removes the PBX's cookie, on a host of the PBX: with the name, the path and the host (no `Domain`) with which the PBX and
/// its pages set it.
fn forget_session(logins: PbxLogins<'_>, response: &mut Response<Body>, context: &RequestContext) {
    if let Some(here) = logins.at_host(&context.authority.host) {
        let gone = "session=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Strict";
        response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static(gone));
        if here.settings.auto.is_some() {
            // The next page must not log the person in again.
            response.headers_mut().append(header::SET_COOKIE, auto::stay_out());
        }
    }
}

fn audit(gate: &Gate, ended: &Result<(), pbx::Error>, context: &RequestContext) {
    let (outcome, reason) = match ended {
        Ok(()) => (LogoutOutcome::Done, None),
        Err(error) => (LogoutOutcome::Unconfirmed, Some(format!("the PBX did not confirm it: {error}"))),
    };
    gate.audit_logout(LogoutKind::Person, outcome, context, &Facts::default(), reason.as_deref());
}
