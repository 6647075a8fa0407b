//! The chain of methods: which credential a request shows, and who judges it.

use std::net::IpAddr;
use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

use super::bearer::{self, Bearer};
use super::jwt::{self, Found, Jwt};
use super::key::{self, Key};
use super::link::{self, Link};
use super::oidc;
use super::{App, Ask, Error, Fault, Header, Kind, Method, Mtls, Oidc, Refused, Verdict};
use crate::config::TokenLocation;
use crate::model::digest::{Digest, sha256_of};
use crate::model::principal::Principal;
use crate::observe::metrics::{self, Tally};

/// The methods in the order they are asked.
#[derive(Debug)]
pub struct Chain {
    methods: Vec<Method>,
    /// Fields that only believed proxies may send, or nobody.
    apart: Rc<[HeaderName]>,
    tally: Tally,
}

/// What a request shows, as limits know it.
#[derive(Debug, Clone, Copy)]
pub struct Credential {
    /// Tells it from others.
    pub digest: Digest,
    /// Whether it is a cookie, which a browser goes on to send when it is good no more.
    pub is_cookie: bool,
}

/// One credential that a request shows, and whoever judges it.
enum Shown<'c, 'a> {
    App(&'c App),
    Bearer(Bearer<'a>),
    Header(&'c Header),
    Mtls(&'c Mtls),
    Token(&'c TokenLocation, Found<'a>),
    /// The query of a signed link.
    Link(&'a str),
    Oidc(Principal),
}

impl Shown<'_, '_> {
    const fn counted(&self) -> metrics::CountedMethod {
        match self {
            Self::App(_) => metrics::CountedMethod::App,
            Self::Bearer(_) => metrics::CountedMethod::Key,
            Self::Oidc(_) => metrics::CountedMethod::Oidc,
            Self::Header(_) => metrics::CountedMethod::Header,
            Self::Mtls(_) => metrics::CountedMethod::Mtls,
            Self::Token(..) => metrics::CountedMethod::Jwt,
            Self::Link(_) => metrics::CountedMethod::Link,
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

    /// Returns what makes it another credential than any other.
    fn parts(&self, ask: &Ask<'_>) -> Vec<Vec<u8>> {
        let mut parts = vec![self.counted().name().as_bytes().to_vec()];
        match self {
            Self::App(app) => parts.extend(app.credential(ask.headers)),
            Self::Bearer(Bearer::Shown(text)) => parts.push(text.to_vec()),
            Self::Token(_, Found::Token(text)) => parts.push(text.to_vec()),
            Self::Header(header) => {
                let values = header.fields().flat_map(|name| ask.headers.get_all(name));
                parts.extend(values.map(|value| value.as_bytes().to_vec()));
            }
            Self::Mtls(_) => parts.extend(ask.certificate.map(|certificate| certificate.to_vec())),
            Self::Link(query) => parts.push(query.as_bytes().to_vec()),
            Self::Oidc(_) => return vec![b"oidc".to_vec(), oidc::login_cookie(ask.headers)],
            Self::Bearer(Bearer::Malformed) | Self::Token(_, Found::Malformed(_)) => {}
        }
        parts
    }

    /// Tells whether it is one of the cookies that a browser sends along without being asked.
    const fn is_cookie(&self) -> bool {
        match self {
            Self::App(_) | Self::Oidc(_) | Self::Token(TokenLocation::Cookie(_), _) => true,
            Self::Bearer(_) | Self::Token(..) | Self::Header(_) | Self::Mtls(_) | Self::Link(_) => false,
        }
    }
}

impl Chain {
    /// Makes a chain of methods. `stripped`: more fields that no client may send to an upstream.
    #[must_use]
    pub fn new(methods: Vec<Method>, stripped: &[HeaderName], tally: Tally) -> Self {
        let headers = methods.iter().filter_map(|method| match &method.kind {
            Kind::Header(header) => Some(header),
            _ => None,
        });
        let apart = headers.flat_map(Header::fields).chain(stripped).cloned().collect();
        Self { methods, apart, tally }
    }

    /// Asks who is calling. Two credentials at once are refused: nobody could tell which of them is meant.
    ///
    /// # Errors
    /// When whoever must be asked gives no answer.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Verdict, Error> {
        let shown = self.shown(ask);
        let (method, verdict) = match shown.as_slice() {
            [] => (metrics::CountedMethod::None, Ok(Verdict::Abstain)),
            [shown] => (shown.counted(), self.judge(shown, ask).await),
            _ => {
                let refused =
                    Refused { method: None, reason: "more than one credential".into(), fault: Fault::NoGuess };
                (metrics::CountedMethod::Several, Ok(Verdict::Refuse(refused)))
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

    /// Returns all that a request shows, so that limits know it again; nothing where it shows nothing.
    #[must_use]
    pub fn credential(&self, ask: &Ask<'_>) -> Option<Credential> {
        let shown = self.shown(ask);
        let parts: Vec<_> = shown.iter().flat_map(|shown| shown.parts(ask)).collect();
        let is_cookie = shown.iter().all(Shown::is_cookie);
        (!shown.is_empty()).then(|| Credential { digest: sha256_of(parts.iter().map(Vec::as_slice)), is_cookie })
    }

    /// Tells whether a request shows what no page of another origin could make a browser send unasked: a field that needs
    /// a preflight (Fetch standard, "CORS-unsafe request-header names").
    #[must_use]
    pub fn shows_a_field_beyond_pages(&self, headers: &HeaderMap) -> bool {
        let mut tokens = self.methods.iter().filter_map(|method| match &method.kind {
            Kind::Jwt(jwt) => Some((jwt.place(), jwt.is_ambient())),
            _ => None,
        });
        // A proxy in between adds an ambient one to whatever a page asks for.
        let adds_bearer = tokens.clone().any(|(place, is_ambient)| is_ambient && *place == TokenLocation::Bearer);
        let is_set = |place: &TokenLocation| matches!(place, TokenLocation::Header(name) if headers.contains_key(name));
        (!adds_bearer && bearer::of(headers).is_some())
            || tokens.any(|(place, is_ambient)| !is_ambient && is_set(place))
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
        let (has_keys, place) = (self.keys().next().is_some(), &TokenLocation::Bearer);
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
            Shown::Token(_, Found::Malformed(problem)) => Ok(Verdict::reject("jwt", *problem)),
            Shown::Token(place, Found::Token(text)) => {
                let verdict = jwt::judge(self.tokens(place), text).await?;
                Ok(if shown.is_cookie() { verdict.in_a_cookie() } else { verdict })
            }
            Shown::Link(query) => Ok(link::judge(self.links(), ask, query)),
            Shown::Bearer(Bearer::Malformed) => Ok(Verdict::reject("bearer", "the bearer credential is malformed")),
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

    fn tokens<'c>(&'c self, place: &TokenLocation) -> impl Iterator<Item = &'c Jwt> {
        self.methods.iter().filter_map(move |method| match &method.kind {
            Kind::Jwt(jwt) if jwt.place() == place => Some(jwt),
            _ => None,
        })
    }

    /// Returns the fields that only believed proxies may send, or nobody, in any spelling.
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

fn shows(shown: &[Shown<'_, '_>], place: &TokenLocation) -> bool {
    shown.iter().any(|shown| matches!(shown, Shown::Token(known, _) if *known == place))
}

const fn counted(verdict: &Result<Verdict, Error>) -> metrics::CountedVerdict {
    match verdict {
        Ok(Verdict::Admit(_)) => metrics::CountedVerdict::Admit,
        Ok(Verdict::Refuse(_)) => metrics::CountedVerdict::Refuse,
        Ok(Verdict::Stranger) => metrics::CountedVerdict::Stranger,
        Ok(Verdict::Abstain) => metrics::CountedVerdict::Abstain,
        Err(_) => metrics::CountedVerdict::Error,
    }
}
