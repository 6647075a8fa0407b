//! Floor 5: who is calling?
//!
//! Each method knows one kind of credential. Without such a credential it abstains; with one it admits or refuses. A
//! refusal is final: a good credential never makes up for a bad one.

mod app;
mod app_cookies;
mod bearer;
mod chain;
mod claims;
mod credentials;
mod header;
mod jwks;
mod jwt;
mod key;
mod link;
mod marks;
mod method;
mod mtls;
mod oidc;
mod sources;

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

pub(crate) use self::app::AppError;
pub(crate) use self::chain::{Chain, CredentialDigest};
pub(crate) use self::jwks::{JwksError, fetch_once};
use self::key::KeyMethod;
pub(crate) use self::oidc::{
    BadDocument, BadLogoutToken, Callback, DiscoveryError, OidcError, OidcMethod, Provider, ProviderLogin,
    ReportedLogout, forget_all, forget_attempt, forget_login, forget_oldest, verify_logout,
};
pub(crate) use self::sources::AuthSources;
use crate::config::Confirm;
use crate::message::forwarded_chain::ForwardedChain;
use crate::model::grant::Requested;
use crate::model::login::LoginKind;
use crate::model::principal::Principal;
use crate::tls::server::ClientCa;

/// The parts of a request that a method may look at.
#[derive(Debug)]
pub(crate) struct AuthRequest<'a> {
    /// What the caller wants to log in to.
    pub login: LoginKind,
    /// The header fields as the client sent them.
    pub headers: &'a HeaderMap,
    /// The query as the client sent it. `None` except at the login endpoints.
    pub query: Option<&'a str>,
    /// The host and port that the request is for.
    pub host: &'a HeaderValue,
    /// The client, and the proxies between it and callgate.
    pub origin: &'a ForwardedChain,
    /// The address of the other end of the connection: the client, or a proxy before callgate.
    pub peer: IpAddr,
    /// The certificate of the other end, which the TLS handshake has verified.
    pub certificate: Option<&'a CertificateDer<'static>>,
    /// The authorities that signed the certificate.
    pub client_ca: Option<&'a ClientCa>,
    /// The id of the request. The app receives it too.
    pub id: HeaderValue,
    /// Set for `callgate explain`: the verdict is only shown. Then caches are not used.
    pub rehearsal: bool,
}

/// What a method says of a caller.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The credential is good.
    Admit(Proof),
    /// The credential is bad.
    Refuse(BadCredential),
    /// The app knows no user by the cookies or fields of the request. They may not have been sent for a login.
    Stranger,
    /// The request shows no credential of this kind.
    Abstain,
}

/// An error that prevents a verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The app gave no answer.
    #[error(transparent)]
    App(#[from] AppError),
    /// The keys that verify a token are missing.
    #[error("the keys of the method {0:?} have never been fetched")]
    Keys(String),
}

/// A bad credential, for the audit log and the operator. The caller does not learn the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadCredential {
    /// The name of the method that refused it, or the type where methods of one type judge together. `None`: the chain
    /// refused it.
    pub method: Option<String>,
    /// The reason. It never contains the credential.
    pub reason: Cow<'static, str>,
    /// How the limits count it.
    pub suspicion: Suspicion,
}

/// What a bad credential says of the client that shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suspicion {
    /// It may be a guess: a key, a signature or a token that does not fit.
    Guess,
    /// It may be left over: a cookie that a browser goes on to send by itself.
    Stale,
    /// It is not a guess: it is genuine but not valid here or now, or it was not compared with a secret.
    None,
}

impl Verdict {
    /// Refuses a credential that may be a guess, in the name of a method.
    pub(crate) fn refuse(method: impl Into<String>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refuse(BadCredential { method: Some(method.into()), reason: reason.into(), suspicion: Suspicion::Guess })
    }

    /// Refuses a credential that is not a guess, in the name of a method.
    pub(crate) fn reject(method: impl Into<String>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refuse(BadCredential { method: Some(method.into()), reason: reason.into(), suspicion: Suspicion::None })
    }

    /// Counts a guess as stale: the credential came in a cookie.
    #[must_use]
    fn in_a_cookie(self) -> Self {
        match self {
            Self::Refuse(bad) if bad.suspicion == Suspicion::Guess => {
                Self::Refuse(BadCredential { suspicion: Suspicion::Stale, ..bad })
            }
            verdict => verdict,
        }
    }
}

/// A proven caller, and what its proof permits.
#[derive(Debug)]
pub(crate) struct Proof {
    principal: Principal,
    is_ambient: bool,
    /// A key may name accounts within its lists.
    key: Option<Rc<KeyMethod>>,
    single_use: Option<SingleUse>,
    confirm: Confirm,
}

/// A mark that makes a credential work once. It is set right before the caller receives the session or token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SingleUse {
    /// The kind of credential: ids are unique within a scope. A reload does not change the name.
    pub scope: String,
    /// The id of the credential within the scope.
    pub id: Vec<u8>,
    /// When the credential expires anyway, and the mark with it.
    pub until: Timestamp,
}

impl Proof {
    /// Vouches for a caller by a credential that its browser sends with every request, whichever page caused it: a
    /// cookie, a certificate, the login at a proxy before callgate.
    #[must_use]
    pub(crate) const fn ambient(principal: Principal) -> Self {
        Self { principal, is_ambient: true, key: None, single_use: None, confirm: Confirm::Never }
    }

    /// Vouches for a caller by a credential that only a request for a login carries.
    #[must_use]
    pub(crate) const fn deliberate(principal: Principal) -> Self {
        Self { principal, is_ambient: false, key: None, single_use: None, confirm: Confirm::Never }
    }

    /// Vouches for a server, which names the account that it asks for.
    const fn by_key(principal: Principal, key: Rc<KeyMethod>) -> Self {
        Self { principal, is_ambient: false, key: Some(key), single_use: None, confirm: Confirm::Never }
    }

    /// Makes the credential work once.
    #[must_use]
    fn once(self, single_use: SingleUse) -> Self {
        Self { single_use: Some(single_use), ..self }
    }

    /// Sets whether a person must confirm the login.
    #[must_use]
    fn confirmed(self, confirm: Confirm) -> Self {
        Self { confirm, ..self }
    }

    /// Returns whether a person must confirm the login.
    #[must_use]
    pub(crate) const fn confirm(&self) -> Confirm {
        self.confirm
    }

    /// Returns the mark to set, if the credential works once.
    #[must_use]
    pub(crate) const fn single_use(&self) -> Option<&SingleUse> {
        self.single_use.as_ref()
    }

    /// Returns the caller, before it chose an account.
    #[must_use]
    pub(crate) const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Tells whether a browser sends the credential with every request. Then pages of other origins must be kept out.
    #[must_use]
    pub(crate) const fn is_ambient(&self) -> bool {
        self.is_ambient
    }

    /// Tells whether the caller is a server with a key, which names the account that it wants.
    #[must_use]
    pub(crate) const fn is_key(&self) -> bool {
        self.key.is_some()
    }

    /// Returns the caller with the account that it chose as claims, or `None` if its key may not name that account.
    #[must_use]
    pub(crate) fn choose(self, requested: &Requested) -> Option<Principal> {
        match self.key {
            Some(key) => key.choose(self.principal, requested),
            None => Some(self.principal),
        }
    }
}
