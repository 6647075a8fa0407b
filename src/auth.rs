//! Floor 5: who is calling?
//!
//! A method looks for its own kind of credential. None there: it abstains. One there: it admits or refuses, and a
//! refusal is final, because a bad credential must never be outvoted by another.

mod app;
mod bearer;
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

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use self::bearer::Bearer;
use self::jwt::Found;

pub use self::app::{App, AppError};
pub use self::header::Header;
pub use self::jwks::{Jwks, fetch_once};
pub use self::jwt::{Jwt, KeySource};
pub use self::key::Key;
pub use self::link::Link;
pub use self::mtls::Mtls;
pub use self::oidc::{
    CALLBACK, Callback, Oidc, OidcError, Provider, SealKey, forget_all, forget_attempt, forget_login, forget_oldest,
};
use crate::config::{Confirm, TokenPlace};
use crate::message::origin::Origin;
use crate::model::grant::Wish;
use crate::model::principal::Principal;
use crate::observe::metrics::{self, Tally};
use crate::tls::server::Authority;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Who signed it.
    pub authority: Option<&'a Authority>,
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

/// The methods in the order they are asked.
#[derive(Debug)]
pub struct Chain {
    methods: Vec<Method>,
    /// Fields that only believed proxies may send.
    apart: Rc<[HeaderName]>,
    tally: Tally,
}

