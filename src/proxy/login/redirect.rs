//! Gives a session to redirects of the app that lead to the PBX's landing page without one.

mod account_hints;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

pub(in crate::proxy) use self::account_hints::AccountHints;
use super::landing_place::LandingPlace;
use super::order::{self, Delivery, SessionOrder};
use super::selectors::Selectors;
use super::session::{PbxLogin, PbxLogins};
use super::ticket::{self, Onward};
use crate::auth::{Proof, Verdict};
use crate::config::{Config, Handoff, NodeIndex};
use crate::exchange::Body;
use crate::message::fields;
use crate::model::account::Language;
use crate::model::grant::{REDIRECT, Requested};
use crate::model::landing::{self, BaseUrl, LandingTarget};
use crate::model::login::LoginKind;
use crate::model::principal::{Claim, Principal};
use crate::observe::metrics;
use crate::proxy::browser::fetch_metadata;
use crate::proxy::context::{LoginRequest, RequestContext};
use crate::proxy::error::Error;
use crate::proxy::gate;
use crate::proxy::gate::attempt::Attempt;
use crate::proxy::gate::effects::Effects;

/// The landing page of the legacy dialect. Apps may still name it when the PBX uses cookies.
const WELCOME: &str = "/welcome.htm";

/// The longest page, in bytes, that a ticket remembers. A longer one loses its query and its fragment.
const MAX_PAGE: usize = 2048;

/// Fields that describe the app's page behind a redirect.
static OF_THE_PAGE: [HeaderName; 7] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::ETAG,
    header::LAST_MODIFIED,
    header::EXPIRES,
    header::TRAILER,
];

/// A copy of a request to the app, for the case that its answer leads to the landing page.
pub(in crate::proxy) struct RedirectContext {
    method: Method,
    path: String,
    headers: HeaderMap,
    hints: AccountHints,
}

impl RedirectContext {
    /// Copies what a login needs of a request.
    pub(in crate::proxy) fn of(method: &Method, path: &str, headers: &HeaderMap) -> Self {
        Self { method: method.clone(), path: path.to_owned(), headers: headers.clone(), hints: AccountHints::default() }
    }

    /// Adds the account that the answer names.
    pub(in crate::proxy) fn with(mut self: Box<Self>, hints: AccountHints) -> Box<Self> {
        self.hints = hints;
        self
    }

    /// Tells whether the answer says that the user has logged out of the app.
    pub(super) const fn logs_out(&self) -> bool {
        self.hints.logs_out
    }

    pub(super) fn request(&self) -> LoginRequest<'_> {
        LoginRequest { method: &self.method, headers: &self.headers, query: None }
    }
}

/// An answer of the app that may lead to the landing page.
struct Redirecting<'a> {
    location: String,
    target: LandingTarget,
    /// The node that the target names by its host.
    named: Option<NodeIndex>,
    asked: &'a RedirectContext,
}

/// Gives an answer of the app the session it lacks, if it leads to the landing page. Tells whether it did.
///
/// # Errors
/// When it leads there and there is no session: the bare redirect is never passed on then.
pub(in crate::proxy) async fn give_session(
    logins: PbxLogins<'_>,
    asked: &RedirectContext,
    response: &mut Response<Body>,
    context: &RequestContext,
) -> Result<bool, Error> {
    if !is_redirect(response.status()) {
        return Ok(false);
    }
    let Some(location) = location(response.headers()) else { return Ok(false) };
    let Some((target, named)) = landing_target(logins, &location, asked, context) else { return Ok(false) };
    // A browser must not keep a bare redirect that it fetched ahead, and then show it for the click. This holds also where
    // the app names no account.
    if fetch_metadata::is_prefetch(&asked.method, &asked.headers) {
        return Err(Error::Prefetch);
    }
    let redirecting = Redirecting { location, target, named, asked };
    let Some((principal, attempt)) = prove(logins, &redirecting, context).await? else { return Ok(false) };
    let selectors = Selectors::in_language(offered_language(logins, &principal, &redirecting.location));
    let order = order::decide_for(logins, principal, &selectors, Delivery::Redirect, named, &attempt).await?;
    let order = match place(&order, &redirecting) {
        Some(place) => order::lead_to(order, place, &attempt)?,
        None => order,
    };
    let order = order.with_marks(logins.gate.chain.marks_of_answer(response.headers()));
    let onward = lead_on(order, &redirecting, &attempt).await?;
    redirect(response, &onward.address)?;
    Onward::set_cookie(onward.cookie, response);
    Ok(true)
}

