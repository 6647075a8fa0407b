//! The chain of methods: which credential a request shows, and which method judges it.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::uri::InvalidUri;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::app::AppMethod;
use super::app_cookies::AppCookies;
use super::bearer;
use super::credentials::Shown;
use super::header::HeaderMethod;
use super::jwt::{JwtMethod, Tokens};
use super::key::{ApiKeys, KeyMethod};
use super::link::{LinkMethod, SignedLinks};
use super::method::Method;
use super::mtls::MtlsMethod;
use super::oidc::{OidcMethod, ProviderLogin};
use super::{AuthRequest, AuthSources, BadCredential, Error, Suspicion, Verdict};
use crate::config::{Config, JwtConfig, MethodKind, TokenLocation};
use crate::model::digest::{Digest, sha256_of};
use crate::model::grant;
use crate::observe::metrics::{self, Tally};
use crate::upstream::Upstream;

/// The configured methods, grouped by the credentials that they judge.
#[derive(Debug)]
pub(crate) struct Chain {
    entries: Vec<ChainEntry>,
    providers: Vec<Rc<OidcMethod>>,
    proxies: Vec<Rc<HeaderMethod>>,
    proxy_fields: Rc<[HeaderName]>,
    deliberate: DeliberateFields,
    app_cookies: AppCookies,
    tally: Tally,
}

/// Methods of one credential.
#[derive(Debug)]
struct ChainEntry {
    method: Method,
    /// A request that shows this credential is judged by it, whatever cookies it carries.
    ignores_cookies: bool,
}

/// Fields with credentials that a page cannot make a browser send to another origin without a preflight (Fetch standard,
/// "CORS-unsafe request-header names").
#[derive(Debug, Default)]
struct DeliberateFields {
    /// `Authorization: Bearer`, unless a proxy before callgate adds it to every request.
    bearer: bool,
    others: Vec<HeaderName>,
}

/// The credentials that a request shows.
pub(crate) struct ShownCredentials<'c> {
    pub(super) chain: &'c Chain,
    pub(super) all: Vec<FoundCredential<'c>>,
}

/// One of them.
pub(super) struct FoundCredential<'c> {
    pub(super) method: &'c Method,
    /// Its label and its fingerprint.
    parts: Vec<Vec<u8>>,
    /// The digest of these.
    pub(super) digest: Digest,
}

/// The credentials of a request, as limits recognize them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CredentialDigest {
    /// A digest of all credentials.
    pub digest: Digest,
    /// Whether all are cookies, which a browser goes on to send when they are no longer valid.
    pub is_cookie: bool,
}

// === Building ===

impl Chain {
    /// Builds the methods of a configuration. `app`: the upstream that methods of type `app` ask.
    ///
    /// # Errors
    /// When the path of `whoami` is not a path.
    pub(crate) fn build(
        config: &Config,
        sources: &AuthSources,
        app: Option<&Rc<Upstream>>,
        tally: Tally,
    ) -> Result<Self, InvalidUri> {
        let mut entries: Vec<ChainEntry> = Vec::new();
        for settings in &config.methods {
            if let Some(method) = method(config, &settings.name, &settings.kind, sources, app)? {
                add(&mut entries, method, settings.ignore_cookies);
            }
        }
        share_bearer(&mut entries);
        // `callgate explain` lists the credentials in this order: cookies last.
        entries.sort_by_key(|entry| entry.method.is_cookie());
        let providers = entries.iter().filter_map(|entry| match &entry.method {
            Method::Oidc(oidc) => Some(Rc::clone(oidc)),
            _ => None,
        });
        let proxies = entries.iter().filter_map(|entry| match &entry.method {
            Method::Header(header) => Some(Rc::clone(header)),
            _ => None,
        });
        let (providers, proxies): (_, Vec<_>) = (providers.collect(), proxies.collect());
        let own_fields = proxies.iter().flat_map(|proxy| proxy.fields());
        let proxy_fields = own_fields.chain(&config.server.strip_fields).cloned().collect();
        let deliberate = DeliberateFields::of(config);
        let app_cookies = AppCookies::of(config);
        Ok(Self { entries, providers, proxies, proxy_fields, deliberate, app_cookies, tally })
    }

    /// Returns the providers where people can log in.
    #[must_use]
    pub(crate) fn providers(&self) -> &[Rc<OidcMethod>] {
        &self.providers
    }

    /// Tells whether the login of a method ended, here or at another member, after it was proven.
    pub(crate) async fn has_ended(&self, method: &str, login: &ProviderLogin<'_>) -> bool {
        match self.providers.iter().find(|provider| provider.name() == method) {
            Some(provider) => provider.has_ended(login).await,
            None => false,
        }
    }
}

