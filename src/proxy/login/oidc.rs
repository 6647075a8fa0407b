//! `/auth/callgate/login`, `/auth/callgate/oidc/NAME`, `/auth/callgate/logout`: the way to an identity provider, the way
//! back, and the way out.

use std::rc::Rc;

use http::header;
use http::{Method, Request, Response, StatusCode};

use crate::auth::{self, Callback, Oidc, OidcError};
use crate::config::Handoff;
use crate::exchange::Body;
use crate::model::html::escape;
use crate::model::login::LoginKind;
use crate::model::path::{LOGIN_PATH, LOGOUT_PATH, OIDC_CALLBACK_PATH};
use crate::proxy::answer::page::{self, Fragment, Page};
use crate::proxy::answer::response;
use crate::proxy::browser::cors::{self, Initiator};
use crate::proxy::browser::fetch_metadata;
use crate::proxy::error::Error;
use crate::proxy::form::Fields;
use crate::proxy::gate::Facts;
use crate::proxy::login::pbx::Selectors;
use crate::proxy::{Caller, Proxy};
use crate::upstream::RequestBody;

const LOGOUT_METHODS: &str = "GET, HEAD, POST";
const METHODS: &str = "GET, HEAD";

/// What a person who logs in wants then.
enum Then {
    /// A session of the PBX.
    Pbx(Selectors),
    /// The site.
    Site,
}

impl Then {
    /// Reads it from the query of the login page; which provider is meant stands beside it.
    fn read(query: &str) -> Result<(Self, Option<String>), Error> {
        let mut fields = Fields::of_form(query.as_bytes())?;
        let with = fields.take("with");
        match fields.take("for").as_deref() {
            None => Ok((Self::Site, with)),
            Some("pbx") => Ok((Self::Pbx(Selectors::read(fields)?), with)),
            Some(_) => Err(Error::Malformed("for is not pbx")),
        }
    }

    /// Writes the path of this host where the login ends. Nothing of it is the caller's but what it wishes to be.
    fn path(&self) -> String {
        match self {
            Self::Pbx(selectors) => selectors.after_login(),
            Self::Site => "/".to_owned(),
        }
    }

    /// Writes the path of the login page for it.
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

impl Proxy {
    /// Answers what is below `/auth/callgate/`.
    pub(in crate::proxy) async fn answer_callgate(
        &self,
        request: &Request<RequestBody>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let path = request.uri().path();
        let provider = path.strip_prefix(OIDC_CALLBACK_PATH).and_then(|name| self.provider(name));
        match (path, provider) {
            (_, Some(provider)) => self.end_login(request, provider, caller).await,
            (LOGIN_PATH, _) if self.has_providers() => self.begin_login(request, caller).await,
            (LOGOUT_PATH, _) if self.has_providers() => self.log_out(request, caller).await,
            _ => self.answer_ticket(request, caller).await,
        }
    }

    /// Tells whether people can log in at a provider: then their browsers keep cookies of ours.
    pub(in crate::proxy) fn has_providers(&self) -> bool {
        self.chain.providers().next().is_some()
    }

    /// Tells whether browsers keep cookies of ours, which no upstream shall see.
    pub(in crate::proxy) fn keeps_cookies(&self) -> bool {
        self.has_providers() || self.config.pbx.as_ref().is_some_and(|pbx| pbx.handoff == Handoff::Cookie)
    }

    fn provider(&self, name: &str) -> Option<&Rc<Oidc>> {
        self.chain.providers().find(|provider| provider.name() == name)
    }

    /// Returns where people log in, if they do at a provider.
    pub(in crate::proxy) fn provider_login(&self, caller: &Caller) -> Option<String> {
        self.has_providers().then(|| format!("{}{LOGIN_PATH}", caller.authority.origin()))
    }

