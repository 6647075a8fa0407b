//! Method `jwt`: a token that an issuer signed which the operator trusts.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use serde_json::Value;

use super::bearer::{self, Bearer};
use super::credentials::{Credentials, Shown};
use super::jwks::Jwks;
use super::{AuthRequest, Error, Proof, SingleUse, Verdict, claims};
use crate::config::{JwtConfig, TokenLocation};
use crate::message::cookies;
use crate::model::jwt::{MAX_TOKEN, TokenError, UnverifiedToken, VerificationKeys, VerifiedToken};
use crate::model::principal::{Claim, Principal};
use crate::observe::metrics;

/// The longest life of a token in an address.
const MAX_LIFE_IN_QUERY: Duration = Duration::from_secs(15 * 60);

/// All methods whose tokens stand at one location of a request.
#[derive(Debug)]
pub(super) struct Tokens {
    location: TokenLocation,
    methods: Vec<JwtMethod>,
    /// `Authorization: Bearer` may carry a key too.
    shares_bearer: bool,
}

/// One method.
#[derive(Debug)]
pub(super) struct JwtMethod {
    name: String,
    settings: JwtConfig,
    keys: KeySource,
}

/// The source of the keys that verify tokens.
#[derive(Debug)]
pub(super) enum KeySource {
    /// Keys of the configuration.
    Fixed(Arc<VerificationKeys>),
    /// Keys that are fetched again and again.
    Fetched(Arc<Jwks>),
}

impl Tokens {
    pub(super) fn of(method: JwtMethod) -> Self {
        Self { location: method.settings.location.clone(), methods: vec![method], shares_bearer: false }
    }

    pub(super) fn is_at_location_of(&self, other: &Self) -> bool {
        self.location == other.location
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.methods.extend(more.methods);
    }

    pub(super) fn are_bearer(&self) -> bool {
        self.location == TokenLocation::Bearer
    }

    /// Takes only those bearer credentials that have the form of a token.
    pub(super) const fn share_bearer(&mut self) {
        self.shares_bearer = true;
    }

    fn find_bearer<'a>(&self, headers: &'a HeaderMap) -> Option<Shown<'a>> {
        match bearer::of(headers)? {
            bearer if self.shares_bearer && !bearer.is_token() => None,
            Bearer::Shown(text) => Some(Shown::Text(Cow::Borrowed(text))),
            Bearer::Malformed => Some(Shown::Malformed(bearer::MALFORMED)),
        }
    }

    /// Judges a token by the method that trusts its issuer. Nothing else of the unverified token decides.
    async fn judge_token(&self, text: &[u8]) -> Result<Verdict, Error> {
        let token = match UnverifiedToken::read(text) {
            Ok(token) => token,
            Err(error) => return Ok(Verdict::refuse("jwt", error.reason())),
        };
        let method = match self.methods.as_slice() {
            [only] => Some(only),
            all => all.iter().find(|method| method.trusts(token.alleged_issuer())),
        };
        match method {
            Some(method) => method.judge(&token).await,
            None => Ok(Verdict::refuse("jwt", "no method trusts its issuer")),
        }
    }
}

impl Credentials for Tokens {
    fn label(&self) -> metrics::CountedMethod {
        metrics::CountedMethod::Jwt
    }

    fn find<'a>(&self, request: &AuthRequest<'a>) -> Option<Shown<'a>> {
        match &self.location {
            TokenLocation::Bearer => self.find_bearer(request.headers),
            TokenLocation::Header(name) => only(field(request.headers, name)),
            TokenLocation::Cookie(name) => only(cookie(request.headers, name)),
            TokenLocation::Query(name) => {
                let pairs = form_urlencoded::parse(request.query?.as_bytes()).filter(|(found, _)| found == name);
                only(pairs.map(|(_, value)| Cow::Owned(value.into_owned().into_bytes())))
            }
        }
    }

    async fn judge(&self, shown: &Shown<'_>, _request: &AuthRequest<'_>) -> Result<Verdict, Error> {
        match shown {
            Shown::Text(text) => {
                let verdict = self.judge_token(text).await?;
                Ok(if self.is_cookie() { verdict.in_a_cookie() } else { verdict })
            }
            Shown::Malformed(problem) => {
                Ok(Verdict::reject(if self.are_bearer() { "bearer" } else { "jwt" }, *problem))
            }
            Shown::Remembered(_) | Shown::InRequest => Ok(Verdict::Abstain),
        }
    }

    fn is_cookie(&self) -> bool {
        matches!(self.location, TokenLocation::Cookie(_))
    }
}

