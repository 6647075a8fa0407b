//! Redirects of the app that lead to the PBX's landing page are given the session they lack.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::auth::{Proof, Verdict};
use crate::config::{self, Handoff};
use crate::exchange::Body;
use crate::message::account_fields::{PBX_ACCOUNT, PBX_DOMAIN, PBX_LANG, is_account_field};
use crate::message::fields;
use crate::model::account::Language;
use crate::model::grant::{REDIRECT, Requested};
use crate::model::landing::{self, BaseUrl, LandingTarget};
use crate::model::login::LoginKind;
use crate::model::principal::{Claim, Claims, Principal};
use crate::observe::metrics;
use crate::proxy::browser::fetch_metadata;
use crate::proxy::error::Error;
use crate::proxy::login::pbx::{Selectors, Wanted};
use crate::proxy::login::ticket::Onward;
use crate::proxy::{Caller, Proxy};

/// The landing page of the legacy dialect, which apps may go on to name when the PBX has moved on to cookies.
const WELCOME: &str = "/welcome.htm";

/// What is said of the app's page about a redirect.
static OF_THE_PAGE: [HeaderName; 7] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::ETAG,
    header::LAST_MODIFIED,
    header::EXPIRES,
    header::TRAILER,
];

/// What is kept of a request to the app, in case its answer leads to the landing page.
pub(in crate::proxy) struct Kept {
    method: Method,
    path: String,
    headers: HeaderMap,
}

/// Whom the app itself names in its answer.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Named {
    account: Option<HeaderValue>,
    domain: Option<HeaderValue>,
    lang: Option<HeaderValue>,
    doubled: bool,
}

impl Named {
    /// Reads the fields by which an app names an account, in any answer of any upstream.
    pub(in crate::proxy) fn read(headers: &HeaderMap) -> Self {
        if !headers.keys().any(is_account_field) {
            return Self::default();
        }
        let doubled = [PBX_ACCOUNT, PBX_DOMAIN, PBX_LANG].iter().any(|name| headers.get_all(name).iter().count() > 1);
        let first = |name| headers.get(name).cloned();
        Self { account: first(PBX_ACCOUNT), domain: first(PBX_DOMAIN), lang: first(PBX_LANG), doubled }
    }

    const fn names_somebody(&self) -> bool {
        self.account.is_some() || self.domain.is_some()
    }

    /// Reads the names as a credential of the method `redirect`.
    fn principal(&self) -> Option<Principal> {
        let text = |value: &Option<HeaderValue>| Some(value.as_ref()?.to_str().ok()?.to_owned());
        let (account, domain) = (text(&self.account)?, text(&self.domain)?);
        let subject = format!("{account}@{domain}").to_lowercase();
        let mut claims = Claims::from([("account".into(), account.into()), ("domain".into(), domain.into())]);
        claims.extend(text(&self.lang).map(|lang| ("lang".into(), lang.into())));
        (!self.doubled).then(|| Principal { method: REDIRECT.into(), subject, claims })
    }
}

