//! Logins at an identity provider: `/auth/callgate/login` leads there, `/auth/callgate/oidc/NAME` is where the browser comes
//! back, `/auth/callgate/logout` logs out.

use std::rc::Rc;

use http::header;
use http::{Method, Request, Response, StatusCode};

use super::form::Fields;
use super::selectors::Selectors;
use crate::auth::{self, Callback, OidcError, OidcMethod};
use crate::exchange::Body;
use crate::model::html::escape;
use crate::model::path::{LOGIN_PATH, LOGOUT_PATH, OIDC_CALLBACK_PATH};
use crate::proxy::answer::page::{self, Fragment, Page};
use crate::proxy::answer::response;
use crate::proxy::browser::cors::{self, Initiator};
use crate::proxy::browser::fetch_metadata;
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::gate::Gate;
use crate::proxy::gate::audit::Facts;
use crate::upstream::RequestBody;

const LOGOUT_METHODS: &str = "GET, HEAD, POST";
const METHODS: &str = "GET, HEAD";

/// The place where a login leads to.
enum Goal {
    /// A session of the PBX.
    Pbx(Selectors),
    /// The site.
    Site,
}

impl Goal {
    /// Reads the query of the login page: the goal, and the name of the provider.
    fn read(query: &str) -> Result<(Self, Option<String>), Error> {
        let mut fields = Fields::of_form(query.as_bytes())?;
        let with = fields.take("with");
        match fields.take("for").as_deref() {
            None => Ok((Self::Site, with)),
            Some("pbx") => Ok((Self::Pbx(Selectors::read(fields)?), with)),
            Some(_) => Err(Error::Malformed("for is not pbx")),
        }
    }

    /// Writes the path of this host where the login ends. Only the selectors in it come from the caller.
    fn path(&self) -> String {
        match self {
            Self::Pbx(selectors) => selectors.after_login(),
            Self::Site => "/".to_owned(),
        }
    }

    /// Writes the path of the login page.
    fn login(&self, with: Option<&str>) -> String {
        let with = with.map(|name| ("with", name));
        let query = match self {
            Self::Pbx(selectors) => {
                selectors.query(&[Some(("for", "pbx")), with].into_iter().flatten().collect::<Vec<_>>())
            }
            Self::Site => Selectors::default().query(with.as_slice()),
        };
        if query.is_empty() { LOGIN_PATH.to_owned() } else { format!("{LOGIN_PATH}?{query}") }
    }
}

/// Answers `/auth/callgate/login`, the callbacks and the logout.
///
/// # Errors
/// When there is no such path, or the login fails.
pub(in crate::proxy) async fn answer(
    gate: &Gate,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let path = request.uri().path();
    let provider = path.strip_prefix(OIDC_CALLBACK_PATH).and_then(|name| find_provider(gate, name));
    match (path, provider) {
        (_, Some(provider)) => end_login(gate, request, provider, context).await,
        (LOGIN_PATH, _) if gate.has_providers() => begin_login(gate, request, context).await,
        (LOGOUT_PATH, _) if gate.has_providers() => log_out(gate, request, context).await,
        _ => Err(Error::NotFound),
    }
}

fn find_provider<'g>(gate: &'g Gate, name: &str) -> Option<&'g Rc<OidcMethod>> {
    gate.chain.providers().iter().find(|provider| provider.name() == name)
}

/// Lets a login at a provider lead back to what was asked for. Right behind a login there is no other: if the browser did
/// not keep the cookie of that one, it would not keep the next.
pub(super) fn lead_back(gate: &Gate, error: Error, selectors: &Selectors, context: &RequestContext) -> Error {
    let is_ours = |login: &String| gate.provider_login(context).as_ref() == Some(login);
    match error {
        Error::Unauthenticated { login: Some(login) } if is_ours(&login) => {
            if selectors.are_after_login() {
                return Error::Oidc(OidcError::not_kept(), None);
            }
            Error::Unauthenticated { login: Some(format!("{login}?{}", selectors.query(&[("for", "pbx")]))) }
        }
        error => error,
    }
}

// === To the provider ===

