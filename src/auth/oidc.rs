//! Method `oidc`: a person logs in at an identity provider (OpenID Connect Core 1.0, authorization code flow), and a
//! sealed cookie remembers the person for a while. Neither callgate nor the browser keeps a token.

mod attempt;
mod ended;
mod login;
mod logout;
mod members;
mod metadata;
mod provider;
mod tokens;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::HeaderValue;
use http::{HeaderMap, Uri};
use jiff::{SignedDuration, Timestamp};

use self::attempt::OidcAttempt;
use self::login::RememberedLogin;
pub(crate) use self::metadata::BadDocument;
use self::metadata::with_query;
use super::credentials::{Credentials, Shown};
use super::{AuthRequest, Error, Proof, Verdict};
use crate::config;
use crate::message::cookies;
use crate::message::target::Authority;
use crate::model::digest::{self, Digest, sha256_of};
use crate::model::json::JsonError;
use crate::model::jwt::IdTokenError;
use crate::model::path::OIDC_CALLBACK_PATH;
use crate::model::principal::Principal;
use crate::observe::metrics;
use crate::once::OnceStore;
use crate::random;
use crate::seal::{Purpose, SealKey};
use crate::upstream::FetchError;

pub(crate) use self::attempt::{forget as forget_attempt, forget_all, forget_oldest};
pub(crate) use self::ended::ProviderLogin;
pub(crate) use self::logout::{BadLogoutToken, ReportedLogout, verify_logout};
pub(crate) use self::provider::{DiscoveryError, Provider};

/// The attributes of all cookies: for this host and TLS, not for scripts. The browser sends them with a redirect from the
/// provider, but not with other requests that other sites cause.
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";
/// The longest `__Host-callgate=…`, in bytes.
const MAX_LOGIN: usize = 1 << 10;

/// One provider with the settings of its method.
#[derive(Debug)]
pub(crate) struct OidcMethod {
    name: String,
    settings: config::OidcConfig,
    provider: Arc<Provider>,
    key: Arc<SealKey>,
    /// The claims that rules use. The cookie keeps these, and those by which a login ends.
    claims: Vec<String>,
    /// Remembers the logins that have ended.
    once: Arc<OnceStore>,
}

