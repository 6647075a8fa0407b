//! Logins at an identity provider: `/auth/callgate/login` leads there, `/auth/callgate/oidc/NAME` is where the browser comes
//! back, `/auth/callgate/logout` logs out.

use std::rc::Rc;

use http::header;
use http::{Method, Request, Response, StatusCode};

use super::form::Fields;
use super::logout;
use super::selectors::Selectors;
use super::session::PbxLogins;
use crate::auth::{self, Callback, OidcError, OidcMethod};
use crate::exchange::Body;
use crate::model::page_text::PageText;
use crate::model::path::{LOGIN_PATH, LOGOUT_PATH, OIDC_CALLBACK_PATH};
use crate::proxy::answer::page::{self, Fragment, Page};
use crate::proxy::answer::reader::Reader;
use crate::proxy::answer::response;
use crate::proxy::browser::fetch_metadata;
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::gate::Gate;
use crate::proxy::gate::audit::Facts;
use crate::upstream::RequestBody;

const METHODS: &str = "GET, HEAD";
/// The parameter of the login page, and of the provider (OpenID Connect Core 1.0 §3.1.2.1).
const PROMPT: &str = "prompt";
const SELECT_ACCOUNT: &str = "select_account";

/// The place where a login leads to.
enum Goal {
    /// A session of the PBX.
    Pbx(Selectors),
    /// The site.
    Site,
}

/// The query of the login page.
struct LoginPageQuery {
    goal: Goal,
    /// The name of the provider.
    with: Option<String>,
    /// Whether the provider lets the person choose among their accounts there, also if they are logged in.
    selects_account: bool,
}

impl Goal {
    /// Writes the path of this host where the login ends. Only the selectors in it come from the caller.
    fn path(&self) -> String {
        match self {
            Self::Pbx(selectors) => selectors.after_login(),
            Self::Site => "/".to_owned(),
        }
    }
}

impl LoginPageQuery {
    fn read(query: &str) -> Result<Self, Error> {
        let mut fields = Fields::of_form(query.as_bytes())?;
        let with = fields.take("with");
        let selects_account = match fields.take(PROMPT).as_deref() {
            None => false,
            Some(SELECT_ACCOUNT) => true,
            Some(_) => return Err(Error::Malformed("prompt is not select_account")),
        };
        let goal = match fields.take("for").as_deref() {
            None => Goal::Site,
            Some("pbx") => Goal::Pbx(Selectors::read(fields)?),
            Some(_) => return Err(Error::Malformed("for is not pbx")),
        };
        Ok(Self { goal, with, selects_account })
    }

    /// Writes the path of the login page of a provider.
    fn login_at(&self, provider: &str) -> String {
        let purpose = matches!(self.goal, Goal::Pbx(_)).then_some(("for", "pbx"));
        let prompt = self.selects_account.then_some((PROMPT, SELECT_ACCOUNT));
        let more: Vec<_> = [purpose, prompt, Some(("with", provider))].into_iter().flatten().collect();
        let query = match &self.goal {
            Goal::Pbx(selectors) => selectors.query(&more),
            Goal::Site => Selectors::default().query(&more),
        };
        format!("{LOGIN_PATH}?{query}")
    }
}

/// Answers `/auth/callgate/login`, the callbacks and the logout.
///
/// # Errors
/// When there is no such path, or the login fails.
pub(in crate::proxy) async fn answer(
    gate: &Gate,
    pbx: Option<PbxLogins<'_>>,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let path = request.uri().path();
    let provider = path.strip_prefix(OIDC_CALLBACK_PATH).and_then(|name| find_provider(gate, name));
    match (path, provider) {
        (_, Some(provider)) => end_login(gate, request, provider, context).await,
        (LOGIN_PATH, _) if gate.has_providers() => begin_login(gate, request, context).await,
        (LOGOUT_PATH, _) if gate.has_providers() => logout::answer(gate, pbx, request, context).await,
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

/// Lets a person whom no rule permits this session begin again as another one of their accounts at the provider.
pub(super) fn offer_other_account(gate: &Gate, error: Error, query: Option<&str>) -> Error {
    match error {
        Error::Forbidden if gate.has_providers() => match Selectors::of_query(query) {
            Ok(selectors) => {
                let query = selectors.query(&[("for", "pbx"), (PROMPT, SELECT_ACCOUNT)]);
                Error::LoginAgain(Box::new(Error::Forbidden), format!("{LOGIN_PATH}?{query}"))
            }
            Err(_) => error,
        },
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
    gate.admit_visit(LoginRequest::of(request), context).await?;
    let asked = LoginPageQuery::read(request.uri().query().unwrap_or_default())?;
    let providers = gate.chain.providers();
    let provider = match (&asked.with, providers) {
        (Some(name), _) => find_provider(gate, name).ok_or(Error::NotFound)?,
        (None, [only]) => only,
        (None, _) => return Ok(choice(gate.reader(None, request.headers()), providers, &asked)),
    };
    if let Some(host) = provider.host().filter(|host| *host != context.authority.host) {
        let authority = context.authority.with_host(host);
        let login = asked.login_at(provider.name());
        return Ok(response::redirect(StatusCode::FOUND, &format!("https://{authority}{login}")));
    }
    let prompt = asked.selects_account.then_some((PROMPT, SELECT_ACCOUNT));
    let begun = provider.begin(&context.authority, asked.goal.path(), prompt).await;
    let begun = begun.map_err(|error| Error::Oidc(error, None))?;
    let mut response =
        page::continue_with_fragment(gate.reader(None, request.headers()), &begun.url, Fragment::Keep, &begun.id)
            .respond();
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
    let attempt = gate.admit_visit(LoginRequest::of(request), context).await?;
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
    let mut response = page::continue_with_fragment(
        gate.reader(None, request.headers()),
        &finished.to,
        Fragment::Restore,
        &finished.id,
    )
    .respond();
    for cookie in [Some(finished.cookie), forget].into_iter().flatten() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Refuses a request that no person made by a click.
fn check_click(request: &Request<RequestBody>) -> Result<(), Error> {
    if fetch_metadata::is_prefetch(request.method(), request.headers()) {
        return Err(Error::Prefetch);
    }
    if request.method() == Method::GET { Ok(()) } else { Err(Error::MethodNotAllowed(METHODS)) }
}

/// Shows a page with a link for each provider.
fn choice(reader: Reader<'_>, providers: &[Rc<OidcMethod>], asked: &LoginPageQuery) -> Response<Body> {
    let link = |provider: &Rc<OidcMethod>| (asked.login_at(provider.name()), provider.name().to_owned());
    Page::new(reader, PageText::LogInWith).with_choices(providers.iter().map(link)).respond()
}