/// Writes the address that takes the place of the app's.
async fn lead_on(
    order: SessionOrder<'_>,
    redirecting: &Redirecting<'_>,
    attempt: &Attempt<'_>,
) -> Result<Onward, Error> {
    let (location, authority, host) = (&redirecting.location, &attempt.context.authority, order.host.clone());
    let login = order.login;
    let accepted = order::accept(order, attempt).await?;
    let page = match (login.settings.handoff, host) {
        (Handoff::Cookie, host) => {
            let host = host.ok_or(Error::Forbidden)?;
            return ticket::begin(login, accepted, &host, &redirecting.asked.headers, attempt).await;
        }
        // The session goes to the landing page of its own node, wherever the reference would lead: neither to the app, nor to a
        // page of another node.
        (Handoff::Link, Some(host)) if redirecting.leaves(login) || host != authority.host => {
            let page = landing::without_session(location, &login.settings.landing, None);
            &format!("https://{}{page}", authority.with_host(&host))
        }
        (Handoff::Link, _) => location,
    };
    let session = accepted.open(login, attempt).await?;
    Ok(Onward { address: landing::with_session(page, &session, accepted.language.as_ref()), cookie: None })
}

/// Finds the place at the PBX that the browser is led to. `None`: the session goes into the address as the app wrote it.
fn place(order: &SessionOrder<'_>, redirecting: &Redirecting<'_>) -> Option<LandingPlace> {
    let (location, settings) = (&redirecting.location, order.login.settings);
    let landing = &settings.landing;
    let host = match &redirecting.target {
        // The account is at another node: the browser is led there.
        _ if redirecting.leaves(order.login) => None,
        LandingTarget::PbxHost(authority) => authority.split(':').next().map(str::to_ascii_lowercase),
        LandingTarget::Relative | LandingTarget::Elsewhere => None,
    };
    match settings.handoff {
        Handoff::Link if host.is_some() => None,
        Handoff::Link => Some(LandingPlace::default()),
        Handoff::Cookie => {
            let page = landing::without_session(location, landing, order.language.as_ref());
            let page = Some(page).filter(|page| page != landing && page.len() <= MAX_PAGE);
            Some(LandingPlace { host, page })
        }
    }
}

/// Finds the caller to log in: the account that the app names, else the caller that the request proves.
async fn prove<'a>(
    logins: PbxLogins<'_>,
    redirecting: &Redirecting<'_>,
    context: &'a RequestContext,
) -> Result<Option<(Principal, Attempt<'a>)>, Error> {
    let (gate, request) = (logins.gate, redirecting.asked.request());
    let verdict = match redirecting.asked.hints.name_an_account() && believes_hints(gate.config()) {
        true => {
            let principal = redirecting.asked.hints.principal();
            let counted =
                if principal.is_some() { metrics::CountedVerdict::Admit } else { metrics::CountedVerdict::Refuse };
            gate.tally.verdict(metrics::CountedMethod::Redirect, counted);
            principal.map(|principal| Verdict::Admit(Proof::ambient(principal)))
        }
        false => Some(gate.chain.ask(&gate::ask_of(LoginKind::Pbx, request, context)).await?),
    };
    // Without a login the redirect is passed on as it is.
    if let Some(Verdict::Stranger | Verdict::Abstain) = verdict {
        return Ok(None);
    }
    let attempt = gate.admit(LoginKind::Pbx, request, context, Effects::Live).await?;
    let initiator = gate.hosts.link_initiator(request.headers, &context.authority);
    let proof = gate.prove(verdict.ok_or(Error::Forbidden)?, &initiator, &attempt).await?;
    Ok(proof.choose(&Requested::default()).map(|principal| (principal, attempt)))
}

