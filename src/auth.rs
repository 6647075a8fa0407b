//! Floor 5: who is calling?
//!
//! A method looks for its own kind of credential. None there: it abstains. One there: it admits or refuses, and a
//! refusal is final, because a bad credential must never be outvoted by another.

mod app;
mod bearer;
mod claims;
mod key;
mod oidc;

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderValue};
use rustls::pki_types::CertificateDer;

use self::bearer::Bearer;

pub use self::app::{App, AppError};
pub use self::key::Key;
pub use self::oidc::{
    CALLBACK, Callback, Oidc, OidcError, Provider, SealKey, forget_all, forget_attempt, forget_login, forget_oldest,
};
use crate::message::origin::Origin;
use crate::model::grant::Wish;
use crate::model::principal::Principal;
use crate::observe::metrics::{self, Tally};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A session of the PBX.
    Pbx,
    /// An answer to a Voximplant key.
    Ott,
}

/// What a method may look at.
#[derive(Debug)]
pub struct Ask<'a> {
    /// What the caller wants.
    pub act: Act,
    /// The request's fields, before anything was taken from them.
    pub headers: &'a HeaderMap,
    /// The query of a request to a login endpoint, as it was sent; nothing elsewhere.
    pub query: Option<&'a str>,
    /// The authority the request is for.
    pub host: &'a HeaderValue,
    /// Who the request is from.
    pub origin: &'a Origin,
    /// The other end of the connection: the client, or a proxy before us.
    pub peer: IpAddr,
    /// The certificate that the other end showed and its handshake verified.
    pub certificate: Option<&'a CertificateDer<'static>>,
    /// The request's id, told to the app.
    pub id: HeaderValue,
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

/// A credential that is bad, for the audit log and the operator alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The method that refused it, by its name, or by its type where several of one type have a say; none: the chain.
    pub method: Option<String>,
    /// Why. Never the credential itself.
    pub reason: Cow<'static, str>,
}

impl Verdict {
    /// Refuses a credential in the name of a method.
    pub fn refuse(method: impl Into<String>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refuse(Refused { method: Some(method.into()), reason: reason.into() })
    }
}

/// A proven caller, and how the proof lets it choose.
#[derive(Debug)]
pub struct Proof {
    principal: Principal,
    is_ambient: bool,
    /// A key may name accounts within its lists.
    key: Option<Rc<Key>>,
}

impl Proof {
    /// Vouches for a caller by what its browser sends with every request, whoever made it do so: a cookie, a
    /// certificate, the login at a proxy before us.
    #[must_use]
    pub const fn ambient(principal: Principal) -> Self {
        Self { principal, is_ambient: true, key: None }
    }

    /// Vouches for a caller by what only a request carries that is meant as a login.
    #[must_use]
    pub const fn deliberate(principal: Principal) -> Self {
        Self { principal, is_ambient: false, key: None }
    }

    /// Vouches for a server that names whom it asks for.
    const fn by_key(principal: Principal, key: Rc<Key>) -> Self {
        Self { principal, is_ambient: false, key: Some(key) }
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

    /// Returns the caller with the claims that its own choice makes, or nothing if it chose what it may not.
    #[must_use]
    pub fn choose(self, wish: &Wish) -> Option<Principal> {
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

/// The methods in the order they are asked.
#[derive(Debug)]
pub struct Chain {
    methods: Vec<Method>,
    tally: Tally,
}

/// One credential that a request shows, and whoever judges it.
enum Shown<'c, 'a> {
    App(&'c App),
    Bearer(Bearer<'a>),
    Oidc(Principal),
}

impl Shown<'_, '_> {
    const fn counted(&self) -> metrics::Method {
        match self {
            Self::App(_) => metrics::Method::App,
            Self::Bearer(_) => metrics::Method::Key,
            Self::Oidc(_) => metrics::Method::Oidc,
        }
    }

    /// Tells whether it is one of the cookies that a browser sends along without being asked.
    const fn is_cookie(&self) -> bool {
        match self {
            Self::App(_) | Self::Oidc(_) => true,
            Self::Bearer(_) => false,
        }
    }
}

impl Chain {
    /// Makes a chain of methods.
    #[must_use]
    pub const fn new(methods: Vec<Method>, tally: Tally) -> Self {
        Self { methods, tally }
    }

    /// Asks who is calling. Two credentials at once are refused: nobody could tell which of them is meant.
    ///
    /// # Errors
    /// When the app that must be asked gives no answer.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Verdict, AppError> {
        let shown = self.shown(ask);
        let (method, verdict) = match shown.as_slice() {
            [] => (metrics::Method::None, Ok(Verdict::Abstain)),
            [shown] => (shown.counted(), self.judge(shown, ask).await),
            _ => {
                let refused = Refused { method: None, reason: "more than one credential".into() };
                (metrics::Method::Several, Ok(Verdict::Refuse(refused)))
            }
        };
        self.tally.verdict(method, counted(&verdict));
        verdict
    }

    /// Finds what the request shows. All keys are one kind of credential: the key that was shown fits one of them or
    /// none. Each app method is a kind of its own.
    fn shown<'c, 'a>(&'c self, ask: &Ask<'a>) -> Vec<Shown<'c, 'a>> {
        let bearer = bearer::of(ask.headers).filter(|_| self.keys().next().is_some());
        let mut ignore_cookies = false;
        let mut shown: Vec<_> = bearer.map(Shown::Bearer).into_iter().collect();
        for method in &self.methods {
            let found = match &method.kind {
                Kind::App(app) => app.finds_credential(ask.headers).then_some(Shown::App(app)),
                Kind::Oidc(oidc) => oidc.remembers(ask.headers, ask.host).map(Shown::Oidc),
                // Found above.
                Kind::Key(_) => {
                    ignore_cookies |= method.ignore_cookies && bearer.is_some();
                    None
                }
            };
            ignore_cookies |= method.ignore_cookies && found.is_some();
            shown.extend(found);
        }
        shown.retain(|shown| !(ignore_cookies && shown.is_cookie()));
        shown
    }

    async fn judge(&self, shown: &Shown<'_, '_>, ask: &Ask<'_>) -> Result<Verdict, AppError> {
        match shown {
            Shown::App(app) => app.ask(ask).await,
            Shown::Bearer(Bearer::Malformed) => Ok(Verdict::refuse("bearer", "the bearer credential is malformed")),
            Shown::Bearer(Bearer::Shown(shown)) => Ok(key::judge(self.keys(), shown, ask)),
            Shown::Oidc(principal) => Ok(Oidc::admit(principal)),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &Rc<Key>> {
        self.methods.iter().filter_map(|method| match &method.kind {
            Kind::Key(key) => Some(key),
            Kind::App(_) | Kind::Oidc(_) => None,
        })
    }

    /// Returns the providers at which people can log in.
    pub fn providers(&self) -> impl Iterator<Item = &Rc<Oidc>> {
        self.methods.iter().filter_map(|method| match &method.kind {
            Kind::Oidc(oidc) => Some(oidc),
            Kind::App(_) | Kind::Key(_) => None,
        })
    }
}

const fn counted(verdict: &Result<Verdict, AppError>) -> metrics::Verdict {
    match verdict {
        Ok(Verdict::Admit(_)) => metrics::Verdict::Admit,
        Ok(Verdict::Refuse(_)) => metrics::Verdict::Refuse,
        Ok(Verdict::Stranger) => metrics::Verdict::Stranger,
        Ok(Verdict::Abstain) => metrics::Verdict::Abstain,
        Err(_) => metrics::Verdict::Error,
    }
}
