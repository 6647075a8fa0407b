//! Method `jwt`: a token that somebody has signed whom the operator believes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use serde_json::Value;

use super::jwks::Jwks;
use super::{Ask, Error, Once, Proof, Verdict, claims};
use crate::config::{self, TokenLocation};
use crate::message::cookies;
use crate::model::jwt::{MAX_TOKEN, TokenError, UnverifiedToken, VerificationKeys, VerifiedToken};
use crate::model::principal::{Claim, Principal};

/// How long a token in an address may be good.
const MAX_LIFE_IN_QUERY: Duration = Duration::from_secs(15 * 60);

/// One method of the configuration.
#[derive(Debug)]
pub struct Jwt {
    name: String,
    settings: config::JwtConfig,
    keys: KeySource,
}

/// Where the keys are.
#[derive(Debug)]
pub enum KeySource {
    /// Here.
    Fixed(Arc<VerificationKeys>),
    /// Fetched from time to time.
    Fetched(Arc<Jwks>),
}

/// What a request shows in one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A token, perhaps.
    Token(Cow<'a, [u8]>),
    /// Nothing that could be one.
    Malformed(&'static str),
}

/// Tells whether a bearer credential has the form of a token, so that it is no key.
pub(super) fn is_token(shown: &[u8]) -> bool {
    shown.iter().filter(|byte| **byte == b'.').count() == 2
}

/// Finds what a request shows in a place that is not `Authorization`.
pub(super) fn find<'a>(place: &TokenLocation, ask: &Ask<'a>) -> Option<Found<'a>> {
    match place {
        TokenLocation::Bearer => None,
        TokenLocation::Header(name) => only(field(ask.headers, name)),
        TokenLocation::Cookie(name) => only(cookie(ask.headers, name)),
        TokenLocation::Query(name) => {
            let pairs = form_urlencoded::parse(ask.query?.as_bytes()).filter(|(found, _)| found == name);
            only(pairs.map(|(_, value)| Cow::Owned(value.into_owned().into_bytes())))
        }
    }
}

fn field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Cow<'a, [u8]>> {
    headers.get_all(name).into_iter().map(|line| Cow::Borrowed(line.as_bytes()))
}

/// Returns the values of a cookie. One without a value is left over from a logout.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let found = cookies::pairs(headers).map(cookies::split).filter(move |(known, _)| *known == name.as_bytes());
    found.map(|(_, value)| value).filter(|value| !value.is_empty()).map(Cow::Borrowed)
}

fn only<'a>(mut found: impl Iterator<Item = Cow<'a, [u8]>>) -> Option<Found<'a>> {
    let first = found.next()?;
    Some(match found.next() {
        Some(_) => Found::Malformed("the token was sent more than once"),
        None if first.len() > MAX_TOKEN => Found::Malformed("the token is longer than 8 KiB"),
        None => Found::Token(first),
    })
}

/// Judges a token against the methods of its place. Its issuer says which of them is asked, and has no other say.
pub(super) async fn judge<'m>(methods: impl Iterator<Item = &'m Jwt>, text: &[u8]) -> Result<Verdict, Error> {
    let methods: Vec<_> = methods.collect();
    let refuse = |name: &str, reason| Ok(Verdict::refuse(name, reason));
    let token = match UnverifiedToken::read(text) {
        Ok(token) => token,
        Err(bad) => return refuse("jwt", bad.reason()),
    };
    let method = match methods.as_slice() {
        [only] => Some(only),
        all => all.iter().find(|method| method.believes(token.alleged_issuer())),
    };
    match method {
        Some(method) => method.judge(&token).await,
        None => refuse("jwt", "its issuer is none that is believed"),
    }
}

impl Jwt {
    /// Prepares a method.
    #[must_use]
    pub const fn new(name: String, settings: config::JwtConfig, keys: KeySource) -> Self {
        Self { name, settings, keys }
    }

    pub(super) const fn place(&self) -> &TokenLocation {
        &self.settings.location
    }

    pub(super) const fn is_ambient(&self) -> bool {
        self.settings.is_ambient
    }

    fn believes(&self, issuer: Option<&str>) -> bool {
        let issuers = self.settings.rules.issuers.as_deref().unwrap_or_default();
        issuer.is_some_and(|issuer| issuers.iter().any(|believed| believed == issuer))
    }

    async fn judge(&self, token: &UnverifiedToken<'_>) -> Result<Verdict, Error> {
        match self.prove(token).await? {
            Ok(proven) => Ok(self.admit(&proven)),
            Err(bad @ TokenError::Unfit(_)) => Ok(self.reject(bad.reason())),
            Err(bad) => Ok(Verdict::refuse(self.name.clone(), bad.reason())),
        }
    }

    /// Finds out what a token proves. If its key is not known, it may be so new that it must be fetched first.
    async fn prove(&self, token: &UnverifiedToken<'_>) -> Result<Result<VerifiedToken, TokenError>, Error> {
        let prove = |keys: &VerificationKeys| token.prove(keys, &self.settings.rules, now());
        let jwks = match &self.keys {
            KeySource::Fixed(keys) => return Ok(prove(keys)),
            KeySource::Fetched(jwks) => jwks,
        };
        let mut look = jwks.look();
        let known = look.keys().map(|keys| prove(&keys));
        if let Some(judged @ (Ok(_) | Err(TokenError::Refused(_) | TokenError::Unfit(_)))) = known {
            return Ok(judged);
        }
        match look.newer().await {
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
        match self.once(proven) {
            Ok(once) => Verdict::Admit(proof.once(once)),
            Err(reason) => self.reject(reason),
        }
    }

    /// Says what is marked as used: an address is in histories and logs, so a token in it works once, and not for long.
    fn once(&self, proven: &VerifiedToken) -> Result<Once, &'static str> {
        let id = proven.claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty());
        let id = id.ok_or("it has no jti, which a token in an address needs")?;
        if proven.until - now() > (MAX_LIFE_IN_QUERY + self.settings.rules.leeway).as_secs_f64() {
            return Err("it is good for more than 15 min, too long for a token in an address");
        }
        // Ids are unique for their issuer (RFC 7519 §4.1.7).
        let issuer = proven.claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let until = Timestamp::from_second(proven.until.ceil() as i64).map_err(|_| "its exp is no time")?;
        Ok(Once { scope: format!("jwt {issuer}"), id: id.as_bytes().to_vec(), until })
    }

    /// Refuses a token that somebody with the key has signed.
    fn reject(&self, reason: &'static str) -> Verdict {
        Verdict::reject(self.name.clone(), reason)
    }
}

fn now() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}
