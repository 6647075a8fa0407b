//! Method `oidc`: a person logs in at an identity provider (OpenID Connect Core 1.0, authorization code flow), and a
//! sealed cookie remembers for a while who it is. Neither here nor in the browser is a token kept.

mod attempt;
mod login;
mod metadata;
mod provider;
mod seal;
mod tokens;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::HeaderValue;
use http::{HeaderMap, Uri};
use jiff::{SignedDuration, Timestamp};

use self::attempt::OidcAttempt;
use self::login::RememberedLogin;
use self::metadata::{BadDocument, with_query};
use self::seal::Purpose;
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
use crate::random;
use crate::upstream::FetchError;

pub use self::attempt::{forget as forget_attempt, forget_all, forget_oldest};
pub use self::provider::Provider;
pub(super) use self::seal::SealKey;

/// What every cookie of ours is for: this host, TLS, no script; a provider's redirect brings it along, other requests of
/// other sites do not.
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";
/// The longest `__Host-callgate=…`, in bytes.
const MAX_LOGIN: usize = 1 << 10;

/// One provider as a method.
#[derive(Debug)]
pub struct OidcMethod {
    name: String,
    settings: config::OidcConfig,
    provider: Arc<Provider>,
    key: Arc<SealKey>,
    /// The claims that rules use: no others are kept.
    claims: Vec<String>,
}

