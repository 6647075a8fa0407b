//! `GET|POST /auth/pbx`: a session of the PBX, and how it reaches the browser.

use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use crate::auth::{Once, Proof, Verdict};
use crate::config::{self, Handoff, HostPattern};
use crate::exchange::Body;
use crate::model::account::{Language, Role};
use crate::model::freeze_target::FreezeTarget;
use crate::model::grant::{PbxGrant, Requested};
use crate::model::landing;
use crate::model::login::LoginKind;
use crate::model::path::PBX_PATH;
use crate::model::principal::Principal;
use crate::model::session::SessionId;
use crate::model::upstream_name::UpstreamName;
use crate::pbx::Pbx;
use crate::proxy::answer::{audience, page, response};
use crate::proxy::browser::cors::{self, Initiator};
use crate::proxy::browser::fetch_metadata;
use crate::proxy::error::Error;
use crate::proxy::form::{self, BodyFormat, Fields};
use crate::proxy::gate::Facts;
use crate::proxy::login::confirm;
use crate::proxy::login::ticket::Onward;
use crate::proxy::{Caller, Proxy};
use crate::upstream::RequestBody;

const METHODS: &str = "GET, HEAD, POST, OPTIONS";
/// How long the PBX's temporary token is good, in seconds (dialects B and C).
const TOKEN_LIFE: u64 = 10;
/// How long a session in a link is said to be good: the PBX's default web session time-out, in seconds (dialect A).
const SESSION_LIFE: u64 = 3600;
/// The parameter that marks the second try of a navigation that another site began, or that comes from a login.
const AGAIN: &str = "again";
/// Its value behind a login.
const LOGIN: &str = "login";

/// The PBX as the place of a login.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Side<'p> {
    /// What is configured of it.
    pub(in crate::proxy) settings: &'p config::PbxConfig,
    /// Where sessions are minted.
    sessions: &'p Pbx,
}

/// What somebody wants to have of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Wanted {
    /// An address that leads a browser to it: the PBX's host must be known before the PBX is asked.
    Address,
    /// Its id alone.
    Session,
}

/// A session with what its hand-over needs to know.
pub(in crate::proxy) struct Minted {
    pub(in crate::proxy) session: SessionId,
    pub(in crate::proxy) role: Role,
    pub(in crate::proxy) language: Option<Language>,
    /// The PBX's host for the browser, where an address is wanted.
    pub(in crate::proxy) host: Option<String>,
    /// Whether a server with a key asked, which answers for the browser that it sends.
    pub(in crate::proxy) is_by_key: bool,
}

impl Minted {
    pub(in crate::proxy) fn host(&self) -> Result<&str, Error> {
        self.host.as_deref().ok_or(Error::Forbidden)
    }
}

/// What the caller asks for: whom to be, and in which language.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Selectors {
    pub(in crate::proxy) wish: Requested,
    pub(in crate::proxy) language: Option<Language>,
    again: Option<String>,
}

impl Selectors {
    /// Asks for nobody in particular.
    pub(in crate::proxy) fn in_language(language: Option<Language>) -> Self {
        Self { language, ..Self::default() }
    }

    /// Asks for somebody.
    pub(in crate::proxy) fn of(wish: Requested) -> Self {
        Self { wish, ..Self::default() }
    }

    pub(in crate::proxy) fn read(mut fields: Fields) -> Result<Self, Error> {
        let language = fields.take("lang").filter(|code| !code.is_empty());
        let language =
            language.map(|code| code.parse()).transpose().map_err(|_| Error::Malformed("lang is not a language"))?;
        let wish = Requested { account: fields.take("account"), domain: fields.take("domain"), user: None };
        Ok(Self { wish, language, again: fields.take(AGAIN) })
    }

    /// Writes the path that asks for the same once more.
    fn again(&self) -> String {
        path_for(&self.wish, self.language.as_ref(), &[(AGAIN, "1")])
    }

    /// Writes the path that asks for the same after a login.
    pub(in crate::proxy) fn after_login(&self) -> String {
        path_for(&self.wish, self.language.as_ref(), &[(AGAIN, LOGIN)])
    }

    /// Writes a query that asks for the same.
    pub(in crate::proxy) fn query(&self, more: &[(&str, &str)]) -> String {
        query_for(&self.wish, self.language.as_ref(), more)
    }