/// Builds one method. `None`: its source is missing, which a configuration that was checked does not permit.
fn method(
    config: &Config,
    name: &str,
    kind: &MethodKind,
    sources: &AuthSources,
    app: Option<&Rc<Upstream>>,
) -> Result<Option<Method>, InvalidUri> {
    let name = name.to_owned();
    Ok(Some(match kind {
        MethodKind::App(settings) => {
            let Some(app) = app else { return Ok(None) };
            Method::App(AppMethod::new(name, settings.clone(), Rc::clone(app))?)
        }
        MethodKind::Header(settings) => Method::Header(Rc::new(HeaderMethod::new(name, settings.clone()))),
        MethodKind::Mtls(settings) => Method::Mtls(MtlsMethod::new(name, settings.clone())),
        MethodKind::Key(settings) => Method::Keys(ApiKeys::of(KeyMethod::new(name, settings.clone()))),
        MethodKind::Link(settings) => {
            let once = Arc::clone(sources.once());
            Method::Links(SignedLinks::of(LinkMethod::new(name, settings.clone(), once)))
        }
        MethodKind::Jwt(settings) => {
            let Some(keys) = sources.keys(&settings.keys) else { return Ok(None) };
            Method::Tokens(Tokens::of(JwtMethod::new(name, settings.clone(), keys)))
        }
        MethodKind::Oidc(settings) => {
            let Some((provider, key)) = sources.provider(&name) else { return Ok(None) };
            let claims = grant::claims_used(&config.rules, &name);
            let once = Arc::clone(sources.once());
            Method::Oidc(Rc::new(OidcMethod::new(name, settings.clone(), provider, key, claims, once)))
        }
    }))
}

/// Adds a method to those that judge the same credentials.
fn add(entries: &mut Vec<ChainEntry>, method: Method, ignores_cookies: bool) {
    let mut method = method;
    for entry in &mut *entries {
        match entry.method.join(method) {
            None => {
                entry.ignores_cookies |= ignores_cookies;
                return;
            }
            Some(other) => method = other,
        }
    }
    entries.push(ChainEntry { method, ignores_cookies });
}

/// Lets keys and tokens share `Authorization: Bearer`, where both are configured.
fn share_bearer(entries: &mut [ChainEntry]) {
    let is_keys = |entry: &ChainEntry| matches!(entry.method, Method::Keys(_));
    let is_bearer = |entry: &ChainEntry| matches!(&entry.method, Method::Tokens(tokens) if tokens.are_bearer());
    if !(entries.iter().any(is_keys) && entries.iter().any(is_bearer)) {
        return;
    }
    for entry in entries {
        match &mut entry.method {
            Method::Keys(keys) => keys.share_bearer(),
            Method::Tokens(tokens) if tokens.are_bearer() => tokens.share_bearer(),
            _ => {}
        }
    }
}

impl DeliberateFields {
    fn of(config: &Config) -> Self {
        let tokens = || {
            config.methods.iter().filter_map(|method| match &method.kind {
                MethodKind::Jwt(settings) => Some(settings),
                _ => None,
            })
        };
        let adds_bearer = |jwt: &JwtConfig| jwt.is_ambient && jwt.location == TokenLocation::Bearer;
        let field = |jwt: &JwtConfig| match &jwt.location {
            TokenLocation::Header(name) if !jwt.is_ambient => Some(name.clone()),
            _ => None,
        };
        Self { bearer: !tokens().any(adds_bearer), others: tokens().filter_map(field).collect() }
    }
}

// === Judging ===

impl Chain {
    /// Asks who is calling. Two credentials in one request are refused: it is not clear which of them is meant.
    ///
    /// # Errors
    /// When an app or a server of keys that must be asked gives no answer.
    pub(crate) async fn ask(&self, request: &AuthRequest<'_>) -> Result<Verdict, Error> {
        let shown = without_ended(self.find(request), request).await;
        let (label, verdict) = match shown.as_slice() {
            [] => (metrics::CountedMethod::None, Ok(Verdict::Abstain)),
            [(method, shown)] => (method.label(), method.judge(shown, request).await),
            _ => {
                let reason = "more than one credential".into();
                let bad = BadCredential { method: None, reason, suspicion: Suspicion::None };
                (metrics::CountedMethod::Several, Ok(Verdict::Refuse(bad)))
            }
        };
        self.tally.verdict(label, verdict_label(&verdict));
        verdict
    }

