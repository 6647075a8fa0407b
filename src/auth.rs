//! Floor 5: who is calling?
//!
//! A method looks for its own kind of credential. None there: it abstains. One there: it admits or refuses, and a
//! refusal is final, because a bad credential must never be outvoted by another.

mod app;
mod bearer;
mod chain;
mod claims;
mod header;
mod jwks;
mod jwt;
mod key;
mod link;
mod mtls;
mod oidc;
mod pause;

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

pub use self::app::{App, AppError};
pub use self::chain::{Chain, Credential};
pub use self::header::Header;
pub use self::jwks::{Jwks, fetch_once};
pub use self::jwt::{Jwt, KeySource};
pub use self::key::Key;
pub use self::link::Link;
pub use self::mtls::Mtls;
pub use self::oidc::{
    Callback, Oidc, OidcError, Provider, SealKey, forget_all, forget_attempt, forget_login, forget_oldest,
};
use crate::config::Confirm;
use crate::message::forwarded_chain::ForwardedChain;
use crate::model::grant::Requested;
use crate::model::login::LoginKind;
use crate::model::principal::Principal;
use crate::tls::server::ClientCa;

/// What a method may look at.
#[derive(Debug)]
pub struct Ask<'a> {
    /// What the caller wants.
    pub act: LoginKind,
    /// The request's fields, before anything was taken from them.
    pub headers: &'a HeaderMap,
    /// The query of a request to a login endpoint, as it was sent; nothing elsewhere.
    pub query: Option<&'a str>,
    /// The authority the request is for.
    pub host: &'a HeaderValue,
    /// Who the request is from.
    pub origin: &'a ForwardedChain,
    /// The other end of the connection: the client, or a proxy before us.
    pub peer: IpAddr,
    /// The certificate that the other end showed and its handshake verified.
    pub certificate: Option<&'a CertificateDer<'static>>,
    /// Who signed it.
    pub client_ca: Option<&'a ClientCa>,
    /// The request's id, told to the app.
    pub id: HeaderValue,
    /// Whether nobody is let in, whatever is answered: the operator wants to know what would be. Then nothing is marked
    /// as used, and nothing counted.
    pub rehearsal: bool,
}

/// What a method says of a caller.
#[derive(Debug)]
pub enum Verdict {
    /// The credential is good.
    Admit(Proof),
    /// The credential is bad.
    Refuse(Refused),
    /// The app knows nobody by the credential that came along: whoever sent it may not have meant to log in.
    Stranger,
    /// There is no credential of this kind.
    Abstain,
}

/// Why nobody can say who is calling.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The app gave no answer.
    #[error(transparent)]
    App(#[from] AppError),
    /// There are no keys to check a token with.
    #[error("the keys of the method {0:?} have never been fetched")]
    Keys(String),
}

/// A credential that is bad, for the audit log and the operator alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The method that refused it, by its name, or by its type where several of one type have a say; none: the chain.
    pub method: Option<String>,
    /// Why. Never the credential itself.
    pub reason: Cow<'static, str>,
    /// What that says of whoever shows it.
    pub fault: Fault,
}

/// What a bad credential says of the client that shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It may be a guess: a key, a signature or a token that does not fit.
    Guess,
    /// It may be left over: a cookie that a browser goes on to send by itself.
    Stale,
    /// It is no guess: it is genuine and not good here or now, or was not compared with anything.
    NoGuess,
}

impl Verdict {
    /// Refuses a credential that may be a guess, in the name of a method.
    pub fn refuse(method: impl Into<String>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refuse(Refused { method: Some(method.into()), reason: reason.into(), fault: Fault::Guess })
    }

    /// Refuses a credential that is no guess, in the name of a method.
    pub fn reject(method: impl Into<String>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refuse(Refused { method: Some(method.into()), reason: reason.into(), fault: Fault::NoGuess })
    }