impl Proxy {
    /// Keeps what injection needs of a request to the app; nothing where no session could be minted.
    pub(in crate::proxy) fn keep(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Kept> {
        self.pbx_side()?;
        Some(Kept { method: method.clone(), path: path.to_owned(), headers: headers.clone() })
    }

    /// Gives an answer of the app the session it lacks, if it leads to the landing page. Tells whether it did.
    ///
    /// # Errors
    /// When it does and there is no session: the bare redirect is never passed on then.
    pub(in crate::proxy) async fn inject(
        &self,
        kept: Kept,
        named: &Named,
        response: &mut Response<Body>,
        caller: &Caller,
    ) -> Result<bool, Error> {
        let Some(pbx) = self.pbx_side().filter(|_| is_redirect(response.status())) else { return Ok(false) };
        let Some(location) = location(response.headers()) else { return Ok(false) };
        let target = self.leads_to(&location, pbx.settings, &kept.path, named, caller);
        if target == LandingTarget::Elsewhere {
            return Ok(false);
        }
        // Even without names of the app's the answer would become one: a prefetched bare redirect must not be kept for the click.
        if fetch_metadata::looks_ahead(&kept.method, &kept.headers) {
            return Err(Error::Prefetch);
        }
        let Some(principal) = self.redirected(named, &kept, caller).await? else { return Ok(false) };
        let language = principal
            .claims
            .get("lang")
            .and_then(Claim::text)
            .map(str::to_owned)
            .or_else(|| landing::lang_of(&location));
        let selectors = Selectors::in_language(self.offered(language, pbx.settings));
        let handoff = pbx.settings.handoff;
        let wanted = match (handoff, &target) {
            (Handoff::Link, LandingTarget::PbxHost(_)) => Wanted::Session,
            (Handoff::Cookie, _) | (_, LandingTarget::Relative | LandingTarget::Elsewhere) => Wanted::Address,
        };
        let minted = self.mint_for(&principal, None, &selectors, wanted, pbx, caller).await?;
        let location = match (handoff, &minted.host) {
            (Handoff::Cookie, _) => {
                let Onward { address, cookie } = self.ticket(&minted, &kept.headers, caller).await?;
                redirect(response, &address)?;
                Onward::mark(cookie, response);
                return Ok(true);
            }
            // The landing page is on the PBX's host, wherever the reference would lead: never to the app with the session.
            (Handoff::Link, Some(host)) if *host != caller.authority.host => {
                let page = landing::resolved(&location, &kept.path);
                let page = format!("https://{}{page}", caller.authority.with_host(host));
                landing::with_session(&page, &minted.session, minted.language.as_ref())
            }
            (Handoff::Link, _) => landing::with_session(&location, &minted.session, minted.language.as_ref()),
        };
        redirect(response, &location)?;
        Ok(true)
    }

    /// Finds who is to be logged in: whom the app names, else who the request proves to be.
    async fn redirected(&self, named: &Named, kept: &Kept, caller: &Caller) -> Result<Option<Principal>, Error> {
        let verdict = match named.names_somebody() && self.believes_names() {
            true => {
                let principal = named.principal();
                let counted = if principal.is_some() { metrics::Verdict::Admit } else { metrics::Verdict::Refuse };
                self.tally.verdict(metrics::Method::Redirect, counted);
                principal.map(|principal| Verdict::Admit(Proof::ambient(principal)))
            }
            false => Some(self.ask(LoginKind::Pbx, &kept.headers, None, caller).await?),
        };
        // Without a login, a redirect to the PBX is only that.
        if let Some(Verdict::Stranger | Verdict::Abstain) = verdict {
            return Ok(None);
        }
        self.admit_fields(LoginKind::Pbx, (&kept.method, &kept.headers, None), caller)?;
        let page = self.page(&kept.headers, caller);
        let proof = self.judge(verdict.ok_or(Error::Forbidden)?, &page, LoginKind::Pbx, caller)?;
        Ok(proof.choose(&Requested::default()))
    }

    /// Tells whether a rule lets the app name accounts.
    fn believes_names(&self) -> bool {
        let mut methods = self.config.rules.iter().filter_map(|rule| rule.methods.as_ref()).flatten();
        methods.any(|method| method == REDIRECT)
    }

    fn leads_to(
        &self,
        location: &str,
        pbx: &config::PbxConfig,
        path: &str,
        named: &Named,
        caller: &Caller,
    ) -> LandingTarget {
        let own = caller.authority.host.as_str();
        // A relative address on the app's own host may be a page of the app's; whoever names an account means the PBX's.
        let means_pbx = self.is_pbx_host(own) || (named.names_somebody() && !location.contains("//"));
        // Other hosts count only when they are listed: where paths part the two, every name in the world would fit.
        let is_pbx_host = |host: &str| if host == own { means_pbx } else { pbx.upstream.lists(host) };
        let door = BaseUrl { host: own, port: caller.authority.port, path, is_pbx_host: &is_pbx_host };
        let pages: &[&str] = if pbx.handoff == Handoff::Cookie { &[&pbx.landing, WELCOME] } else { &[&pbx.landing] };
        landing::target(location, pages, &door)
    }

    /// Drops a language that the PBX does not have: the app's page may know more languages.
    fn offered(&self, language: Option<String>, pbx: &config::PbxConfig) -> Option<Language> {
        language?.parse().ok().filter(|language| pbx.languages.contains(language))
    }
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

/// Turns the app's answer into one that carries a session: not to be kept by anybody, told to nobody.
fn redirect(response: &mut Response<Body>, location: &str) -> Result<(), Error> {
    let location = HeaderValue::try_from(location).map_err(|_| Error::Malformed("the redirect is none"))?;
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

/// Tells whether a field tells some caches what `Cache-Control` does not: a CDN (RFC 9213) or nginx.
fn is_for_caches(name: &HeaderName) -> bool {
    name.as_str().ends_with("-cache-control") || ["surrogate-control", "x-accel-expires"].contains(&name.as_str())
}