    /// Tells whether a login has just ended.
    pub(in crate::proxy) fn are_after_login(&self) -> bool {
        self.again.as_deref() == Some(LOGIN)
    }
}

/// Writes the path at which a session is asked for.
pub(in crate::proxy) fn path_for(wish: &Requested, language: Option<&Language>, more: &[(&str, &str)]) -> String {
    format!("{PBX_PATH}?{}", query_for(wish, language, more))
}

fn query_for(wish: &Requested, language: Option<&Language>, more: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let language = language.map(Language::as_str);
    for (name, value) in [("account", wish.account.as_deref()), ("domain", wish.domain.as_deref()), ("lang", language)]
    {
        query.extend_pairs(value.map(|value| (name, value)));
    }
    query.extend_pairs(more);
    query.finish()
}

impl Proxy {
    /// Answers `/auth/pbx`: a link, a page or a server that asks, a preflight.
    pub(in crate::proxy) async fn answer_pbx(
        &self,
        request: Request<RequestBody>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let pbx = self.pbx_side().ok_or(Error::NotFound)?;
        match *request.method() {
            Method::GET | Method::HEAD => self.answer_link(&request, pbx, caller).await,
            Method::POST => self.answer_page(request, pbx, caller).await,
            Method::OPTIONS => cors::preflight(request.headers(), &caller.authority, self.origins(), METHODS),
            _ => Err(Error::MethodNotAllowed(METHODS)),
        }
    }