    /// Takes a guess for one that is left over: the credential came in a cookie.
    #[must_use]
    fn in_a_cookie(self) -> Self {
        match self {
            Self::Refuse(refused) if refused.fault == Fault::Guess => {
                Self::Refuse(Refused { fault: Fault::Stale, ..refused })
            }
            verdict => verdict,
        }
    }
}

/// A proven caller, and how the proof lets it choose.
#[derive(Debug)]
pub struct Proof {
    principal: Principal,
    is_ambient: bool,
    /// A key may name accounts within its lists.
    key: Option<Rc<Key>>,
    /// The credential works once.
    once: Option<Once>,
    /// Whether a person must say that they mean it.
    confirm: Confirm,
}

/// What is marked as used right before a caller is given what it asked for: then nobody uses it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// What kind of thing it is: the same id in another scope is another thing. A name that no reload changes.
    pub scope: String,
    /// What it is, within the scope.
    pub id: Vec<u8>,
    /// When it is worth nothing anyway.
    pub until: Timestamp,
}

impl Proof {
    /// Vouches for a caller by what its browser sends with every request, whoever made it do so: a cookie, a
    /// certificate, the login at a proxy before us.
    #[must_use]
    pub const fn ambient(principal: Principal) -> Self {
        Self { principal, is_ambient: true, key: None, once: None, confirm: Confirm::Never }
    }

    /// Vouches for a caller by what only a request carries that is meant as a login.
    #[must_use]
    pub const fn deliberate(principal: Principal) -> Self {
        Self { principal, is_ambient: false, key: None, once: None, confirm: Confirm::Never }
    }

    /// Vouches for a server that names whom it asks for.
    const fn by_key(principal: Principal, key: Rc<Key>) -> Self {
        Self { principal, is_ambient: false, key: Some(key), once: None, confirm: Confirm::Never }
    }

    /// Lets the credential work once: it is marked as used when a session or a token is about to be given for it.
    #[must_use]
    pub fn once(self, once: Once) -> Self {
        Self { once: Some(once), ..self }
    }

    /// Lets it count only once a person has said that they mean it.
    #[must_use]
    pub fn confirmed(self, confirm: Confirm) -> Self {
        Self { confirm, ..self }
    }

    /// Returns whether a person must say that they mean it.
    #[must_use]
    pub const fn confirm(&self) -> Confirm {
        self.confirm
    }

    /// Returns what must be marked as used.
    #[must_use]
    pub const fn spends(&self) -> Option<&Once> {
        self.once.as_ref()
    }

    /// Returns the caller without what it chose.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Tells whether the credential travels by itself with whatever request a browser makes: then other pages must be kept out.
    #[must_use]
    pub const fn is_ambient(&self) -> bool {
        self.is_ambient
    }

    /// Tells whether a server's key proves the caller: it names the account that it wants.
    #[must_use]
    pub const fn is_key(&self) -> bool {
        self.key.is_some()
    }

    /// Returns the caller with the claims that its own choice makes, or nothing if it chose what it may not.
    #[must_use]
    pub fn choose(self, wish: &Requested) -> Option<Principal> {
        match self.key {
            Some(key) => key.choose(self.principal, wish),
            None => Some(self.principal),
        }
    }
}

/// One configured method.
#[derive(Debug)]
pub struct Method {
    kind: Kind,
    ignore_cookies: bool,
}

/// The kinds of methods.
#[derive(Debug)]
pub enum Kind {
    /// The app is asked.
    App(App),
    /// A key of ours is compared.
    Key(Rc<Key>),
    /// A proxy before us is believed.
    Header(Header),
    /// A certificate is read.
    Mtls(Mtls),
    /// A signed link is checked.
    Link(Link),
    /// The signature of a token is checked.
    Jwt(Jwt),
    /// A person has logged in at an identity provider.
    Oidc(Rc<Oidc>),
}

impl Method {
    /// Makes a method. With `ignore_cookies`, a request that shows its credential is judged by that, whatever cookies
    /// come along.
    #[must_use]
    pub const fn new(kind: Kind, ignore_cookies: bool) -> Self {
        Self { kind, ignore_cookies }
    }
}