async fn begin_login(
    gate: &Gate,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    check_click(request)?;
    gate.admit_visit(LoginRequest::of(request), context)?;
    let (goal, with) = Goal::read(request.uri().query().unwrap_or_default())?;
    let providers = gate.chain.providers();
    let provider = match (with, providers) {
        (Some(name), _) => find_provider(gate, &name).ok_or(Error::NotFound)?,
        (None, [only]) => only,
        (None, _) => return Ok(choice(providers, &goal)),
    };
    if let Some(host) = provider.host().filter(|host| *host != context.authority.host) {
        let authority = context.authority.with_host(host);
        let login = goal.login(Some(provider.name()));
        return Ok(response::redirect(StatusCode::FOUND, &format!("https://{authority}{login}")));
    }
    let begun = provider.begin(&context.authority, goal.path()).await.map_err(|error| Error::Oidc(error, None))?;
    let mut response = page::continue_with_fragment(&begun.url, Fragment::Keep, &begun.id).respond();
    for forgotten in auth::forget_oldest(request.headers()) {
        response.headers_mut().append(header::SET_COOKIE, forgotten);
    }
    response.headers_mut().append(header::SET_COOKIE, begun.cookie);
    Ok(response)
}

// === Back from the provider ===

async fn end_login(
    gate: &Gate,
    request: &Request<RequestBody>,
    provider: &OidcMethod,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    check_click(request)?;
    let attempt = gate.admit_visit(LoginRequest::of(request), context)?;
    let mut fields = Fields::of_form(request.uri().query().unwrap_or_default().as_bytes())?;
    let [code, state, error, iss] = ["code", "state", "error", "iss"].map(|name| fields.take(name));
    // A login ends once, whether it succeeds or not.
    let forget = state.as_deref().and_then(auth::forget_attempt);
    let callback = Callback { code, state, error, iss };
    let finished = provider.finish(request.headers(), &context.authority, callback).await.map_err(|error| {
        // Links of other pages lead browsers here, so no limit counts this.
        gate.audit_refusal(&attempt, &Facts::of_method(Some(provider.name())), &error.cause());
        Error::Oidc(error, forget.clone())
    })?;
    attempt.remember_proven(&gate.state.limits, finished.credential());
    let mut response = page::continue_with_fragment(&finished.to, Fragment::Restore, &finished.id).respond();
    for cookie in [Some(finished.cookie), forget].into_iter().flatten() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

// === Out ===

/// Logs out after a click on a page of ours: another site's page must not do it.
async fn log_out(
    gate: &Gate,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    match *request.method() {
        Method::GET | Method::HEAD => {
            Ok(Page::new("Log out?", "").with_form(LOGOUT_PATH, "<button>Log out</button>").respond())
        }
        Method::POST if cors::initiator(request.headers(), &context.authority, &[]) != Initiator::Own => {
            Err(Error::CrossSite)
        }
        Method::POST => {
            gate.admit_visit(LoginRequest::of(request), context)?;
            let at = gate.chain.providers().iter().find(|one| one.knows(request.headers(), &context.authority.raw));
            let end = match at {
                Some(provider) => end_at(provider, request, context).await,
                None => None,
            };
            let mut response = match end {
                Some(end) => response::redirect(StatusCode::SEE_OTHER, &end),
                None => Page::new("You are logged out", "<p>You can close this window.</p>").respond(),
            };
            for cookie in [auth::forget_login()].into_iter().chain(auth::forget_all(request.headers())) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            Ok(response)
        }
        _ => Err(Error::MethodNotAllowed(LOGOUT_METHODS)),
    }
}

/// Ends the login of the browser's cookie, so that no copy of it works, and returns where the person also logs out of the
/// provider.
async fn end_at(provider: &OidcMethod, request: &Request<RequestBody>, context: &RequestContext) -> Option<String> {
    if let Err(error) = provider.end_login(request.headers(), &context.authority.raw).await {
        tracing::warn!(id = %context.id, %error, "the end of a login cannot be stored; only its cookie is removed");
    }
    provider.end_session().await
}

/// Refuses a request that no person made by a click.
fn check_click(request: &Request<RequestBody>) -> Result<(), Error> {
    if fetch_metadata::is_prefetch(request.method(), request.headers()) {
        return Err(Error::Prefetch);
    }
    if request.method() == Method::GET { Ok(()) } else { Err(Error::MethodNotAllowed(METHODS)) }
}

/// Shows a page with a link for each provider.
fn choice(providers: &[Rc<OidcMethod>], goal: &Goal) -> Response<Body> {
    let link = |provider: &Rc<OidcMethod>| {
        let login = escape(&goal.login(Some(provider.name())));
        format!("<p><a href=\"{login}\">{}</a></p>", provider.name())
    };
    Page::new("Log in with", providers.iter().map(link).collect::<String>()).respond()
}