/// An error of a login at a provider. Its text is for the person, its source for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OidcError {
    /// The provider gives no answer.
    #[error("the login service does not answer")]
    Unavailable(#[source] OidcCause),
    /// The provider's answer cannot be used.
    #[error("the login service gave an answer that cannot be used")]
    BadResponse(#[source] OidcCause),
    /// The provider refused the login, or the person cancelled it.
    #[error("the login service did not log you in")]
    Denied(#[source] OidcCause),
    /// The browser shows no login that it began.
    #[error("this login is not known: it is too old, or used already, or your browser keeps no cookies of this site")]
    UnknownLogin(#[source] OidcCause),
}

/// The cause, for the operator. It never contains a token, a code or a text of the provider.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OidcCause {
    /// A rule is not met.
    #[error("{0}")]
    Reason(&'static str),
    /// A request to the provider failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The ID token is not valid.
    #[error(transparent)]
    Token(IdTokenError),
    /// The discovery document lacks something that the login needs.
    #[error("the provider cannot be used: {0}")]
    Document(#[from] BadDocument),
    /// The answer of an endpoint cannot be read.
    #[error("the answer of the {0} cannot be read: {1}")]
    Answer(&'static str, JsonError),
    /// A member of an endpoint's answer cannot be used.
    #[error("`{1}` in the answer of the {0} cannot be used: it {2}")]
    Member(&'static str, &'static str, &'static str),
}

impl OidcError {
    /// Returns the error where a login succeeded and the browser did not keep its cookie.
    #[must_use]
    pub(crate) const fn not_kept() -> Self {
        Self::UnknownLogin(OidcCause::Reason("the browser did not keep the cookie of its login"))
    }

    /// Returns the error while the provider's metadata has not been fetched.
    #[must_use]
    pub(crate) const fn unfetched() -> Self {
        UNKNOWN
    }

    /// Returns the cause for the audit log.
    #[must_use]
    pub(crate) fn cause(&self) -> String {
        let (Self::Unavailable(cause) | Self::BadResponse(cause) | Self::Denied(cause) | Self::UnknownLogin(cause)) =
            self;
        cause.to_string()
    }
}

/// The start of a login: where the browser goes, and the cookie that it keeps until it is back.
#[derive(Debug)]
pub(crate) struct LoginStart {
    /// The provider's page.
    pub(crate) url: String,
    /// The id of this login among those of the browser.
    pub(crate) id: String,
    /// The cookie that proves that this browser began the login.
    pub(crate) cookie: HeaderValue,
}

/// A login that succeeded.
#[derive(Debug)]
pub(crate) struct FinishedLogin {
    /// The path of this host where the login ends.
    pub(crate) to: String,
    /// The id of this login among those of the browser.
    pub(crate) id: String,
    /// The cookie that remembers the person.
    pub(crate) cookie: HeaderValue,
}

impl FinishedLogin {
    /// Returns the digest by which limits recognize the cookie, as [`Chain::credential`](super::Chain::credential) does.
    #[must_use]
    pub(crate) fn credential(&self) -> Digest {
        let pair = self.cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        sha256_of([&b"oidc"[..], cookies::split(pair).1])
    }
}

/// The parameters of the provider's answer (RFC 6749 §4.1.2, RFC 9207 §2).
#[derive(Debug, Default)]
pub(crate) struct Callback {
    /// The authorization code, which is exchanged for tokens.
    pub code: Option<String>,
    /// The `state` that callgate sent.
    pub state: Option<String>,
    /// The error code, where there is no code.
    pub error: Option<String>,
    /// The issuer.
    pub iss: Option<String>,
}

impl Credentials for OidcMethod {
    fn label(&self) -> metrics::CountedMethod {
        metrics::CountedMethod::Oidc
    }

    fn find<'a>(&self, request: &AuthRequest<'a>) -> Option<Shown<'a>> {
        self.remembers(request.headers, request.host).map(Shown::Remembered)
    }

    async fn judge(&self, shown: &Shown<'_>, _request: &AuthRequest<'_>) -> Result<Verdict, Error> {
        Ok(match shown {
            Shown::Remembered(principal) => Verdict::Admit(Proof::ambient(principal.clone())),
            Shown::Text(_) | Shown::Malformed(_) | Shown::InRequest => Verdict::Abstain,
        })
    }

    fn is_cookie(&self) -> bool {
        true
    }

    fn fingerprint(&self, _shown: &Shown<'_>, request: &AuthRequest<'_>) -> Vec<Vec<u8>> {
        vec![login_cookie(request.headers)]
    }
}

impl OidcMethod {
    /// Makes a method. `claims`: those that rules use.
    pub(super) const fn new(
        name: String,
        settings: config::OidcConfig,
        provider: Arc<Provider>,
        key: Arc<SealKey>,
        claims: Vec<String>,
        once: Arc<OnceStore>,
    ) -> Self {
        Self { name, settings, provider, key, claims, once }
    }

    /// Returns the name of the method.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the host where people log in. `None`: each host.
    #[must_use]
    pub(crate) fn host(&self) -> Option<&str> {
        self.settings.host.as_deref()
    }

    /// Returns the context of a sealed cookie: this method, issuer, client and one host.
    fn context<'c>(&'c self, host: &'c str) -> [&'c str; 4] {
        [&self.name, self.settings.issuer.as_str(), &self.settings.client_id, host]
    }

    // === The cookie of a login ===

    /// Finds the person that the browser's cookie remembers. A cookie that does not open, is too old, or whose login has
    /// ended, is not a credential: it is left over, and the person logs in again.
    fn remembers(&self, headers: &HeaderMap, host: &HeaderValue) -> Option<Principal> {
        self.login_of(headers, host).map(|(_, principal)| principal)
    }

    /// Finds the cookie of a login, and the person.
    fn login_of<'h>(&self, headers: &'h HeaderMap, host: &HeaderValue) -> Option<(&'h str, Principal)> {
        let mut sent = cookies::values(headers, cookies::PREFIX);
        let sealed = sent.next().filter(|sealed| sealed.len() <= MAX_LOGIN)?;
        if sent.next().is_some() {
            return None;
        }
        let host = lower(host);
        let text = self.key.open(sealed, Purpose::Login, &self.login_context(&host, &self.claims.join(" ")))?;
        let login =
            RememberedLogin::read(&text).filter(|login| login.is_good(Timestamp::now(), self.settings.remember))?;
        let principal = Principal { method: self.name.clone(), subject: login.subject, claims: login.claims };
        let has_ended = self.is_cookie_ended_here(sealed) || self.has_ended_here(&ProviderLogin::of(&principal));
        (!has_ended).then_some((sealed, principal))
    }

    /// Tells whether the browser's cookie remembers a person.
    #[must_use]
    pub(crate) fn knows(&self, headers: &HeaderMap, host: &HeaderValue) -> bool {
        self.remembers(headers, host).is_some()
    }

    /// Returns the context of a login's cookie. With other rules the cookie keeps other claims, so an old one does not
    /// open.
    fn login_context<'c>(&'c self, host: &'c str, claims: &'c str) -> [&'c str; 5] {
        let [name, issuer, client, host] = self.context(host);
        [name, issuer, client, host, claims]
    }

    fn remember(&self, principal: &Principal, authority: &Authority) -> Result<HeaderValue, OidcError> {
        let life = self.settings.remember;
        let is_kept = |name: &String| self.claims.contains(name) || [ended::SESSION, ended::ISSUED].contains(&&**name);
        let kept = principal.claims.iter().filter(|(name, _)| is_kept(name));
        let login = RememberedLogin {
            subject: principal.subject.clone(),
            until: Timestamp::now() + SignedDuration::try_from(life).unwrap_or(SignedDuration::ZERO),
            claims: kept.map(|(name, claim)| (name.clone(), claim.clone())).collect(),
        };
        let context = lower(&authority.raw);
        let claims = self.claims.join(" ");
        let sealed = self.key.seal(&login.write(), Purpose::Login, &self.login_context(&context, &claims));
        let pair = format!("{}={sealed}", cookies::PREFIX);
        if pair.len() > MAX_LOGIN {
            return Err(OidcError::BadResponse(OidcCause::Reason(
                "the claims that rules use do not fit into a cookie of 1 KiB",
            )));
        }
        Ok(field(&format!("{pair}; Max-Age={}; {ATTRIBUTES}", life.as_secs())))
    }

    // === The way to the provider and back ===

    /// Returns the redirect URI, on the host where the person is.
    fn back(&self, authority: &Authority) -> Result<String, OidcError> {
        let back = format!("{}{OIDC_CALLBACK_PATH}{}", authority.origin(), self.name);
        match back.parse::<Uri>() {
            Ok(_) => Ok(back),
            Err(_) => {
                Err(OidcError::BadResponse(OidcCause::Reason("the host of the request cannot be part of an address")))
            }
        }
    }

    /// Returns the requested scopes, `openid` first.
    fn scope(&self) -> String {
        let others = self.settings.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid");
        ["openid"].into_iter().chain(others).collect::<Vec<_>>().join(" ")
    }

    /// Begins a login that will end at `to`, a path of this host.
    ///
    /// # Errors
    /// When the provider's metadata has never been fetched.
    pub(crate) async fn begin(
        &self,
        authority: &Authority,
        to: String,
        prompt: Option<(&str, &str)>,
    ) -> Result<LoginStart, OidcError> {
        let metadata = self.provider.known().await.ok_or(UNKNOWN)?;
        let verifier = random::text::<32>();
        let challenge = URL_SAFE_NO_PAD.encode(digest::sha256(verifier.as_bytes()));
        let attempt = OidcAttempt::new(verifier, to, Timestamp::now());
        let (state, back) = (attempt.state(), self.back(authority)?);
        let scope = self.scope();
        let fields = [
            ("response_type", "code"),
            ("client_id", &self.settings.client_id),
            ("redirect_uri", &back),
            ("scope", &scope),
            ("state", &state),
            ("nonce", &attempt.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let fields: Vec<_> = fields.into_iter().chain(prompt).collect();
        let url = with_query(metadata.document.authorization_endpoint(), &fields);
        let host = lower(&authority.raw);
        let sealed = self.key.seal(&attempt.write(), Purpose::Attempt, &self.context(&host));
        Ok(LoginStart { url, cookie: attempt::cookie(&attempt.id, &sealed), id: attempt.id })
    }

    /// Finishes a login: the browser is back from the provider.
    ///
    /// # Errors
    /// When this browser did not begin the login, or the provider refused it.
    pub(crate) async fn finish(
        &self,
        headers: &HeaderMap,
        authority: &Authority,
        callback: Callback,
    ) -> Result<FinishedLogin, OidcError> {
        let attempt = self.attempt(headers, authority, callback.state.as_deref())?;
        let metadata = self.provider.known().await.ok_or(UNKNOWN)?;
        // Checked before the answer is used: it may be another provider's (RFC 9700 §4.4).
        self.check_issuer(&metadata.document, callback.iss.as_deref())?;
        let code = match (callback.code, callback.error) {
            (Some(code), None) => code,
            (None, Some(error)) => return Err(refusal(&error)),
            // A provider sends one of them. The other was added.
            (Some(_), Some(_)) => {
                return Err(OidcError::BadResponse(OidcCause::Reason("the answer has a code and an error")));
            }
            (None, None) => {
                return Err(OidcError::BadResponse(OidcCause::Reason("the answer has neither code nor error")));
            }
        };
        let principal = self.principal(metadata, authority, &code, &attempt).await?;
        let cookie = self.remember(&principal, authority)?;
        Ok(FinishedLogin { to: attempt.to, id: attempt.id, cookie })
    }

    /// Finds the login that this browser began with a state.
    fn attempt(
        &self,
        headers: &HeaderMap,
        authority: &Authority,
        state: Option<&str>,
    ) -> Result<OidcAttempt, OidcError> {
        let unknown = |reason| OidcError::UnknownLogin(OidcCause::Reason(reason));
        let state = state.ok_or_else(|| unknown("the answer has no state"))?;
        let name = attempt::name_of(state).ok_or_else(|| unknown("the state is not one of callgate's"))?;
        let mut sent = cookies::values(headers, &name);
        let sealed = sent.next().ok_or_else(|| unknown("the browser sent no cookie of this login"))?;
        let host = lower(&authority.raw);
        let text = self.key.open(sealed, Purpose::Attempt, &self.context(&host));
        let attempt = text.and_then(|text| OidcAttempt::read(&text)).filter(|_| sent.next().is_none());
        let attempt = attempt.ok_or_else(|| unknown("the cookie of this login cannot be opened"))?;
        if !attempt.is_of(state) {
            return Err(unknown("the state is another than the one this browser was given"));
        }
        if !attempt.is_young(Timestamp::now()) {
            return Err(unknown("the login took more than ten minutes"));
        }
        Ok(attempt)
    }
}

const UNKNOWN: OidcError =
    OidcError::Unavailable(OidcCause::Reason("the provider's metadata has not been fetched yet"));

/// Reads the error code of a provider (RFC 6749 §4.1.2.1, OpenID Connect Core 1.0 §3.1.2.6).
fn refusal(error: &str) -> OidcError {
    match error {
        "access_denied" => OidcError::Denied(OidcCause::Reason("the provider says access_denied")),
        "login_required" | "interaction_required" | "consent_required" | "account_selection_required" => {
            OidcError::Denied(OidcCause::Reason("the provider wants more of the person than it may ask for"))
        }
        "server_error" | "temporarily_unavailable" => {
            OidcError::Unavailable(OidcCause::Reason("the provider says that it is out of order"))
        }
        "invalid_scope" => OidcError::BadResponse(OidcCause::Reason("the provider does not have one of `scopes`")),
        "unauthorized_client" => {
            OidcError::BadResponse(OidcCause::Reason("the provider does not let this client log people in"))
        }
        _ => OidcError::BadResponse(OidcCause::Reason("the provider refuses for a reason of its own")),
    }
}

/// Returns the value of a login's cookie, or an empty one where the browser sent none.
fn login_cookie(headers: &HeaderMap) -> Vec<u8> {
    cookies::values(headers, cookies::PREFIX).next().unwrap_or_default().as_bytes().to_vec()
}

/// Returns the `Set-Cookie` value that removes the cookie of a login.
#[must_use]
pub(crate) fn forget_login() -> HeaderValue {
    field(&format!("{}=; Max-Age=0; {ATTRIBUTES}", cookies::PREFIX))
}

fn lower(host: &HeaderValue) -> String {
    String::from_utf8_lossy(host.as_bytes()).to_ascii_lowercase()
}

fn field(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("base64 and constants are visible ASCII")
}