/// One credential that a request shows, and whoever judges it.
enum Shown<'c, 'a> {
    App(&'c App),
    Bearer(Bearer<'a>),
    Header(&'c Header),
    Mtls(&'c Mtls),
    Token(&'c TokenPlace, Found<'a>),
    /// The query of a signed link.
    Link(&'a str),
    Oidc(Principal),
}

impl Shown<'_, '_> {
    const fn counted(&self) -> metrics::Method {
        match self {
            Self::App(_) => metrics::Method::App,
            Self::Bearer(_) => metrics::Method::Key,
            Self::Oidc(_) => metrics::Method::Oidc,
            Self::Header(_) => metrics::Method::Header,
            Self::Mtls(_) => metrics::Method::Mtls,
            Self::Token(..) => metrics::Method::Jwt,
            Self::Link(_) => metrics::Method::Link,
        }
    }

    /// Tells whether a method judges it.
    fn is_for(&self, method: &Method) -> bool {
        match (self, &method.kind) {
            (Self::App(shown), Kind::App(app)) => std::ptr::eq(*shown, app),
            (Self::Bearer(_), Kind::Key(_)) | (Self::Link(_), Kind::Link(_)) => true,
            (Self::Token(place, _), Kind::Jwt(jwt)) => jwt.place() == *place,
            (Self::Header(shown), Kind::Header(header)) => std::ptr::eq(*shown, header),
            (Self::Mtls(shown), Kind::Mtls(mtls)) => std::ptr::eq(*shown, mtls),
            _ => false,
        }
    }

    /// Tells whether it is one of the cookies that a browser sends along without being asked.
    const fn is_cookie(&self) -> bool {
        match self {
            Self::App(_) | Self::Oidc(_) | Self::Token(TokenPlace::Cookie(_), _) => true,
            Self::Bearer(_) | Self::Token(..) | Self::Header(_) | Self::Mtls(_) | Self::Link(_) => false,
        }
    }
}

impl Chain {
    /// Makes a chain of methods.
    #[must_use]
    pub fn new(methods: Vec<Method>, tally: Tally) -> Self {
        let headers = methods.iter().filter_map(|method| match &method.kind {
            Kind::Header(header) => Some(header),
            _ => None,
        });
        let apart = headers.flat_map(Header::fields).cloned().collect();
        Self { methods, apart, tally }
    }

    /// Asks who is calling. Two credentials at once are refused: nobody could tell which of them is meant.
    ///
    /// # Errors
    /// When whoever must be asked gives no answer.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Verdict, Error> {
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

    /// Names the kinds of credentials that a request shows.
    #[must_use]
    pub fn shows(&self, ask: &Ask<'_>) -> Vec<String> {
        self.shown(ask).iter().map(|shown| shown.counted().name().to_owned()).collect()
    }

    /// Finds what the request shows. All keys are one kind of credential: the key that was shown fits one of them or
    /// none. So are all tokens in one place. Each app method is a kind of its own.
    fn shown<'c, 'a>(&'c self, ask: &Ask<'a>) -> Vec<Shown<'c, 'a>> {
        let mut ignore_cookies = false;
        let mut shown: Vec<_> = self.bearer(ask).into_iter().chain(self.link(ask)).collect();
        for method in &self.methods {
            let found = match &method.kind {
                Kind::App(app) => app.finds_credential(ask.headers).then_some(Shown::App(app)),
                Kind::Oidc(oidc) => oidc.remembers(ask.headers, ask.host).map(Shown::Oidc),
                Kind::Header(header) => header.finds_credential(ask).then_some(Shown::Header(header)),
                Kind::Mtls(mtls) => mtls.finds_credential(ask).then_some(Shown::Mtls(mtls)),
                Kind::Jwt(jwt) if !shows(&shown, jwt.place()) => {
                    jwt::find(jwt.place(), ask).map(|found| Shown::Token(jwt.place(), found))
                }
                // Found above.
                Kind::Key(_) | Kind::Jwt(_) | Kind::Link(_) => None,
            };
            shown.extend(found);
            ignore_cookies |= method.ignore_cookies && shown.iter().any(|shown| shown.is_for(method));
        }
        shown.retain(|shown| !(ignore_cookies && shown.is_cookie()));
        shown
    }

    /// Finds what is behind `Authorization: Bearer`: a token or a key, by its form where both are possible.
    fn bearer<'c, 'a>(&'c self, ask: &Ask<'a>) -> Option<Shown<'c, 'a>> {
        let (has_keys, place) = (self.keys().next().is_some(), &TokenPlace::Bearer);
        let has_tokens = self.tokens(place).next().is_some();
        match bearer::of(ask.headers)? {
            Bearer::Shown(text) if has_tokens && (!has_keys || jwt::is_token(text)) => {
                Some(Shown::Token(place, Found::Token(text.into())))
            }
            bearer if has_keys || has_tokens => Some(Shown::Bearer(bearer)),
            _ => None,
        }
    }

    /// Finds a signed link. All are one kind of credential: the key of a link is one of one method, or of none.
    fn link<'c, 'a>(&'c self, ask: &Ask<'a>) -> Option<Shown<'c, 'a>> {
        self.links().next()?;
        link::find(ask).map(Shown::Link)
    }

    async fn judge(&self, shown: &Shown<'_, '_>, ask: &Ask<'_>) -> Result<Verdict, Error> {
        match shown {
            Shown::Header(header) => Ok(header.judge(ask)),
            Shown::Mtls(mtls) => Ok(mtls.judge(ask, Timestamp::now())),
            Shown::App(app) => Ok(app.ask(ask).await?),
            Shown::Token(_, Found::Malformed(problem)) => Ok(Verdict::refuse("jwt", *problem)),
            Shown::Token(place, Found::Token(text)) => jwt::judge(self.tokens(place), text).await,
            Shown::Link(query) => Ok(link::judge(self.links(), ask, query)),
            Shown::Bearer(Bearer::Malformed) => Ok(Verdict::refuse("bearer", "the bearer credential is malformed")),
            Shown::Bearer(Bearer::Shown(shown)) => Ok(key::judge(self.keys(), shown, ask)),
            Shown::Oidc(principal) => Ok(Oidc::admit(principal)),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &Rc<Key>> {
        self.methods.iter().filter_map(|method| match &method.kind {
            Kind::Key(key) => Some(key),
            _ => None,
        })
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        self.methods.iter().filter_map(|method| match &method.kind {
            Kind::Link(link) => Some(link),
            _ => None,
        })
    }

    /// Returns the providers at which people can log in.
    pub fn providers(&self) -> impl Iterator<Item = &Rc<Oidc>> {
        self.methods.iter().filter_map(|method| match &method.kind {
            Kind::Oidc(oidc) => Some(oidc),
            _ => None,
        })
    }

    fn tokens<'c>(&'c self, place: &TokenPlace) -> impl Iterator<Item = &'c Jwt> {
        self.methods.iter().filter_map(move |method| match &method.kind {
            Kind::Jwt(jwt) if jwt.place() == place => Some(jwt),
            _ => None,
        })
    }

    /// Returns the fields that only believed proxies may send, in any spelling.
    #[must_use]
    pub const fn apart(&self) -> &Rc<[HeaderName]> {
        &self.apart
    }

    /// Returns which of these fields an upstream may hear, with what they say. `peer`: the other end of the connection.
    #[must_use]
    pub fn vouched(&self, headers: &HeaderMap, peer: IpAddr) -> Vec<(HeaderName, HeaderValue)> {
        let believed = self.methods.iter().filter_map(|method| match &method.kind {
            Kind::Header(header) => Some(header).filter(|header| header.vouches(headers, peer)),
            _ => None,
        });
        believed.flat_map(|header| header.told(headers)).collect()
    }
}

fn shows(shown: &[Shown<'_, '_>], place: &TokenPlace) -> bool {
    shown.iter().any(|shown| matches!(shown, Shown::Token(known, _) if *known == place))
}

const fn counted(verdict: &Result<Verdict, Error>) -> metrics::Verdict {
    match verdict {
        Ok(Verdict::Admit(_)) => metrics::Verdict::Admit,
        Ok(Verdict::Refuse(_)) => metrics::Verdict::Refuse,
        Ok(Verdict::Stranger) => metrics::Verdict::Stranger,
        Ok(Verdict::Abstain) => metrics::Verdict::Abstain,
        Err(_) => metrics::Verdict::Error,
    }
}