fn field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Cow<'a, [u8]>> {
    headers.get_all(name).into_iter().map(|line| Cow::Borrowed(line.as_bytes()))
}

/// Returns the values of a cookie. An empty value is left over from a logout.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let found = cookies::pairs(headers).map(cookies::split).filter(move |(known, _)| *known == name.as_bytes());
    found.map(|(_, value)| value).filter(|value| !value.is_empty()).map(Cow::Borrowed)
}

/// Takes the value that stands at a location once.
fn only<'a>(mut found: impl Iterator<Item = Cow<'a, [u8]>>) -> Option<Shown<'a>> {
    let first = found.next()?;
    Some(match found.next() {
        Some(_) => Shown::Malformed("the token was sent more than once"),
        None if first.len() > MAX_TOKEN => Shown::Malformed("the token is longer than 8 KiB"),
        None => Shown::Text(first),
    })
}

impl JwtMethod {
    pub(super) const fn new(name: String, settings: JwtConfig, keys: KeySource) -> Self {
        Self { name, settings, keys }
    }

    fn trusts(&self, issuer: Option<&str>) -> bool {
        let issuers = self.settings.rules.issuers.as_deref().unwrap_or_default();
        issuer.is_some_and(|issuer| issuers.iter().any(|trusted| trusted == issuer))
    }

    async fn judge(&self, token: &UnverifiedToken<'_>) -> Result<Verdict, Error> {
        match self.prove(token).await? {
            Ok(proven) => Ok(self.admit(&proven)),
            Err(bad @ TokenError::Unfit(_)) => Ok(self.reject(bad.reason())),
            Err(bad) => Ok(Verdict::refuse(self.name.clone(), bad.reason())),
        }
    }

    /// Verifies a token. A key that is not known may be new: then the keys are fetched once more.
    async fn prove(&self, token: &UnverifiedToken<'_>) -> Result<Result<VerifiedToken, TokenError>, Error> {
        let prove = |keys: &VerificationKeys| token.prove(keys, &self.settings.rules, now());
        let jwks = match &self.keys {
            KeySource::Fixed(keys) => return Ok(prove(keys)),
            KeySource::Fetched(jwks) => jwks,
        };
        let mut view = jwks.view();
        let known = view.keys().map(|keys| prove(&keys));
        if let Some(judged @ (Ok(_) | Err(TokenError::Refused(_) | TokenError::Unfit(_)))) = known {
            return Ok(judged);
        }
        match view.newer().await {
            Some(keys) => Ok(prove(&keys)),
            None => known.ok_or_else(|| Error::Keys(self.name.clone())),
        }
    }

    fn admit(&self, proven: &VerifiedToken) -> Verdict {
        let claims = claims::of(&proven.claims);
        let subject = match &self.settings.subject {
            Some(name) => claims.get(name).and_then(Claim::text).unwrap_or_default().to_lowercase(),
            None => claims::subject(&claims),
        };
        if subject.is_empty() {
            return self.reject("the token does not say who it is for");
        }
        let principal = Principal { method: self.name.clone(), subject, claims };
        let proof = match self.settings.is_ambient {
            true => Proof::ambient(principal),
            false => Proof::deliberate(principal),
        };
        if !matches!(self.settings.location, TokenLocation::Query(_)) {
            return Verdict::Admit(proof);
        }
        match self.single_use(proven) {
            Ok(single_use) => Verdict::Admit(proof.once(single_use)),
            Err(reason) => self.reject(reason),
        }
    }

    /// Returns the mark of a token in an address. Addresses are kept in histories and logs, so such a token works once and
    /// lives for at most [`MAX_LIFE_IN_QUERY`].
    fn single_use(&self, proven: &VerifiedToken) -> Result<SingleUse, &'static str> {
        let id = proven.claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty());
        let id = id.ok_or("it has no jti, which a token in an address needs")?;
        if proven.until - now() > (MAX_LIFE_IN_QUERY + self.settings.rules.leeway).as_secs_f64() {
            return Err("it is good for more than 15 min, too long for a token in an address");
        }
        // Ids are unique within their issuer (RFC 7519 §4.1.7).
        let issuer = proven.claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let until = Timestamp::from_second(proven.until.ceil() as i64).map_err(|_| "its exp is no time")?;
        Ok(SingleUse { scope: format!("jwt {issuer}"), id: id.as_bytes().to_vec(), until })
    }

    /// Refuses a token with a valid signature.
    fn reject(&self, reason: &'static str) -> Verdict {
        Verdict::reject(self.name.clone(), reason)
    }
}

fn now() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}