    /// Returns the names of the kinds of credentials that a request shows.
    #[must_use]
    pub(crate) fn shown_kinds(&self, request: &AuthRequest<'_>) -> Vec<String> {
        self.find(request).iter().map(|(method, _)| method.label().name().to_owned()).collect()
    }

    /// Returns the credentials that a request shows.
    #[must_use]
    pub(crate) fn shown(&self, request: &AuthRequest<'_>) -> ShownCredentials<'_> {
        let found = self.find(request).into_iter();
        let all = found.map(|(method, shown)| {
            let mut parts = vec![method.label().name().as_bytes().to_vec()];
            parts.extend(method.fingerprint(&shown, request));
            FoundCredential { method, digest: sha256_of(parts.iter().map(Vec::as_slice)), parts }
        });
        ShownCredentials { chain: self, all: all.collect() }
    }

    /// Returns the cookies by which the app may recognize its users.
    pub(super) const fn app_cookies(&self) -> &AppCookies {
        &self.app_cookies
    }

    /// Finds the credentials that a request shows.
    pub(super) fn find<'c, 'a>(&'c self, request: &AuthRequest<'a>) -> Vec<(&'c Method, Shown<'a>)> {
        let found = |entry: &'c ChainEntry| entry.method.find(request).map(|shown| (entry, shown));
        let found: Vec<_> = self.entries.iter().filter_map(found).collect();
        let ignore_cookies = found.iter().any(|(entry, _)| entry.ignores_cookies);
        let counts = |entry: &ChainEntry| !(ignore_cookies && entry.method.is_cookie());
        found.into_iter().filter(|(entry, _)| counts(entry)).map(|(entry, shown)| (&entry.method, shown)).collect()
    }

    /// Tells whether a request shows a credential that no page of another origin can make a browser send unasked.
    #[must_use]
    pub(crate) fn shows_deliberate_field(&self, headers: &HeaderMap) -> bool {
        let DeliberateFields { bearer, others } = &self.deliberate;
        (*bearer && bearer::of(headers).is_some()) || others.iter().any(|name| headers.contains_key(name))
    }
}

/// Leaves out the cookies of logins that have ended at another member: they are left over, as those that ended here are.
async fn without_ended<'c, 'a>(
    shown: Vec<(&'c Method, Shown<'a>)>,
    request: &AuthRequest<'_>,
) -> Vec<(&'c Method, Shown<'a>)> {
    let mut left = Vec::with_capacity(shown.len());
    for (method, shown) in shown {
        let has_ended = match (method, &shown) {
            (Method::Oidc(oidc), Shown::Remembered(principal)) => {
                oidc.has_cookie_ended(request.headers, principal).await
            }
            _ => false,
        };
        if !has_ended {
            left.push((method, shown));
        }
    }
    left
}

impl ShownCredentials<'_> {
    /// Tells whether there is none.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns the digest of all; `None` if there is none.
    #[must_use]
    pub(crate) fn digest(&self) -> Option<CredentialDigest> {
        let digest = match &*self.all {
            [] => return None,
            [one] => one.digest,
            several => sha256_of(several.iter().flat_map(|one| &one.parts).map(Vec::as_slice)),
        };
        Some(CredentialDigest { digest, is_cookie: self.all.iter().all(|one| one.method.is_cookie()) })
    }
}

const fn verdict_label(verdict: &Result<Verdict, Error>) -> metrics::CountedVerdict {
    match verdict {
        Ok(Verdict::Admit(_)) => metrics::CountedVerdict::Admit,
        Ok(Verdict::Refuse(_)) => metrics::CountedVerdict::Refuse,
        Ok(Verdict::Stranger) => metrics::CountedVerdict::Stranger,
        Ok(Verdict::Abstain) => metrics::CountedVerdict::Abstain,
        Err(_) => metrics::CountedVerdict::Error,
    }
}

// === What upstreams receive ===

impl Chain {
    /// Returns the fields that clients may not send to an upstream, in any spelling: those of believed proxies, and
    /// `strip_fields`.
    #[must_use]
    pub(crate) const fn proxy_fields(&self) -> &Rc<[HeaderName]> {
        &self.proxy_fields
    }

    /// Returns those of the fields that come from a believed proxy. `peer`: the other end of the connection.
    #[must_use]
    pub(crate) fn vouched_fields(&self, headers: &HeaderMap, peer: IpAddr) -> Vec<(HeaderName, HeaderValue)> {
        let believed = self.proxies.iter().filter(|proxy| proxy.vouches(headers, peer));
        believed.flat_map(|proxy| proxy.forwarded_fields(headers)).collect()
    }
}