/// Tells whether a rule lets the app name accounts.
fn believes_hints(config: &Config) -> bool {
    let mut methods = config.rules.iter().filter_map(|rule| rule.methods.as_ref()).flatten();
    methods.any(|method| method == REDIRECT)
}

impl Redirecting<'_> {
    /// Tells whether the browser is led to another node than the app's answer names.
    fn leaves(&self, login: PbxLogin<'_>) -> bool {
        self.named.is_some_and(|named| named != login.node)
    }
}

/// Finds where a redirect leads, and the node that its host names. `None`: to no landing page.
fn landing_target(
    logins: PbxLogins<'_>,
    location: &str,
    asked: &RedirectContext,
    context: &RequestContext,
) -> Option<(LandingTarget, Option<NodeIndex>)> {
    logins.all().find_map(|login| target_at(login, location, asked, context))
}

/// As [`landing_target`], for the landing page of one node.
fn target_at(
    login: PbxLogin<'_>,
    location: &str,
    asked: &RedirectContext,
    context: &RequestContext,
) -> Option<(LandingTarget, Option<NodeIndex>)> {
    let (own, hosts) = (context.authority.host.as_str(), &login.gate.hosts);
    // A relative address on the app's own host may be a page of the app's; an app that names an account means the PBX's.
    let own_node = hosts.pbx_at(own);
    let means_pbx = own_node == Some(login.node)
        || (own_node.is_none() && asked.hints.name_an_account() && landing::is_relative(location));
    // Other hosts count only when they are listed: where only paths tell the upstreams apart, any host name would match.
    let is_listed = |host: &str| login.settings.upstream.lists(host) && order::is_at(login, host);
    let is_pbx_host = |host: &str| if host == own { means_pbx } else { is_listed(host) };
    let base = BaseUrl { host: own, port: context.authority.port, path: &asked.path, is_pbx_host: &is_pbx_host };
    let landing = login.settings.landing.as_str();
    let pages: &[&str] = if login.settings.handoff == Handoff::Cookie { &[landing, WELCOME] } else { &[landing] };
    match landing::target(location, pages, &base) {
        LandingTarget::Elsewhere => None,
        target @ LandingTarget::PbxHost(_) => Some((target, Some(login.node))),
        LandingTarget::Relative => Some((LandingTarget::Relative, own_node)),
    }
}

/// Returns the language of the caller or of the address. A language that the PBX does not have is dropped: the app's page
/// may know more.
fn offered_language(logins: PbxLogins<'_>, principal: &Principal, location: &str) -> Option<Language> {
    let claim = principal.claims.get("lang").and_then(Claim::text).map(str::to_owned);
    let language = claim.or_else(|| landing::lang_of(location))?;
    language.parse().ok().filter(|language| logins.all().any(|login| login.settings.languages.contains(language)))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Returns the address of a redirect that has exactly one.
fn location(headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(header::LOCATION).into_iter();
    let location = lines.next()?.to_str().ok()?.to_owned();
    lines.next().is_none().then_some(location)
}

/// Turns the app's answer into one that carries a session: no cache stores it, and no `Referer` tells its address.
fn redirect(response: &mut Response<Body>, location: &str) -> Result<(), Error> {
    let location =
        HeaderValue::try_from(location).map_err(|_| Error::Malformed("the redirect has no valid address"))?;
    if matches!(response.status(), StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT) {
        *response.status_mut() = StatusCode::FOUND;
    }
    // The app's page about the redirect names the address without the session.
    *response.body_mut() = Body::own("");
    let fields = response.headers_mut();
    fields::remove(fields, |name| OF_THE_PAGE.contains(name) || is_for_caches(name));
    fields.insert(header::LOCATION, location);
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(())
}

/// Tells whether a field directs some caches apart from `Cache-Control`: those of a CDN (RFC 9213), or nginx.
fn is_for_caches(name: &HeaderName) -> bool {
    name.as_str().ends_with("-cache-control") || ["surrogate-control", "x-accel-expires"].contains(&name.as_str())
}