/// OidcCause a login came to nothing. The words are for the person, the sources for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The provider cannot be asked.
    #[error("the login service gives no answer")]
    Unavailable(#[source] OidcCause),
    /// The provider's answer cannot be used.
    #[error("the login service gave a wrong answer")]
    BadResponse(#[source] OidcCause),
    /// The provider, or the person there, said no.
    #[error("the login service did not log you in")]
    Denied(#[source] OidcCause),
    /// The browser knows nothing of a login that it has begun.
    #[error("this login is not known: it is too old, or used already, or your browser keeps no cookies of this site")]
    UnknownLogin(#[source] OidcCause),
}

/// What the operator learns of it. Never a token, a code or what somebody else wrote.
#[derive(Debug, thiserror::Error)]
pub enum OidcCause {
    /// What does not fit.
    #[error("{0}")]
    Wrong(&'static str),
    /// A question to the provider failed.
    #[error(transparent)]
    Unasked(#[from] FetchError),
    /// The ID token proves nobody.
    #[error(transparent)]
    Token(IdTokenError),
    /// What the login needs of the provider's own description cannot be used.
    #[error("the provider cannot be used: {0}")]
    Document(#[from] BadDocument),
    /// What an endpoint answers cannot be read.
    #[error("the answer of the {0} cannot be read: {1}")]
    Answer(&'static str, JsonError),
    /// A member of what an endpoint answers cannot be used.
    #[error("`{1}` in the answer of the {0} cannot be used: {2}")]
    Member(&'static str, &'static str, &'static str),
}

impl OidcError {
    /// A login ended well, and the browser does not say so.
    #[must_use]
    pub const fn not_kept() -> Self {
        Self::UnknownLogin(OidcCause::Wrong("the browser did not keep the cookie of its login"))
    }

    /// Returns why, for the audit log.
    #[must_use]
    pub fn why(&self) -> String {
        let (Self::Unavailable(why) | Self::BadResponse(why) | Self::Denied(why) | Self::UnknownLogin(why)) = self;
        why.to_string()
    }
}

/// A login that begins: where the browser goes, and what it keeps until it is back.
#[derive(Debug)]
pub struct LoginStart {
    /// The provider's page.
    pub url: String,
    /// The name of this login among those of the browser.
    pub id: String,
    /// The cookie that proves that this browser began it.
    pub cookie: HeaderValue,
}

/// A login that has ended well.
#[derive(Debug)]
pub struct FinishedLogin {
    /// Who it is.
    pub principal: Principal,
    /// Where the browser wanted to go, on this host.
    pub to: String,
    /// The name of this login among those of the browser.
    pub id: String,
    /// The cookie that remembers who it is.
    pub cookie: HeaderValue,
}

impl FinishedLogin {
    /// Returns the digest by which limits know the cookie again, as [`Chain::credential`](super::Chain::credential) does.
    #[must_use]
    pub fn credential(&self) -> Digest {
        let pair = self.cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        sha256_of([&b"oidc"[..], cookies::split(pair).1])
    }
}

/// What the provider lets the browser say (RFC 6749 §4.1.2, RFC 9207 §2).
#[derive(Debug, Default)]
pub struct Callback {
    /// What the tokens are given for.
    pub code: Option<String>,
    /// What we said.
    pub state: Option<String>,
    /// OidcCause there is no code.
    pub error: Option<String>,
    /// Who the provider is.
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
    /// Prepares a method. `claims` are those that rules use.
    #[must_use]
    pub const fn new(
        name: String,
        settings: config::OidcConfig,
        provider: Arc<Provider>,
        key: Arc<SealKey>,
        claims: Vec<String>,
    ) -> Self {
        Self { name, settings, provider, key, claims }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the host where people log in, if it is not any.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.settings.host.as_deref()
    }

    /// What is sealed is for this method, this client of this issuer and one host.
    fn context<'c>(&'c self, host: &'c str) -> [&'c str; 4] {
        [&self.name, self.settings.issuer.as_str(), &self.settings.client_id, host]
    }

    // === Who is remembered ===

    /// Finds who the browser is remembered as. A cookie that is none of ours, or no longer one, is no credential at all:
    /// it is left over from another key, host or rule, and the person only has to log in again.
    pub(super) fn remembers(&self, headers: &HeaderMap, host: &HeaderValue) -> Option<Principal> {
        let mut sent = cookies::values(headers, cookies::PREFIX);
        let sealed = sent.next().filter(|sealed| sealed.len() <= MAX_LOGIN)?;
        if sent.next().is_some() {
            return None;
        }
        let host = lower(host);
        let text = self.key.open(sealed, Purpose::Login, &self.login_context(&host, &self.claims.join(" ")))?;
        let login =
            RememberedLogin::read(&text).filter(|login| login.is_good(Timestamp::now(), self.settings.remember))?;
        Some(Principal { method: self.name.clone(), subject: login.subject, claims: login.claims })
    }

    /// Tells whether the browser is remembered at all.
    #[must_use]
    pub fn knows(&self, headers: &HeaderMap, host: &HeaderValue) -> bool {
        self.remembers(headers, host).is_some()
    }

    /// With other rules, other claims are kept: then the person logs in again.
    fn login_context<'c>(&'c self, host: &'c str, claims: &'c str) -> [&'c str; 5] {
        let [name, issuer, client, host] = self.context(host);
        [name, issuer, client, host, claims]
    }

    fn remember(&self, principal: &Principal, authority: &Authority) -> Result<HeaderValue, OidcError> {
        let life = self.settings.remember;
        let kept = principal.claims.iter().filter(|(name, _)| self.claims.contains(name));
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
            return Err(OidcError::BadResponse(OidcCause::Wrong(
                "the claims that rules use do not fit into a cookie of 1 KiB",
            )));
        }
        Ok(field(&format!("{pair}; Max-Age={}; {ATTRIBUTES}", life.as_secs())))
    }

    // === The way to the provider and back ===

    /// Returns where the provider sends browsers back to: the host where the person is.
    fn back(&self, authority: &Authority) -> Result<String, OidcError> {
        let back = format!("{}{OIDC_CALLBACK_PATH}{}", authority.origin(), self.name);
        match back.parse::<Uri>() {
            Ok(_) => Ok(back),
            Err(_) => Err(OidcError::BadResponse(OidcCause::Wrong("the host of the request is no part of an address"))),
        }
    }

    /// Returns what is asked for: `openid` first.
    fn scope(&self) -> String {
        let others = self.settings.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid");
        ["openid"].into_iter().chain(others).collect::<Vec<_>>().join(" ")
    }

    /// Begins a login that will end at `to`, a path of this host.
    ///
    /// # Errors
    /// When nothing is known of the provider.
    pub async fn begin(&self, authority: &Authority, to: String) -> Result<LoginStart, OidcError> {
        let metadata = self.provider.known().await.ok_or(UNKNOWN)?;
        let verifier = random::text::<32>();
        let challenge = URL_SAFE_NO_PAD.encode(digest::sha256(verifier.as_bytes()));
        let attempt = OidcAttempt::new(verifier, to, Timestamp::now());
        let (state, back) = (attempt.state(), self.back(authority)?);
        let url = with_query(
            metadata.document.authorization_endpoint(),
            &[
                ("response_type", "code"),
                ("client_id", &self.settings.client_id),
                ("redirect_uri", &back),
                ("scope", &self.scope()),
                ("state", &state),
                ("nonce", &attempt.nonce),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
            ],
        );
        let host = lower(&authority.raw);
        let sealed = self.key.seal(&attempt.write(), Purpose::Attempt, &self.context(&host));
        Ok(LoginStart { url, cookie: attempt::cookie(&attempt.id, &sealed), id: attempt.id })
    }

    /// Ends a login: the browser is back from the provider.
    ///
    /// # Errors
    /// When this browser did not begin it, or the provider does not vouch for anybody.
    pub async fn finish(
        &self,
        headers: &HeaderMap,
        authority: &Authority,
        callback: Callback,
    ) -> Result<FinishedLogin, OidcError> {
        let attempt = self.attempt(headers, authority, callback.state.as_deref())?;
        let metadata = self.provider.known().await.ok_or(UNKNOWN)?;
        // Before anything of the answer is believed: it may be another provider's (RFC 9700 §4.4).
        self.check_issuer(&metadata.document, callback.iss.as_deref())?;
        let code = match (callback.code, callback.error) {
            (Some(code), None) => code,
            (None, Some(error)) => return Err(refusal(&error)),
            // One of them is somebody else's.
            (Some(_), Some(_)) => {
                return Err(OidcError::BadResponse(OidcCause::Wrong("the answer has a code and an error")));
            }
            (None, None) => {
                return Err(OidcError::BadResponse(OidcCause::Wrong("the answer has neither code nor error")));
            }
        };
        let principal = self.principal(metadata, authority, &code, &attempt).await?;
        let cookie = self.remember(&principal, authority)?;
        Ok(FinishedLogin { principal, to: attempt.to, id: attempt.id, cookie })
    }

    /// Finds the login that this browser began with this state.
    fn attempt(
        &self,
        headers: &HeaderMap,
        authority: &Authority,
        state: Option<&str>,
    ) -> Result<OidcAttempt, OidcError> {
        let lost = |why| OidcError::UnknownLogin(OidcCause::Wrong(why));
        let state = state.ok_or_else(|| lost("the answer has no state"))?;
        let name = attempt::name_of(state).ok_or_else(|| lost("the state is none of ours"))?;
        let mut sent = cookies::values(headers, &name);
        let sealed = sent.next().ok_or_else(|| lost("the browser sent no cookie of this login"))?;
        let host = lower(&authority.raw);
        let text = self.key.open(sealed, Purpose::Attempt, &self.context(&host));
        let attempt = text.and_then(|text| OidcAttempt::read(&text)).filter(|_| sent.next().is_none());
        let attempt = attempt.ok_or_else(|| lost("the cookie of this login is none of ours"))?;
        if !attempt.is_of(state) {
            return Err(lost("the state is another than the one this browser was given"));
        }
        if !attempt.is_young(Timestamp::now()) {
            return Err(lost("the login took more than ten minutes"));
        }
        Ok(attempt)
    }

    // === The way out ===

    /// Returns where one logs out of the provider too, if it says.
    pub async fn end_session(&self) -> Option<String> {
        let metadata = self.provider.known().await?;
        let end = metadata.document.end_session_endpoint();
        let end =
            end.inspect_err(|error| tracing::warn!(method = self.name, error = %error, "no logout at the provider"));
        let after = self.settings.after_logout.as_deref().map(|after| ("post_logout_redirect_uri", after));
        let pairs: Vec<_> = [("client_id", self.settings.client_id.as_str())].into_iter().chain(after).collect();
        Some(with_query(&end.ok()??, &pairs))
    }
}

const UNKNOWN: OidcError = OidcError::Unavailable(OidcCause::Wrong("nothing is known of the provider yet"));

/// Reads the refusal of a provider (RFC 6749 §4.1.2.1, OpenID Connect Core 1.0 §3.1.2.6).
fn refusal(error: &str) -> OidcError {
    match error {
        "access_denied" => OidcError::Denied(OidcCause::Wrong("the provider says access_denied")),
        "login_required" | "interaction_required" | "consent_required" | "account_selection_required" => {
            OidcError::Denied(OidcCause::Wrong("the provider wants more of the person than it may ask for"))
        }
        "server_error" | "temporarily_unavailable" => {
            OidcError::Unavailable(OidcCause::Wrong("the provider says that it is out of order"))
        }
        "invalid_scope" => OidcError::BadResponse(OidcCause::Wrong("the provider does not have one of `scopes`")),
        "unauthorized_client" => {
            OidcError::BadResponse(OidcCause::Wrong("the provider does not let this client log people in"))
        }
        _ => OidcError::BadResponse(OidcCause::Wrong("the provider refuses for a reason of its own")),
    }
}

/// Returns the value of the cookie by which a browser is remembered; nothing where it sent none.
pub(super) fn login_cookie(headers: &HeaderMap) -> Vec<u8> {
    cookies::values(headers, cookies::PREFIX).next().unwrap_or_default().as_bytes().to_vec()
}

/// Returns the cookie that forgets who it was.
#[must_use]
pub fn forget_login() -> HeaderValue {
    field(&format!("{}=; Max-Age=0; {ATTRIBUTES}", cookies::PREFIX))
}

fn lower(host: &HeaderValue) -> String {
    String::from_utf8_lossy(host.as_bytes()).to_ascii_lowercase()
}

fn field(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("base64 and words of ours are visible ASCII")
}