    /// Returns the PBX that sessions can be minted at.
    pub(in crate::proxy) fn pbx_side(&self) -> Option<Side<'_>> {
        Some(Side { settings: self.config.pbx.as_ref()?, sessions: self.sessions.as_ref()? })
    }

    pub(in crate::proxy) fn origins(&self) -> &[String] {
        self.config.voximplant.as_ref().map_or(&[], |voximplant| &voximplant.origins)
    }

    /// Finds the page behind a request for a link or a redirect: whoever clicked on it asks by themselves.
    pub(in crate::proxy) fn page(&self, headers: &HeaderMap, caller: &Caller) -> Initiator {
        if fetch_metadata::is_top_level(headers) {
            return Initiator::Own;
        }
        cors::initiator(headers, &caller.authority, self.origins())
    }

    // === A link that a person clicks ===

    async fn answer_link(
        &self,
        request: &Request<RequestBody>,
        pbx: Side<'_>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        if fetch_metadata::looks_ahead(request.method(), request.headers()) {
            return Err(Error::Prefetch);
        }
        self.admit_fields(LoginKind::Pbx, (request.method(), request.headers(), request.uri().query()), caller)?;
        let selectors = Selectors::read(Fields::of_form(request.uri().query().unwrap_or_default().as_bytes())?)?;
        let proof = match self.ask(LoginKind::Pbx, request.headers(), request.uri().query(), caller).await? {
            // The app's cookie may be missing only because it is `SameSite=Strict`.
            Verdict::Stranger | Verdict::Abstain
                if selectors.again.is_none() && fetch_metadata::is_from_elsewhere(request.headers()) =>
            {
                return Ok(page::continue_to(&selectors.again()).respond());
            }
            verdict => self
                .judge(verdict, &self.page(request.headers(), caller), LoginKind::Pbx, caller)
                .map_err(|error| self.to_login(error, &selectors, caller))?,
        };
        if confirm::is_needed(&proof, request.headers()) {
            return Ok(confirm::page(request.uri().query().unwrap_or_default()));
        }
        let minted = self.mint(proof, selectors, Wanted::Address, pbx, caller).await?;
        self.hand_over(minted, pbx, request.headers(), caller).await
    }

    /// Mints a session for a proven caller.
    pub(in crate::proxy) async fn mint(
        &self,
        proof: Proof,
        selectors: Selectors,
        wanted: Wanted,
        pbx: Side<'_>,
        caller: &Caller,
    ) -> Result<Minted, Error> {
        let (by_itself, once) = (proof.is_ambient(), proof.spends().cloned());
        let principal = self.choose(LoginKind::Pbx, proof, &selectors.wish, caller)?;
        let minted = self.mint_for(&principal, once.as_ref(), &selectors, wanted, pbx, caller).await;
        // Whoever follows a link of ours brings the credentials that travel by themselves, and no others.
        minted.map_err(|error| if by_itself { error } else { error.without_links() })
    }

    /// Mints a session for a caller with all its claims.
    pub(in crate::proxy) async fn mint_for(
        &self,
        principal: &Principal,
        once: Option<&Once>,
        selectors: &Selectors,
        wanted: Wanted,
        pbx: Side<'_>,
        caller: &Caller,
    ) -> Result<Minted, Error> {
        let grant = self.grant_pbx(principal, selectors, caller)?;
        let language = language(selectors.language.as_ref(), &grant, pbx.settings)?;
        let facts = Facts {
            principal: Some(principal),
            rule: Some(grant.rule()),
            account: Some(grant.role().to_string()),
            level: Some(grant.role().level()),
            ..Facts::default()
        };
        let host = match wanted {
            Wanted::Session => None,
            Wanted::Address => Some(self.pbx_host(grant.role(), pbx, caller).inspect_err(|_| {
                self.failed(LoginKind::Pbx, caller, &facts, "no host of [pbx] hosts is a name to send the browser to");
            })?),
        };
        if host.is_some() && !self.may_begin_here(pbx.settings, principal, caller) {
            self.failed(
                LoginKind::Pbx,
                caller,
                &facts,
                "neither a certificate nor `hosts` names the host where it begins",
            );
            return Err(Error::Misdirected);
        }
        let pending = self.pending(LoginKind::Pbx, caller, &facts);
        let spent = self.spend(LoginKind::Pbx, once, caller, &facts).await;
        // To mark the credential took the disk a while.
        let minted = match spent {
            Ok(()) if self.shared.frozen.has(grant.role()) => Err(self.frozen(LoginKind::Pbx, caller, &facts)),
            Ok(()) => Ok(pbx.sessions.mint(grant.role()).await),
            Err(error) => Err(error),
        };
        pending.settle();
        match minted? {
            Ok(session) => {
                self.shared.issued.note(&session, grant.role(), Instant::now());
                // It took the PBX a while: meanwhile somebody may have been frozen.
                if self.shared.frozen.has(grant.role()) {
                    return Err(self.frozen(LoginKind::Pbx, caller, &facts));
                }
                self.granted(LoginKind::Pbx, caller, &facts).await?;
                Ok(Minted {
                    session,
                    role: grant.role().clone(),
                    language,
                    host,
                    is_by_key: self.is_key(&principal.method),
                })
            }
            Err(error) => {
                self.failed(LoginKind::Pbx, caller, &facts, &error.to_string());
                Err(error.into())
            }
        }
    }

    pub(in crate::proxy) async fn hand_over(
        &self,
        minted: Minted,
        pbx: Side<'_>,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let is_here = minted.host.as_ref() == Some(&caller.authority.host);
        if pbx.settings.handoff == Handoff::Cookie && is_here {
            return self
                .land(&minted.session, minted.language.as_ref(), &FreezeTarget::of(&minted.role), pbx, caller)
                .await;
        }
        let Onward { address, cookie } = self.address(&minted, pbx, headers, caller).await?;
        let mut response = response::redirect(StatusCode::SEE_OTHER, &address);
        Onward::mark(cookie, &mut response);
        Ok(response)
    }

    /// Writes the address at which a browser that is elsewhere finds its session.
    async fn address(
        &self,
        minted: &Minted,
        pbx: Side<'_>,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<Onward, Error> {
        let settings = pbx.settings;
        match settings.handoff {
            Handoff::Link => {
                let authority = caller.authority.with_host(minted.host()?);
                let address = landing::link(&authority, &settings.landing, &minted.session, minted.language.as_ref());
                Ok(Onward { address, cookie: None })
            }
            Handoff::Cookie => self.ticket(minted, headers, caller).await,
        }
    }

    /// Exchanges the token for the PBX's cookie, and lets the browser go on to the landing page with it.
    ///
    /// That page takes no language from its address, so the session is told; in the wrong language it is a session still.
    pub(in crate::proxy) async fn land(
        &self,
        token: &SessionId,
        language: Option<&Language>,
        whom: &FreezeTarget,
        pbx: Side<'_>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let host = &caller.authority.raw;
        self.thawed(whom)?;
        let owner = self.shared.issued.account(token.expose(), Instant::now()).or_else(|| match whom {
            FreezeTarget::Account(account) => Some(Role::User(account.clone())),
            FreezeTarget::Domain(_) | FreezeTarget::User(_) => None,
        });
        let cookies = pbx.sessions.exchange(token, host.clone()).await?;
        if let Some(owner) = &owner {
            self.note_sessions(&cookies, owner);
        }
        if let Some(language) = language
            && let Err(error) = pbx.sessions.speak(language, &cookies, host.clone()).await
        {
            tracing::warn!(id = %caller.id, error = &error as &dyn std::error::Error, "the PBX did not take the language");
        }
        let mut response = page::continue_to(&pbx.settings.landing).respond();
        for cookie in cookies {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    }

    /// Finds the host name under which the browser meets the PBX: the one it is at; the granted domain, by which the PBX
    /// picks the tenant; the first that is configured.
    pub(in crate::proxy) fn pbx_host(&self, role: &Role, pbx: Side<'_>, caller: &Caller) -> Result<String, Error> {
        let own = &caller.authority.host;
        if self.is_pbx_host(own) {
            return Ok(own.clone());
        }
        let hosts = &pbx.settings.upstream.hosts;
        let domain = role.domain().as_str();
        if pbx.settings.upstream.lists(domain) {
            return Ok(domain.to_owned());
        }
        let first = hosts.iter().find_map(HostPattern::exact);
        first.map(str::to_owned).ok_or_else(|| {
            tracing::warn!(account = %role, "no host of [pbx] hosts is a name to send the browser to");
            Error::Forbidden
        })
    }

    /// Tells whether the landing page of the request's own host is the PBX's.
    pub(in crate::proxy) fn is_pbx_host(&self, host: &str) -> bool {
        let Some(pbx) = &self.config.pbx else { return false };
        pbx.upstream.lists(host) || self.routes.find(host, &pbx.landing.to_ascii_lowercase()) == Some(UpstreamName::Pbx)
    }

    // === A page or a server that asks by itself ===

    async fn answer_page(
        &self,
        request: Request<RequestBody>,
        pbx: Side<'_>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let initiator = cors::initiator(request.headers(), &caller.authority, self.origins());
        let answered = self.session(request, &initiator, pbx, caller).await;
        cors::share(answered, &initiator, &caller.authority)
    }

    async fn session(
        &self,
        request: Request<RequestBody>,
        initiator: &Initiator,
        pbx: Side<'_>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let (head, body) = request.into_parts();
        self.admit(LoginKind::Pbx, &head, caller)?;
        let verdict = self.ask(LoginKind::Pbx, &head.headers, head.uri.query(), caller).await?;
        let proof = self.judge(verdict, initiator, LoginKind::Pbx, caller)?;
        // The vendor's page names no type for the JSON it sends, and a program that wants nothing special sends none.
        let format = form::format(&head.headers, Some(BodyFormat::Untyped))?;
        let selectors = Selectors::read(form::read(body, format, self.config.server.timeouts.header).await?)?;
        let wants_all = !proof.is_ambient() || audience::accepts(&head.headers, b"application/vnd.callgate+json");
        let wanted = if wants_all { Wanted::Address } else { Wanted::Session };
        let minted = self.mint(proof, selectors, wanted, pbx, caller).await?;
        if wants_all {
            self.describe(minted, pbx, &head.headers, caller).await
        } else {
            Ok(response::json(&json!(minted.session.expose())))
        }
    }

    /// Describes the session to a program that will send a browser to it.
    async fn describe(
        &self,
        minted: Minted,
        pbx: Side<'_>,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let Onward { address: url, cookie } = self.address(&minted, pbx, headers, caller).await?;
        let life = match pbx.settings.handoff {
            Handoff::Link => SESSION_LIFE,
            Handoff::Cookie => TOKEN_LIFE,
        };
        let mut response =
            response::json(&json!({ "url": url, "session": minted.session.expose(), "expires_in": life }));
        Onward::mark(cookie, &mut response);
        Ok(response)
    }
}

/// Checks the language that was asked for against those the PBX and the rule have.
pub(in crate::proxy) fn language(
    wished: Option<&Language>,
    grant: &PbxGrant,
    pbx: &config::PbxConfig,
) -> Result<Option<Language>, Error> {
    let Some(wished) = wished else { return Ok(None) };
    let offered =
        pbx.languages.contains(wished) && grant.languages().is_none_or(|languages| languages.contains(wished));
    if offered {
        Ok(Some(wished.clone()))
    } else {
        Err(Error::Malformed("lang is not one of the configured languages"))
    }
}