    /// Lets a login at a provider lead back to what was asked for. Right behind a login there is no other: if that one
    /// was not kept, the next would not be either.
    pub(in crate::proxy) fn to_login(&self, error: Error, selectors: &Selectors, caller: &Caller) -> Error {
        let is_ours = |login: &String| self.provider_login(caller).as_ref() == Some(login);
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

    // === There ===

    async fn begin_login(&self, request: &Request<RequestBody>, caller: &Caller) -> Result<Response<Body>, Error> {
        check_click(request)?;
        self.admit_visit(request.method(), request.headers(), caller)?;
        let (then, with) = Then::read(request.uri().query().unwrap_or_default())?;
        let providers: Vec<_> = self.chain.providers().collect();
        let provider = match (with, providers.as_slice()) {
            (Some(name), _) => self.provider(&name).ok_or(Error::NotFound)?,
            (None, [only]) => only,
            (None, _) => return Ok(choice(&providers, &then)),
        };
        if let Some(host) = provider.host().filter(|host| *host != caller.authority.host) {
            let authority = caller.authority.with_host(host);
            let login = then.login(Some(provider.name()));
            return Ok(response::redirect(StatusCode::FOUND, &format!("https://{authority}{login}")));
        }
        let begun = provider.begin(&caller.authority, then.path()).await.map_err(|error| Error::Oidc(error, None))?;
        let mut response = page::continue_with_fragment(&begun.url, Fragment::Keep, &begun.id).respond();
        for forgotten in auth::forget_oldest(request.headers()) {
            response.headers_mut().append(header::SET_COOKIE, forgotten);
        }
        response.headers_mut().append(header::SET_COOKIE, begun.cookie);
        Ok(response)
    }

    // === Back ===

    async fn end_login(
        &self,
        request: &Request<RequestBody>,
        provider: &Oidc,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        check_click(request)?;
        self.admit_visit(request.method(), request.headers(), caller)?;
        let mut fields = Fields::of_form(request.uri().query().unwrap_or_default().as_bytes())?;
        let [code, state, error, iss] = ["code", "state", "error", "iss"].map(|name| fields.take(name));
        // A login ends once, whatever comes of it.
        let forget = state.as_deref().and_then(auth::forget_attempt);
        let callback = Callback { code, state, error, iss };
        let finished = provider.finish(request.headers(), &caller.authority, callback).await.map_err(|error| {
            self.login_failed(provider, &error, caller);
            Error::Oidc(error, forget.clone())
        })?;
        self.note_proven(Some(finished.credential()), caller);
        let mut response = page::continue_with_fragment(&finished.to, Fragment::Restore, &finished.id).respond();
        for cookie in [Some(finished.cookie), forget].into_iter().flatten() {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    }

    /// Audits a login that came to nothing. What the browser of a person is led to by others counts against nobody.
    fn login_failed(&self, provider: &Oidc, error: &OidcError, caller: &Caller) {
        let facts = Facts { method: Some(provider.name()), ..Facts::default() };
        self.failed(LoginKind::Pbx, caller, &facts, &error.why());
    }

    // === Out ===

    /// Logs out after a click on a page of ours: another site's page must not do it.
    async fn log_out(&self, request: &Request<RequestBody>, caller: &Caller) -> Result<Response<Body>, Error> {
        match *request.method() {
            Method::GET | Method::HEAD => {
                Ok(Page::new("Log out?", "").with_form(LOGOUT_PATH, "<button>Log out</button>").respond())
            }
            Method::POST if cors::initiator(request.headers(), &caller.authority, &[]) != Initiator::Own => {
                Err(Error::CrossSite)
            }
            Method::POST => {
                self.admit_visit(request.method(), request.headers(), caller)?;
                let at = self.chain.providers().find(|one| one.knows(request.headers(), &caller.authority.raw));
                let end = match at {
                    Some(provider) => provider.end_session().await,
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
}

/// Refuses what no person has clicked on.
fn check_click(request: &Request<RequestBody>) -> Result<(), Error> {
    if fetch_metadata::looks_ahead(request.method(), request.headers()) {
        return Err(Error::Prefetch);
    }
    if request.method() == Method::GET { Ok(()) } else { Err(Error::MethodNotAllowed(METHODS)) }
}

/// Lets a person choose among providers.
fn choice(providers: &[&Rc<Oidc>], then: &Then) -> Response<Body> {
    let link = |provider: &&Rc<Oidc>| {
        let login = escape(&then.login(Some(provider.name())));
        format!("<p><a href=\"{login}\">{}</a></p>", provider.name())
    };
    Page::new("Log in with", providers.iter().map(link).collect::<String>()).respond()
}
